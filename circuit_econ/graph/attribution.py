"""JSON of attribution tools: EAP-IG (also of the MIB benchmark) and Neuronpedia."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from circuit_econ.graph.plain import Graph, plain_graph
from circuit_econ.graph.text import dump
from circuit_econ.tables import Kind, component_key

__all__ = ["write_eap_ig", "write_neuronpedia"]

_TYPES = {
    Kind.EMBED: "embedding",
    Kind.POS: "embedding",
    Kind.HEAD: "attention head",
    Kind.MLP: "mlp",
    Kind.LOGITS: "logit",
}


def write_eap_ig(graph: Graph, path: Path, minimum: float) -> None:
    """Write the JSON of EAP-IG's ``Graph.from_json``.

    ``embed`` and ``pos`` are one node there, ``input``; what a q/k norm's scale buys is counted
    with ``q`` and ``k``. Scores that meet in an edge are added. Every edge is written; ``in_graph``
    are those with |score| ≥ ``minimum``, and the nodes at their ends. A score is the flow, else
    the exact effect; edges without either are left out. ``d_model`` is 1, as components are not
    split further: it sizes masks of single neurons alone.

    The reader passes over what it does not know: ``integration_error`` of edges (that of their
    flows, added up) and ``graph``, the attributes of the graph.
    """
    found = plain_graph(graph)
    scores: dict[tuple[str, str], float] = defaultdict(float)
    errors: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for supplier, buyer, port, data in found.edges(keys=True, data=True):
        score = data.get("flow", data.get("effect"))
        if score is not None:
            suffix = f"<{port[0]}>" if found.nodes[buyer].get("kind") == Kind.HEAD else ""
            ends = _input(supplier), buyer + suffix
            scores[ends] += score
            _add_error(errors[ends], data)
    kept = [ends for ends, score in scores.items() if abs(score) >= minimum]
    used = {name.partition("<")[0] for ends in kept for name in ends} | {"input", str(Kind.LOGITS)}
    names = dict.fromkeys(["input", *(_input(node) for node in found), str(Kind.LOGITS)])
    content = {
        "cfg": {
            "n_layers": 1 + _largest(found, "layer"),
            "n_heads": 1 + _largest(found, "head"),
            "parallel_attn_mlp": found.graph.get("parallel", False),
            "d_model": 1,
        },
        "nodes": {name: {"in_graph": name in used} for name in names},
        "edges": {
            "->".join(ends): {"score": score, "in_graph": abs(score) >= minimum, **errors[ends]}
            for ends, score in scores.items()
        },
        "graph": found.graph,
    }
    dump(content, path)


def _add_error(into: dict[str, float], data: dict[str, Any]) -> None:
    """Errors of integration are no matter of chance: they add."""
    if "integration_error" in data:
        into["integration_error"] = into.get("integration_error", 0.0) + data["integration_error"]


def _input(name: str) -> str:
    return "input" if name in (Kind.EMBED, Kind.POS) else name


def _largest(graph: Graph, name: str) -> int:
    return max((data.get(name, -1) for _, data in graph.nodes(data=True)), default=-1)


def write_neuronpedia(graph: Graph, path: Path, minimum: float) -> None:
    """Write Neuronpedia's attribution graph.

    Its nodes belong to a position of a prompt; ours are means over all positions, so there is one
    position, named so. Its links have no ports: a link's weight is the sum over ports of the flow
    (else the exact effect), and ``ports`` keeps the parts. ``activation`` is income where known.
    ``integration_error`` of a link is added up over ports, too; ``metadata.info.graph`` are the
    attributes of the graph.
    """
    found = plain_graph(graph, minimum)
    layers = 1 + _largest(found, "layer")
    ports: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    errors: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for supplier, buyer, port, data in found.edges(keys=True, data=True):
        weight = data.get("flow", data.get("effect"))
        if weight is not None:
            ports[supplier, buyer][port] = weight
            _add_error(errors[supplier, buyer], data)
    ids = {name: _node_id(found, name, layers) for name in found}
    about = " ".join(str(found.graph[key]) for key in ("name", "step") if key in found.graph)
    position = "(all positions)"
    content = {
        "metadata": {
            "slug": re.sub("[^0-9a-z]+", "-", about.lower()).strip("-") or "graph",
            "scan": found.graph.get("name", "circuit_econ"),
            "prompt_tokens": [position],
            "prompt": position,
            "info": {
                "description": about,
                "generator": {"name": "circuit_econ"},
                "graph": found.graph,
            },
            "pruning_settings": {"minimum": minimum},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": ""},
        "nodes": [
            _node(name, data, *ids[name]) for name, data in sorted(found.nodes(data=True), key=_key)
        ],
        "links": [
            {
                "source": _joined(ids[supplier]),
                "target": _joined(ids[buyer]),
                "weight": sum(parts.values()),
                "ports": parts,
                **errors[supplier, buyer],
            }
            for (supplier, buyer), parts in ports.items()
        ],
    }
    dump(content, path)


def _key(item: tuple[str, Any]) -> tuple[int, int, int, str]:
    return component_key(item[0])


def _node_id(graph: Graph, name: str, layers: int) -> tuple[str, int]:
    """Layer and number in it: heads first, then the MLP; embeddings in E, logits at the end."""
    data = graph.nodes[name]
    if name in (Kind.EMBED, Kind.POS):
        return "E", int(name == Kind.POS)
    heads = 1 + _largest(graph, "head")
    return str(data.get("layer", layers)), data.get("head", heads if "layer" in data else 0)


def _joined(place: tuple[str, int]) -> str:
    return f"{place[0]}_{place[1]}_0"


def _node(name: str, data: dict[str, Any], layer: str, number: int) -> dict[str, Any]:
    return {
        "node_id": _joined((layer, number)),
        "feature": number,
        "layer": layer,
        "ctx_idx": 0,
        "feature_type": _TYPES.get(data.get("kind", ""), "component"),
        "jsNodeId": f"{layer}_{number}-0",
        "clerp": name,
        "activation": data.get("income"),
        **{name: data[name] for name in ("integration_error",) if name in data},
    }

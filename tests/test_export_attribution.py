"""EAP-IG's and Neuronpedia's JSON against what their readers ask of it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import networkx as nx
import pytest
from traded import NAME, trading

import circuit_econ as ce
from circuit_econ.tables import head_name, mlp_name


def model(layers: int, heads: int, parallel: bool = False) -> nx.MultiDiGraph:
    """Everybody supplies everybody who comes later, each pair and port with its own flow."""
    graph = nx.MultiDiGraph(step=1, name=NAME, parallel=parallel)
    amounts = itertools.count(1)

    def add(suppliers: list[str], buyer: str, ports: str | list[str]) -> None:
        for supplier, port in itertools.product(suppliers, ports):
            flow = next(amounts) * (-1.0) ** len(supplier) / 64
            graph.add_edge(supplier, buyer, port, port=port, flow=flow, weight=abs(flow))

    graph.add_node("embed", kind="embed")
    graph.add_node("pos", kind="pos")
    written = ["embed", "pos"]
    for layer in range(layers):
        names = [head_name(layer, head) for head in range(heads)]
        for head, name in enumerate(names):
            graph.add_node(name, kind="head", layer=layer, head=head)
            add(written, name, ["q", "k", "v", "q_scale", "k_scale"])
        graph.add_node(mlp_name(layer), kind="mlp", layer=layer)
        add(written + ([] if parallel else names), mlp_name(layer), ["in"])
        written = [*written, *names, mlp_name(layer)]
    graph.add_node("logits", kind="logits")
    add(written, "logits", ["in"])
    return graph


def eap_ig_names(cfg: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Nodes and edges of EAP-IG's graph of a model: its reader refuses any other name."""
    stream, edges = ["input"], set[str]()
    for layer in range(cfg["n_layers"]):
        heads = [f"a{layer}.h{head}" for head in range(cfg["n_heads"])]
        edges |= {f"{s}->{h}<{p}>" for s, h, p in itertools.product(stream, heads, "qkv")}
        feeds = stream if cfg["parallel_attn_mlp"] else [*stream, *heads]
        edges |= {f"{s}->m{layer}" for s in feeds}
        stream = [*stream, *heads, f"m{layer}"]
    return {*stream, "logits"}, edges | {f"{s}->logits" for s in stream}


def exported(graph: nx.MultiDiGraph, folder: Path, format: str, minimum: float = 0.0) -> Any:
    (file,) = ce.export(graph, folder / "g.json", format, minimum)
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("parallel", [False, True])
def test_eap_ig_has_every_edge_under_its_name(tmp_path: Path, parallel: bool) -> None:
    found = exported(model(2, 3, parallel), tmp_path, "eap-ig")
    assert found["cfg"] == {
        "n_layers": 2, "n_heads": 3, "parallel_attn_mlp": parallel, "d_model": 1,
    }  # fmt: skip
    nodes, edges = eap_ig_names(found["cfg"])
    assert set(found["nodes"]) == nodes and set(found["edges"]) == edges
    assert all(set(node) == {"in_graph"} for node in found["nodes"].values())
    assert all(set(edge) == {"score", "in_graph"} for edge in found["edges"].values())
    assert all(
        each["in_graph"] is True for part in ("nodes", "edges") for each in found[part].values()
    )


def test_eap_ig_adds_what_meets_in_an_edge(tmp_path: Path) -> None:
    graph = model(2, 3)
    found = exported(graph, tmp_path, "eap-ig")["edges"]

    def flow(*ends: str) -> float:
        return graph.edges[ends]["flow"]

    assert found["a0.h1->a1.h2<q>"]["score"] == (
        flow("a0.h1", "a1.h2", "q") + flow("a0.h1", "a1.h2", "q_scale")
    )
    assert found["a0.h1->a1.h2<v>"]["score"] == flow("a0.h1", "a1.h2", "v")
    assert found["input->logits"]["score"] == (
        flow("embed", "logits", "in") + flow("pos", "logits", "in")
    )
    total = sum(data["flow"] for *_, data in graph.edges(data=True))
    assert sum(edge["score"] for edge in found.values()) == total  # sums of 64ths: exact


def test_eap_ig_keeps_small_edges_outside_the_circuit(tmp_path: Path) -> None:
    found = exported(ce.composition_graph(trading(tmp_path), 10), tmp_path, "eap-ig", 0.5)
    kept = {name for name, edge in found["edges"].items() if edge["in_graph"]}
    assert kept == {"a0.h0->a1.h0<k>", "a1.h0->logits"}
    assert found["edges"]["a0.h0->a1.h0<v>"] == {
        "score": -0.125, "in_graph": False, "integration_error": 0.125,
    }  # fmt: skip
    nodes = {name for name, node in found["nodes"].items() if node["in_graph"]}
    assert nodes == {"input", "a0.h0", "a1.h0", "logits"}
    assert set(found["nodes"]) == nodes | {"a0.h1", "m0"}
    # A static score alone is no flow: embed -> a0.h0 <q> is not there.
    assert "input->a0.h0<q>" not in found["edges"]
    assert found["cfg"]["parallel_attn_mlp"] is True


def test_both_tell_what_integrals_are_off_by(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path), 10)
    graph.add_edge("a0.h0", "a1.h0", "k_scale", port="k_scale", flow=0.5, integration_error=0.25)
    graph.add_edge("a0.h1", "m0", "in", port="in", effect=0.5)  # exact: nothing was integrated
    peer = exported(graph, tmp_path, "eap-ig")
    assert peer["edges"]["a0.h0->a1.h0<k>"]["integration_error"] == 0.125 + 0.25
    assert peer["edges"]["a0.h1->m0"] == {"score": 0.5, "in_graph": True}
    assert peer["graph"]["converged"] is True and peer["graph"]["missed"] == 0.003
    viewer = exported(graph, tmp_path, "neuronpedia")
    jsonschema.validate(viewer, NEURONPEDIA)
    assert viewer["metadata"]["info"]["graph"] == peer["graph"]
    nodes = {node["clerp"]: node for node in viewer["nodes"]}
    assert nodes["a0.h0"]["integration_error"] == 0.0625
    assert "integration_error" not in nodes["logits"]
    names = {node["node_id"]: name for name, node in nodes.items()}
    links = {(names[x["source"]], names[x["target"]]): x for x in viewer["links"]}
    assert links["a0.h0", "a1.h0"]["integration_error"] == 0.125 + 0.25 + 0.125
    assert "integration_error" not in links["a0.h1", "m0"]


STRING, NUMBER, INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
# What Neuronpedia's validator asks of an attribution graph, in our words.
NEURONPEDIA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": STRING,
                "scan": STRING,
                "prompt": STRING,
                "prompt_tokens": {"type": "array", "items": STRING, "minItems": 1},
                "info": {
                    "type": "object",
                    "properties": {"description": STRING, "generator": {"type": "object"}},
                },
                "pruning_settings": {"type": "object"},
            },
        },
        "qParams": {
            "type": "object",
            "properties": {
                "pinnedIds": {"type": "array", "items": STRING},
                "supernodes": {"type": "array"},
                "linkType": STRING,
                "clickedId": STRING,
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": [
                    "node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp",
                ],
                "properties": {
                    "node_id": STRING,
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": INTEGER,
                    "feature_type": STRING,
                    "jsNodeId": STRING,
                    "clerp": STRING,
                    "activation": {"type": ["number", "null"]},
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {"source": STRING, "target": STRING, "weight": NUMBER},
            },
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("graph", [model(2, 3), model(1, 1), nx.MultiDiGraph(step=1)])
def test_neuronpedia_has_the_shape_that_is_asked_for(
    tmp_path: Path, graph: nx.MultiDiGraph
) -> None:
    found = exported(graph, tmp_path, "neuronpedia")
    jsonschema.validate(found, NEURONPEDIA)
    ids = [node["node_id"] for node in found["nodes"]]
    assert len(set(ids)) == len(ids) == graph.number_of_nodes()
    assert len({node["jsNodeId"] for node in found["nodes"]}) == len(ids)
    for node in found["nodes"]:
        # An id is layer, number and position, as its reader takes it apart.
        parts = [node["layer"], str(node["feature"]), str(node["ctx_idx"])]
        assert node["node_id"] == "_".join(parts)
        assert node["ctx_idx"] in range(len(found["metadata"]["prompt_tokens"]))


def test_neuronpedia_is_the_same_graph(tmp_path: Path) -> None:
    graph = model(2, 3)
    found = exported(graph, tmp_path, "neuronpedia")
    names = {node["node_id"]: node["clerp"] for node in found["nodes"]}
    links = {(names[x["source"]], names[x["target"]]): x for x in found["links"]}
    assert set(names.values()) == set(graph) and len(links) == len(found["links"])
    ports = {(*ends, port): flow for ends, x in links.items() for port, flow in x["ports"].items()}
    wanted = {tuple(key): data["flow"] for *key, data in graph.edges(keys=True, data=True)}
    assert ports == wanted
    assert all(x["weight"] == sum(x["ports"].values()) for x in found["links"])


def test_neuronpedia_nodes_say_what_they_are(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path), 10)
    found = exported(graph, tmp_path, "neuronpedia")
    nodes = {node["clerp"]: node for node in found["nodes"]}
    assert list(nodes) == ["embed", "a0.h0", "a0.h1", "m0", "a1.h0", "logits"]
    places = {name: (n["layer"], n["feature"], n["feature_type"]) for name, n in nodes.items()}
    assert places == {
        "embed": ("E", 0, "embedding"),
        "a0.h0": ("0", 0, "attention head"),
        "a0.h1": ("0", 1, "attention head"),
        "m0": ("0", 2, "mlp"),
        "a1.h0": ("1", 0, "attention head"),
        "logits": ("2", 0, "logit"),
    }
    assert nodes["a0.h0"]["activation"] == 0.75 and nodes["logits"]["activation"] is None
    assert found["metadata"]["slug"] == "konomie-10"  # part of an address
    assert found["metadata"]["scan"] == NAME

"""GraphML and GEXF, for yEd, Cytoscape and Gephi; GEXF also with time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx

from circuit_econ.graph.plain import Graph, edge_name, plain_graph

__all__ = ["write_gexf", "write_gexf_over_time", "write_graphml"]


def write_graphml(graph: Graph, path: Path, minimum: float) -> None:
    """Write GraphML; edge ids are ``supplier:buyer:port``."""
    nx.write_graphml(_with_ids(plain_graph(graph, minimum)), path, named_key_ids=True)


def write_gexf(graph: Graph, path: Path, minimum: float) -> None:
    """Write static GEXF 1.2; edge ids are ``supplier:buyer:port``."""
    found = _with_ids(plain_graph(graph, minimum))
    # Without ids of their own edges would be numbered.
    for *_, key, data in found.edges(keys=True, data=True):
        data["id"] = key
    nx.write_gexf(found, path)


def write_gexf_over_time(graphs: Sequence[Graph], path: Path, minimum: float, name: str) -> None:
    """Write dynamic GEXF 1.2: Gephi's timeline plays the run.

    Time is the optimiser step. A checkpoint lasts until just before the next, the last for as long
    as the one before it (a step, if it is alone). Edges have a spell wherever they reach
    ``minimum``. Attributes that are numbers have a value per checkpoint; text, layer and head
    do not change. GEXF holds a static ``weight``: the largest of the run. The weight of each
    checkpoint is ``weight_now``.

    Args:
        graphs: One for each step, ascending.
        path: Where to write.
        minimum: Edges of a smaller weight are left out while they are smaller.
        name: Of the graph.
    """
    steps = [graph.graph["step"] for graph in graphs]
    last = steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)
    # Ends belong to an interval in GEXF 1.2, so that of a checkpoint stays short of the next.
    intervals = [
        (float(start), math.nextafter(float(end), 0.0) if end != last else float(end))
        for start, end in zip(steps, [*steps[1:], last], strict=True)
    ]
    whole = (intervals[0][0], intervals[-1][1])
    found: Graph = nx.MultiDiGraph(mode="dynamic", name=name)
    for graph, interval in zip(graphs, intervals, strict=True):
        plain = plain_graph(graph, minimum)
        for node, data in plain.nodes(data=True):
            if node not in found:
                found.add_node(node, start=whole[0], end=whole[1])
            _follow(found.nodes[node], data, interval)
        for supplier, buyer, port, data in plain.edges(keys=True, data=True):
            key = edge_name(supplier, buyer, port)
            if not found.has_edge(supplier, buyer, key):
                found.add_edge(supplier, buyer, key, id=key, spells=[])
            edge = found.edges[supplier, buyer, key]
            edge["spells"].append(interval)
            if "weight" in data:
                edge["weight"] = max(edge.get("weight", 0.0), data["weight"])
                data["weight_now"] = data.pop("weight")
            _follow(edge, data, interval)
    nx.write_gexf(found, path)


def _follow(into: dict[str, Any], data: Mapping[str, Any], interval: tuple[float, float]) -> None:
    for name, value in data.items():
        if isinstance(value, float):
            into.setdefault(name, []).append((value, *interval))
        else:
            into[name] = value


def _with_ids(graph: Graph) -> Graph:
    """The same graph with keys that are unique in the whole graph, as ids of XML must be."""
    found: Graph = nx.MultiDiGraph(**graph.graph)
    found.add_nodes_from(graph.nodes(data=True))
    for supplier, buyer, port, data in graph.edges(keys=True, data=True):
        found.add_edge(supplier, buyer, edge_name(supplier, buyer, port), **data)
    return found

"""Readers of exported graphs, none of them ours, each giving the same plain thing back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import polars as pl
import pydot

Read = tuple[dict[str, dict[str, Any]], dict[tuple[str, str, str], dict[str, Any]]]


def as_written(graph: nx.MultiDiGraph) -> Read:
    """Nodes and edges by name; what is not known is not there."""
    nodes = {node: dict(data) for node, data in graph.nodes(data=True)}
    return nodes, {tuple(k): dict(data) for *k, data in graph.edges(keys=True, data=True)}


def _without(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in names}


def _by_port(graph: nx.Graph, *extra: str) -> Read:
    assert graph.is_directed()
    nodes = {node: _without(data, *extra) for node, data in graph.nodes(data=True)}
    edges = {
        (supplier, buyer, data["port"]): _without(data, *extra)
        for supplier, buyer, data in graph.edges(data=True)
    }
    assert len(edges) == graph.number_of_edges()
    return nodes, edges


def graphml(path: Path) -> Read:
    return _by_port(nx.read_graphml(path, force_multigraph=True))


def gexf(path: Path) -> Read:
    found = nx.read_gexf(path)
    for supplier, buyer, data in found.edges(data=True):
        assert data["id"] == f"{supplier}:{buyer}:{data['port']}"
    return _by_port(found, "label", "id")


def cytoscape(path: Path) -> Read:
    found = nx.cytoscape_graph(json.loads(path.read_text(encoding="utf-8")))
    assert isinstance(found, nx.MultiDiGraph)
    return _by_port(found, "id", "name", "value", "source", "target", "key")


def node_link(path: Path) -> Read:
    found = nx.node_link_graph(json.loads(path.read_text(encoding="utf-8")), edges="edges")
    assert isinstance(found, nx.MultiDiGraph)
    return as_written(found)


def _typed(text: str) -> Any:
    text = text.removeprefix('"').removesuffix('"').replace('\\"', '"').replace("\\\\", "\\")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def dot(path: Path) -> Read:
    with warnings.catch_warnings():
        # pydot speaks to its parser in names that the parser's newest version warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        (found,) = pydot.graph_from_dot_file(str(path), encoding="utf-8")

    def known(thing: Any) -> dict[str, Any]:
        return {_typed(key): _typed(str(v)) for key, v in thing.get_attributes().items()}

    # Graph-wide defaults are a node to pydot.
    nodes = {_typed(n.get_name()): known(n) for n in found.get_nodes() if n.get_name() != "graph"}
    edges = {}
    for edge in found.get_edges():
        data = known(edge)
        assert data["key"] == data["label"] == data["port"]
        ends = (_typed(edge.get_source()), _typed(edge.get_destination()), data["port"])
        edges[ends] = _without(data, "key", "label", "penwidth", "style")
    return nodes, edges


def csv(path: Path) -> Read:
    nodes, edges = (
        pl.read_csv(path.with_suffix(f".{part}.csv"), infer_schema_length=None).to_dicts()
        for part in ("nodes", "edges")
    )

    def known(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
        return {k: v for k, v in row.items() if v is not None and k not in names}

    return (
        {row["id"]: known(row, "id") for row in nodes},
        {
            (row["source"], row["target"], row["port"]): known(row, "source", "target")
            for row in edges
        },
    )


READERS: dict[str, tuple[str, Callable[[Path], Read]]] = {
    "graphml": ("g.graphml", graphml),
    "gexf": ("g.gexf", gexf),
    "cytoscape": ("g.json", cytoscape),
    "json": ("g.json", node_link),
    "dot": ("g.dot", dot),
    "csv": ("g.csv", csv),
}

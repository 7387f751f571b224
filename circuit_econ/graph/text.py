"""Formats that are text or JSON lists of nodes and edges: DOT, CSV, node-link, Cytoscape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import polars as pl

from circuit_econ.graph.plain import Graph, edge_name, plain_graph

__all__ = [
    "dump",
    "write_csv_edges",
    "write_csv_nodes",
    "write_cytoscape",
    "write_dot",
    "write_json",
]

_WIDEST = 6.0
"""Pen width of the largest edge in DOT."""


def write_dot(graph: Graph, path: Path, minimum: float) -> None:
    """Write DOT for Graphviz: layers upward, pen width by weight, losses dashed."""
    found = plain_graph(graph, minimum)
    largest = max((data.get("weight", 0.0) for *_, data in found.edges(data=True)), default=0.0)
    lines = ["digraph {", f"  graph {_listed({'rankdir': 'BT', **found.graph})};"]
    lines += [f"  {_quoted(node)} {_listed(data)};" for node, data in found.nodes(data=True)]
    for supplier, buyer, port, data in found.edges(keys=True, data=True):
        width = _WIDEST * data.get("weight", 0.0) / largest if largest else 1.0
        style = "dashed" if data.get("flow", data.get("effect", 0.0)) < 0 else "solid"
        shown = {"key": port, "label": port, "penwidth": width, "style": style, **data}
        lines.append(f"  {_quoted(supplier)} -> {_quoted(buyer)} {_listed(shown)};")
    path.write_text("\n".join([*lines, "}", ""]), encoding="utf-8")


def _listed(data: Mapping[str, Any]) -> str:
    return f"[{', '.join(f'{_quoted(key)}={_quoted(value)}' for key, value in data.items())}]"


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    for sign, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\r", ""), ("\n", "\\n")):
        text = text.replace(sign, escaped)
    return f'"{text}"'


def write_csv_nodes(graph: Graph, path: Path, minimum: float) -> None:
    """Write a row for each node: ``id`` and the attributes that any node has."""
    found = plain_graph(graph, minimum)
    _csv(["id"], [{"id": node, **data} for node, data in found.nodes(data=True)], path)


def write_csv_edges(graph: Graph, path: Path, minimum: float) -> None:
    """Write a row for each edge: ``source``, ``target``, ``port`` and the other attributes."""
    rows = [
        {"source": supplier, "target": buyer, **data, "port": port}
        for supplier, buyer, port, data in plain_graph(graph, minimum).edges(keys=True, data=True)
    ]
    _csv(["source", "target", "port"], rows, path)


def _csv(first: list[str], rows: list[dict[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    columns = {name: [row.get(name) for row in rows] for name in names}
    pl.DataFrame(columns, strict=False).write_csv(path)


def write_json(graph: Graph, path: Path, minimum: float) -> None:
    """Write networkx' node-link JSON (as read by d3), edges under ``edges``."""
    dump(nx.node_link_data(plain_graph(graph, minimum), edges="edges"), path)


def write_cytoscape(graph: Graph, path: Path, minimum: float) -> None:
    """Write Cytoscape.js JSON, as networkx reads it: ``value`` is the node's name."""
    found = plain_graph(graph, minimum)
    nodes = [
        {"data": {**data, "id": node, "value": node, "name": node}}
        for node, data in found.nodes(data=True)
    ]
    edges = [
        {
            "data": {
                **data,
                "id": edge_name(supplier, buyer, port),
                "source": supplier,
                "target": buyer,
                "key": port,
            }
        }
        for supplier, buyer, port, data in found.edges(keys=True, data=True)
    ]
    content = {"data": found.graph, "directed": True, "multigraph": True}
    dump({**content, "elements": {"nodes": nodes, "edges": edges}}, path)


def dump(content: object, path: Path) -> None:
    """Write JSON that any reader takes: NaN would be an error."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1)
    path.write_text(text, encoding="utf-8")

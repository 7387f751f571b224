"""``export``: a composition graph, or those of a whole run, in the formats of other tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

import networkx as nx

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.graph.attribution import write_eap_ig, write_neuronpedia
from circuit_econ.graph.plain import Graph, plain_value, written
from circuit_econ.graph.text import (
    write_csv_edges,
    write_csv_nodes,
    write_cytoscape,
    write_dot,
    write_json,
)
from circuit_econ.graph.xml import write_gexf, write_gexf_over_time, write_graphml

__all__ = ["Format", "default_output", "export"]


class Format(StrEnum):
    """A format that :func:`export` writes."""

    GRAPHML = "graphml"
    GEXF = "gexf"
    CYTOSCAPE = "cytoscape"
    EAP_IG = "eap-ig"
    NEURONPEDIA = "neuronpedia"
    DOT = "dot"
    JSON = "json"
    CSV = "csv"


_Writer = Callable[[Graph, Path, float], None]

_WRITERS: Final[dict[Format, _Writer]] = {
    Format.GRAPHML: write_graphml,
    Format.GEXF: write_gexf,
    Format.CYTOSCAPE: write_cytoscape,
    Format.EAP_IG: write_eap_ig,
    Format.NEURONPEDIA: write_neuronpedia,
    Format.DOT: write_dot,
    Format.JSON: write_json,
}
_BY_SUFFIX: Final = {
    ".graphml": Format.GRAPHML,
    ".gexf": Format.GEXF,
    ".cyjs": Format.CYTOSCAPE,
    ".dot": Format.DOT,
    ".gv": Format.DOT,
    ".csv": Format.CSV,
}
_JSON: Final = (Format.CYTOSCAPE, Format.EAP_IG, Format.NEURONPEDIA, Format.JSON)


def export(
    graph: Graph | Sequence[Graph],
    path: str | Path,
    format: str | None = None,
    minimum: float = 0.0,
) -> list[Path]:
    """Write a composition graph, or those of several steps, for other tools.

    Several steps make one dynamic file in GEXF; in the other formats ``path`` is a folder with a
    file for each, named by its step. Each file is put in place whole.

    Args:
        graph: From :func:`~circuit_econ.graph.composition_graph`, or one for each step.
        path: A file. CSV takes two: ``x.csv`` makes ``x.nodes.csv`` and ``x.edges.csv``, a path
            without that suffix a folder with ``nodes.csv`` and ``edges.csv``.
        format: One of :class:`Format`; by default by the path's suffix, where that says which.
        minimum: Edges of a smaller absolute flow are left out; in EAP-IG they are not ``in_graph``.

    Returns:
        The files written.

    Raises:
        ConfigurationError: If the format is unknown or not given by the suffix, or there is no
            graph, or two of one step.
    """
    path = Path(path)
    chosen = _chosen(path, format)
    if not minimum >= 0:
        raise ConfigurationError(f"minimum is an absolute flow in nats, at least 0, not {minimum}")
    if isinstance(graph, nx.MultiDiGraph):
        return _one(graph, path, chosen, minimum)
    graphs = sorted(graph, key=lambda each: each.graph["step"])
    steps = [each.graph["step"] for each in graphs]
    if not steps or len(set(steps)) < len(steps):
        raise ConfigurationError(f"export takes one graph for each step, not of steps {steps}")
    if chosen is Format.GEXF:
        name = str(plain_value(graphs[0].graph.get("name", "")))
        write = partial(write_gexf_over_time, graphs, minimum=minimum, name=name)
        return [written(path, write)]
    return [
        file
        for each in graphs
        for file in _one(each, path / _file_of(each, chosen), chosen, minimum)
    ]


def default_output(format: str, step: int | str) -> str:
    """Name of the output where none is given: a file, or a folder for the steps ``all``.

    Raises:
        ConfigurationError: If there is no such format.
    """
    chosen = _chosen(Path(), format)
    if step == "all" and chosen is not Format.GEXF:
        return f"graph-all-{chosen}"
    return f"graph-{step}{_suffix(chosen)}"


def _file_of(graph: Graph, format: Format) -> str:
    """Zero-padded, so that names sort as steps do."""
    return f"step-{graph.graph['step']:010d}{_suffix(format)}"


def _suffix(format: Format) -> str:
    return f".{format}.json" if format in _JSON[:-1] else f".{format}"


def _one(graph: Graph, path: Path, format: Format, minimum: float) -> list[Path]:
    if format is not Format.CSV:
        write = _WRITERS[format]
        return [written(path, lambda file: write(graph, file, minimum))]
    parts = {"nodes": write_csv_nodes, "edges": write_csv_edges}
    is_file = path.suffix.lower() == ".csv"
    return [
        written(
            path.with_suffix(f".{part}.csv") if is_file else path / f"{part}.csv",
            partial(_csv, write, graph, minimum),
        )
        for part, write in parts.items()
    ]


def _csv(write: _Writer, graph: Graph, minimum: float, path: Path) -> None:
    write(graph, path, minimum)


def _chosen(path: Path, format: str | None) -> Format:
    """The format named, else the one that the suffix says."""
    if format is not None:
        if format not in tuple(Format):
            raise unknown("format", format, Format)
        return Format(format)
    suffix = path.suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix == ".json":
        several = f"{', '.join(_JSON[:-1])} and {_JSON[-1]}"
        raise ConfigurationError(
            f"{str(path)!r} could be several formats: {several} are all .json; name one as format"
        )
    raise ConfigurationError(
        f"no format known by the suffix of {str(path)!r}; known are {', '.join(_BY_SUFFIX)}; "
        f"or name one of the formats: {', '.join(Format)}"
    )

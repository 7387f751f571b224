"""The composition graph of one checkpoint, from whatever a ledger has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import networkx as nx
import polars as pl

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.graph.economy import capital_share, through_flow, upstreamness
from circuit_econ.graph.plain import Graph, is_known
from circuit_econ.tables import Kind, place_key

__all__ = ["Tables", "composition_graph", "graph_steps"]

_TRADE = ("flows", "edges")
"""Tables that make edges; either is enough."""


@runtime_checkable
class Tables(Protocol):
    """What is asked of a ledger."""

    @property
    def run(self) -> Mapping[str, Any]:
        """The content of ``run.yaml``."""
        ...

    @property
    def tables(self) -> Sequence[str]:
        """Names of the tables that hold anything."""
        ...

    def table(self, name: str) -> pl.LazyFrame:
        """One table over all steps."""
        ...

    def steps(self, table: str) -> list[int]:
        """Steps for which a table holds anything."""
        ...


def graph_steps(ledger: Tables) -> list[int]:
    """Steps at which there is a composition graph, ascending.

    Raises:
        ConfigurationError: If neither flows nor edges were measured.
    """
    steps = sorted({step for table in _TRADE for step in ledger.steps(table)})
    if not steps:
        raise ConfigurationError(
            "the ledger has neither flows nor edges, of which a composition graph is made; there "
            f"is: {', '.join(ledger.tables) or 'nothing'}; walk again with measure=[income]"
        )
    return steps


def composition_graph(ledger: Tables, step: int, baseline: str | None = None) -> Graph:
    """Who supplies whom at one checkpoint.

    Nodes are the components, ``logits`` among them; there is one edge for each supplier, buyer and
    port, with the port as its key. Attributes are listed in
    :data:`circuit_econ.graph.attributes.ATTRIBUTES`; what was not measured is absent. Circuits, and
    which edges count, are those of the baseline they were looked for under, whatever baseline is
    asked for.

    Args:
        ledger: A run's ledger.
        step: The checkpoint.
        baseline: Whose flows, incomes and effects; by default the run's first that was measured.

    Raises:
        ConfigurationError: If there are neither flows nor edges, or none at this step or under this
            baseline; says which there are.
    """
    steps = graph_steps(ledger)
    if step not in steps:
        raise unknown("step", step, steps)
    rows = _Rows(ledger, step)
    trade = {name: rows.of(name) for name in _TRADE}
    baseline = _baseline(ledger, trade, baseline)
    flows, effects = (trade[name].filter(pl.col("baseline") == baseline) for name in _TRADE)
    graph: Graph = nx.MultiDiGraph()
    graph.graph |= {"step": step, "baseline": baseline}
    _set(graph.graph, {"name": ledger.run.get("study")})
    _set(graph.graph, rows.first("checkpoints"), "tokens_seen", "loss", "loss_se")
    economy = rows.first("income_gap", baseline)
    _set(graph.graph, {n: economy[n] for n in economy if n not in ("step", "baseline")})
    for row in rows.of("components").iter_rows(named=True):
        graph.add_node(row["component"])
        _set(graph.nodes[row["component"]], row, "kind", "layer", "head")
    _add_flows(graph, flows)
    _add_effects(graph, effects, rows.of("composition"))
    for name in (Kind.EMBED, Kind.POS, Kind.LOGITS):
        if name in graph:
            graph.nodes[name].setdefault("kind", str(name))
    _describe(graph, rows, baseline)
    for row in rows.of("counted").iter_rows(named=True):
        _set(_edge(graph, row), {"counts": True} | row, "counts", "bound", "circuit")
    return graph


class _Rows:
    """The rows of one step."""

    def __init__(self, ledger: Tables, step: int) -> None:
        self._ledger, self._step = ledger, step

    def of(self, table: str, baseline: str | None = None) -> pl.DataFrame:
        frame = self._ledger.table(table)
        if table != "components":
            frame = frame.filter(pl.col("step") == self._step)
        if baseline is not None:
            frame = frame.filter(pl.col("baseline") == baseline)
        return frame.collect()

    def first(self, table: str, baseline: str | None = None) -> dict[str, Any]:
        found = self.of(table, baseline)
        return found.row(0, named=True) if found.height else {}


def _baseline(ledger: Tables, trade: Mapping[str, pl.DataFrame], wanted: str | None) -> str:
    """The baseline asked for, or the run's first of those measured."""
    measured = {name for frame in trade.values() for name in frame["baseline"]}
    declared: Sequence[str] = ledger.run.get("configuration", {}).get("baselines", ())
    known = [name for name in declared if name in measured]
    known += sorted(measured.difference(known))
    if not known:
        raise ConfigurationError(
            "the flows and edges of this step have no rows: nobody trades, so there is no graph"
        )
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise unknown("baseline", wanted, known)
    return wanted


def _set(into: dict[str, Any], row: Mapping[str, Any], *names: str) -> None:
    """Copy what is known."""
    into |= {name: row[name] for name in names or row if is_known(row.get(name))}


def _add_flows(graph: Graph, flows: pl.DataFrame) -> None:
    for row in flows.iter_rows(named=True):
        edge = _edge(graph, row)
        _set(edge, row, "signal", "crowding", "integration_error")
        _set(edge, {"flow_se": row["se"]})
        if "signal" in edge and "crowding" in edge:
            edge["flow"] = edge["signal"] + edge["crowding"]
            edge["weight"] = abs(edge["flow"])
    if flows.is_empty():
        return
    _set(graph.graph, {"capital_share": capital_share(flows)})
    # All pairs are in the flows: where no head feeds its layer's MLP, the block is parallel.
    layers: dict[int, list[str]] = {}
    for name, data in graph.nodes(data=True):
        if data.get("kind") == Kind.MLP:
            layers[data["layer"]] = [
                supplier
                for supplier in graph.predecessors(name)
                if graph.nodes[supplier].get("kind") == Kind.HEAD
                and graph.nodes[supplier]["layer"] == data["layer"]
            ]
    if layers:
        graph.graph["parallel"] = not any(layers.values())
    for row in through_flow(flows).iter_rows(named=True):
        _set(graph.nodes[row["component"]], row, "bought", "sold")


def _add_effects(graph: Graph, effects: pl.DataFrame, scores: pl.DataFrame) -> None:
    for row in effects.iter_rows(named=True):
        edge = _edge(graph, row)
        _set(edge, {"effect": row["effect"], "effect_se": row["se"]})
        if "effect" in edge:
            edge.setdefault("weight", abs(edge["effect"]))
    for row in scores.iter_rows(named=True):
        _set(_edge(graph, row), row, "score")


def _edge(graph: Graph, row: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a row's edge, which is added if it is new."""
    key = (row["supplier"], row["buyer"], row["port"])
    if not graph.has_edge(*key):
        graph.add_edge(*key, port=row["port"])
    return graph.edges[key]


def _describe(graph: Graph, rows: _Rows, baseline: str) -> None:
    """What is known of the nodes; sets and what belongs to no component are left out."""

    def note(component: str, found: Mapping[str, Any]) -> None:
        if component in graph:
            _set(graph.nodes[component], found)

    for row in rows.of("value").iter_rows(named=True):
        of = row["baseline"]
        note(row["component"], {f"value_{of}": row["value"], f"value_se_{of}": row["se"]})
    for row in rows.of("income", baseline).iter_rows(named=True):
        found = {"income": row["income"], "income_se": row["se"]}
        note(row["component"], found | {"integration_error": row["integration_error"]})
    stages = rows.of("income_stages", baseline).sort("stage")
    for (component,), part in stages.group_by("component", maintain_order=True):
        incomes = part["income"].to_list()
        found = {f"income_stage_{n}": x for n, x in zip(part["stage"], incomes, strict=True)}
        note(str(component), found | {"upstreamness": upstreamness(incomes)})
    for row in rows.of("circuits").iter_rows(named=True):
        note(row["component"], {n: row[n] for n in ("circuit", "role", "membership")})
    capacity = rows.of("capacity")
    # A share of the stream is read in several places: the last along the pass stays.
    for row in sorted(capacity.iter_rows(named=True), key=lambda row: place_key(row["place"])):
        note(row["component"], {f"capacity_{row['currency']}": row["amount"]})
    for row in rows.of("direct", baseline).iter_rows(named=True):
        names = ("direct", "mediated", "interaction")
        note(row["component"], {name: row[name] for name in names} | {"direct_se": row["se"]})

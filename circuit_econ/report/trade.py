"""Who supplies whom, brought into the shape of its pictures: a row per node, edge and economy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from circuit_econ.graph import capital_share, upstreamness
from circuit_econ.graph.economy import NEAR_ZERO
from circuit_econ.ledger import Ledger
from circuit_econ.report.lives import Lives, gather_lives
from circuit_econ.tables import Kind, component_key

__all__ = ["LAST_STAGE", "Trade", "gather_trade", "kind_of"]

LAST_STAGE: Final = 5
"""Income that is earned further from the logits than this is told together with it."""

_MOST_EDGES: Final = 20_000
_PER_CHECKPOINT: Final = (40, 400)
"""Edges in the page: at most so many in all, and at least and at most so many per checkpoint."""

_AT: Final = ("step", "baseline")
_EDGE: Final = ("supplier", "buyer", "port")


@dataclass(frozen=True, slots=True)
class Trade:
    """What a page shows of the composition graph of one run. Amounts are nats per scored position.

    Attributes:
        nodes: One row per step, baseline and component that trades, ``logits`` among them: run,
            step, baseline, component, kind, layer, income (null for logits), se,
            integration_error, signal (the part of income that is no crowding), capital (the part
            sold to components), share (of income that is sold to components; null where sales
            cancel), bought, value, value_se, upstreamness.
        edges: Flows inside of circuits and the largest others of every step and baseline, largest
            first: run, step, baseline, supplier, buyer, port, signal, crowding, se,
            integration_error, effect, effect_se, counts ("yes" or null), circuit, and of all flows
            there are then their number, ``all``, and the sum of their sizes, ``total``.
        economies: One row per step and baseline: run, step, baseline, share (of capital goods; null
            where undefined), low, high (over baselines), edges, left (out of ``edges``),
            left_share (of all |flow|), left_counted, then the columns of ``income_gap``,
            counted (edges that count and were looked for in this economy), flagged ("yes" or
            null); converged is "yes" or "no".
        stages: Income by layer and stage: run, step, baseline, group ("layer 2"), layer, stage,
            income.
        effects: Table ``edges`` with run, and flow_se and flow_error (of integration) of the flow.
        sampling: Table ``edge_sampling`` with run.
        direct: Table ``direct`` with run.
        lives: Circuits over time.
        baselines: With flows, in the run's order.
        steps: With flows, ascending.
        kept: Edges that are kept per step and baseline.
    """

    nodes: pl.DataFrame
    edges: pl.DataFrame
    economies: pl.DataFrame
    stages: pl.DataFrame
    effects: pl.DataFrame
    sampling: pl.DataFrame
    direct: pl.DataFrame
    lives: Lives
    baselines: list[str]
    steps: list[int]
    kept: int

    @property
    def flagged(self) -> pl.DataFrame:
        """Economies whose ablated loss is beyond the error of what unigram frequencies achieve."""
        return self.economies.filter(pl.col("flagged").is_not_null())

    @property
    def components(self) -> list[str]:
        """Who trades, in the order of the forward pass, ``logits`` last."""
        return sorted(self.nodes["component"].unique().to_list(), key=component_key)


def gather_trade(ledger: Ledger, name: str, order: Callable[[str], Any]) -> Trade:
    """Read what the pictures of the composition graph show.

    Args:
        ledger: The run. Tables that were not written are taken as empty.
        name: What the run is called on the page.
        order: Sort key of baselines: the one to show first comes first.
    """
    flows = ledger.table("flows").with_columns(flow=pl.col("signal") + pl.col("crowding")).collect()
    edges = ledger.table("edges").sort(*_AT, *_EDGE).collect()
    counted = ledger.table("counted").collect()
    errors = flows.select(*_AT, *_EDGE, flow_se="se", flow_error="integration_error")
    measured = flows["baseline"].unique().to_list()
    groups = flows.select(_AT).unique().height
    kept = max(_PER_CHECKPOINT[0], min(_PER_CHECKPOINT[1], _MOST_EDGES // max(groups, 1)))
    ranked = _ranked(flows, edges, counted)
    return Trade(
        nodes=_named(_nodes(ledger, flows), name),
        edges=_named(
            ranked.filter(pl.col("rank") < kept).select(
                *_AT, *_EDGE, "signal", "crowding", "se", "integration_error", "effect",
                "effect_se", "counts", "circuit", "all", "total",
            ),
            name,
        ),
        economies=_named(_economies(ledger, flows, ranked, counted, kept), name),
        stages=_named(_stages(ledger), name),
        effects=_named(edges.join(errors, on=[*_AT, *_EDGE], how="left"), name),
        sampling=_named(ledger.table("edge_sampling").sort(*_AT).collect(), name),
        direct=_named(ledger.table("direct").sort(*_AT, "component").collect(), name),
        lives=gather_lives(ledger, name),
        baselines=sorted(measured, key=order),
        steps=flows["step"].unique().sort().to_list(),
        kept=kept,
    )  # fmt: skip


def kind_of(component: str) -> tuple[str, int | None]:
    """Kind and layer of a component, from its name."""
    layer, is_mlp, _, _ = component_key(component)
    if component in (Kind.EMBED, Kind.POS, Kind.LOGITS):
        return component, None
    return (Kind.MLP.value if is_mlp else Kind.HEAD.value), layer


def _named(frame: pl.DataFrame, run: str) -> pl.DataFrame:
    return frame.select(pl.lit(run).alias("run"), pl.all())


def _described(components: pl.Series) -> pl.DataFrame:
    names = sorted(components.unique().to_list(), key=component_key)
    kinds = [kind_of(name) for name in names]
    return pl.DataFrame(
        {
            "component": names,
            "kind": [kind for kind, _ in kinds],
            "layer": [layer for _, layer in kinds],
            "order": list(range(len(names))),
        },
        schema={"component": pl.String, "kind": pl.String, "layer": pl.Int64, "order": pl.Int64},
    )


def _nodes(ledger: Ledger, flows: pl.DataFrame) -> pl.DataFrame:
    keys = [*_AT, "component"]
    flow = pl.col("flow")
    sold = flows.group_by(*_AT, component="supplier").agg(
        income=flow.sum(),
        signal=pl.col("signal").sum(),
        capital=flow.filter(pl.col("buyer") != Kind.LOGITS.value).sum(),
        size=flow.abs().sum(),
    )
    bought = flows.group_by(*_AT, component="buyer").agg(bought=flow.sum())
    stages = (
        ledger.table("income_stages")
        .sort("stage")
        .group_by(keys, maintain_order=True)
        .agg("income")
        .collect()
    )
    upstream = [upstreamness(incomes) for incomes in stages["income"].to_list()]
    stages = stages.select(*keys, pl.Series("upstreamness", upstream, dtype=pl.Float64))
    income = ledger.table("income").select(*keys, "se", "integration_error").collect()
    value = ledger.table("value").select(*keys, "value", value_se="se").collect()
    nodes = sold.join(bought, on=keys, how="full", coalesce=True)
    for known in (income, value, stages, _described(nodes["component"])):
        on = [key for key in keys if key in known.columns]
        nodes = nodes.join(known, on=on, how="left")
    cancels = ~(pl.col("income").abs() > NEAR_ZERO * pl.col("size"))
    share = pl.when(~cancels).then(pl.col("capital") / pl.col("income"))
    return nodes.sort(*_AT, "order").select(
        *_AT, "component", "kind", "layer", "income", "se", "integration_error", "signal",
        "capital", share.alias("share"), pl.col("bought").fill_null(0.0), "value", "value_se",
        "upstreamness",
    )  # fmt: skip


def _ranked(flows: pl.DataFrame, edges: pl.DataFrame, counted: pl.DataFrame) -> pl.DataFrame:
    """All flows, largest first, with their exact effects and whether they count."""
    effects = edges.select(*_AT, *_EDGE, "effect", effect_se="se")
    counts = counted.select("step", *_EDGE, "circuit", counts=pl.lit("yes"))
    size = pl.col("flow").abs()
    return (
        flows.join(effects, on=[*_AT, *_EDGE], how="left")
        .join(counts, on=["step", *_EDGE], how="left")
        .sort(*_AT, size, *_EDGE, descending=[False, False, True, False, False, False])
        .with_columns(
            all=pl.len().over(_AT).cast(pl.Int64),
            total=size.sum().over(_AT),
            # What is inside of a circuit is in the page whatever its size.
            rank=pl.struct(pl.col("circuit").is_null(), -size).rank("ordinal").over(_AT) - 1,
        )
    )


def _economies(
    ledger: Ledger,
    flows: pl.DataFrame,
    ranked: pl.DataFrame,
    counted: pl.DataFrame,
    kept: int,
) -> pl.DataFrame:
    shares = [
        (*key, capital_share(part)) for key, part in flows.group_by(*_AT, maintain_order=True)
    ]
    schema = {"step": pl.Int64, "baseline": pl.String, "share": pl.Float64}
    left = pl.col("rank") >= kept
    size = pl.col("flow").abs()
    sizes = ranked.group_by(*_AT).agg(
        edges=pl.len().cast(pl.Int64),
        left=left.sum().cast(pl.Int64),
        left_share=(size.filter(left).sum() / size.sum()).fill_nan(None),
        left_counted=pl.col("counts").filter(left).count().cast(pl.Int64),
    )
    bound = pl.col("unigram_loss") + 1.96 * pl.col("unigram_se").fill_null(0.0)
    flagged = pl.col("ablated_loss") > bound
    # Circuits are looked for under one baseline: the one whose flows the counted edges have.
    own = (
        counted.join(flows.select(*_AT, *_EDGE, found="flow"), on=["step", *_EDGE])
        .filter((pl.col("flow") - pl.col("found")).abs() <= 1e-9 * pl.col("found").abs())
        .group_by(_AT)
        .agg(counted=pl.len().cast(pl.Int64))
    )
    return (
        pl.DataFrame(shares, schema=schema, orient="row")
        .with_columns(
            low=pl.col("share").min().over("step"), high=pl.col("share").max().over("step")
        )
        .join(sizes, on=_AT, how="left")
        .join(ledger.table("income_gap").collect(), on=_AT, how="full", coalesce=True)
        .join(own, on=_AT, how="left")
        .with_columns(
            flagged=pl.when(flagged).then(pl.lit("yes")),
            converged=pl.when("converged")
            .then(pl.lit("yes"))
            .when(~pl.col("converged"))
            .then(pl.lit("no")),
            counted=pl.col("counted").fill_null(0),
        )
        .sort(_AT)
    )


def _stages(ledger: Ledger) -> pl.DataFrame:
    rows = ledger.table("income_stages").collect()
    return (
        rows.join(_described(rows["component"]), on="component", how="left")
        .filter(pl.col("layer").is_not_null())
        .with_columns(stage=pl.min_horizontal("stage", pl.lit(LAST_STAGE)))
        .group_by(*_AT, "layer", "stage")
        .agg(pl.col("income").sum())
        .sort(*_AT, "layer", "stage")
        .select(*_AT, pl.format("layer {}", "layer").alias("group"), "layer", "stage", "income")
    )

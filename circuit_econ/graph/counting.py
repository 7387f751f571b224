"""Which edges count: those beyond their sampling error and beyond untrained models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from math import exp
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import polars as pl

from circuit_econ.errors import ConfigurationError
from circuit_econ.tables import Kind, component_key

__all__ = [
    "Admitted",
    "Quantity",
    "amount",
    "bounds",
    "counted",
    "edge_class",
    "edge_key",
    "kind_of",
    "largest",
    "sampling_quantile",
    "shortfall",
]

LEVEL: Final = 0.01
"""Chance that anything at all counts by accident: over classes of edges, and over edges."""

LEAST: Final = 5
"""Untrained models below which their spread says too little."""

_SAMPLES: Final = 400_000
_BATCHES: Final = 20

_EDGE: Final = ("supplier", "buyer", "port")
_FLOW = pl.col("signal") + pl.col("crowding")
_EXACT: Final = ("effect", "effect_se", "effect_bound")


class Quantity(StrEnum):
    """What is asked of an edge."""

    FLOW = "flow"
    EFFECT = "effect"


class Admitted(StrEnum):
    """What an edge counts for."""

    FLOW = "flow"
    EFFECT = "effect"
    BOTH = "both"


@cache
def kind_of(component: str) -> Kind:
    """What a supplier or buyer is.

    Raises:
        ConfigurationError: If the name is none of a component or of the logits.
    """
    if component in (Kind.EMBED, Kind.POS, Kind.LOGITS):
        return Kind(component)
    layer, place, _, _ = component_key(component)
    if layer == component_key(Kind.LOGITS)[0]:
        raise ConfigurationError(
            f"{component!r} is no component; there are: embed, pos, a<layer>.h<head>, m<layer>, "
            "and logits as a buyer"
        )
    return Kind.MLP if place else Kind.HEAD


def edge_class(buyer: str, quantity: Quantity = Quantity.FLOW) -> str:
    """What an edge is compared with in untrained models: ``capital flow`` or the like.

    Final goods are sold to the logits, capital goods to components. Kinds and ports are not told
    apart: untrained models hardly use keys, and bounds of their own would let a small flow to keys
    count where larger ones to values do not.
    """
    return f"{'final' if kind_of(buyer) is Kind.LOGITS else 'capital'} {quantity}"


def edge_key(edge: Sequence[str]) -> tuple[Any, ...]:
    """Sort key of supplier, buyer, port: in the order of the forward pass, logits last."""
    supplier, buyer, port = edge
    return (component_key(supplier), component_key(buyer), port)


def largest(edges: pl.DataFrame, quantity: Quantity = Quantity.FLOW) -> pl.DataFrame:
    """The largest absolute flow, or effect, of capital and of final goods in one model.

    Args:
        edges: Columns ``supplier``, ``buyer``, ``port``, and ``signal`` and ``crowding``, or
            ``effect``, of one model under one baseline.
        quantity: Which of both.

    Returns:
        Columns ``class`` and ``largest`` (nats per scored position), sorted by class.
    """
    amount = _FLOW if quantity is Quantity.FLOW else pl.col("effect")
    sizes = edges.select(
        pl.Series("class", _classes(edges, quantity), pl.String), amount.abs().alias("largest")
    )
    # A NaN must not go unnoticed among numbers.
    return sizes.group_by("class").agg(pl.col("largest").nan_max()).sort("class")


def bounds(largest: pl.DataFrame) -> dict[str, float]:
    """What an untrained model of the same shape may reach in each class of edges.

    Largest flows are maxima of many, so their logarithms are taken as Gumbel (Fisher & Tippett
    1928: the limit for lognormal flows, and for those with tails like a power). The bound is that
    of a prediction interval for one further model, exp(m + q·s), with m and s the mean and the
    deviation of the n logarithms and q the upper quantile of (x − m)/s of a further x. At a level
    of 1 % shared out evenly over the classes, one more untrained model exceeds any bound at all in
    at most about one case of a hundred. (Student's quantile, for lognormal maxima, is smaller, and
    exceeded by 5 to 10 % of models with such flows.) A bound is never below what was seen. Maxima
    of 0 count as the smallest other one of their class; a class in which nothing ever flows has the
    bound 0.

    Args:
        largest: Columns ``seed``, ``class``, ``largest``: :func:`largest` of several models; flows
            and effects of the same models, one below the other, share the level.

    Returns:
        Nats per scored position, by class.

    Raises:
        ConfigurationError: If there are fewer than five models, or a flow is not finite.
    """
    by_class = largest.sort("class", "seed").group_by("class", maintain_order=True)
    maxima = {str(name): part["largest"].to_numpy() for (name,), part in by_class}
    found: dict[str, float] = {}
    for name, sizes in maxima.items():
        if not np.isfinite(sizes).all():
            raise ConfigurationError(
                f"an untrained model is not finite ({name}): there is no bound on "
                "what untrained models reach; measure in float64, or initialise with less"
            )
        if len(sizes) < LEAST:
            raise ConfigurationError(
                f"{len(sizes)} untrained models give no bound on what untrained models reach "
                f"({name}): measure at least {LEAST}"
            )
        positive = sizes[sizes > 0]
        if not positive.size:
            found[name] = 0.0
            continue
        logs = np.log(np.maximum(sizes, positive.min()))
        reach = _further(len(logs), LEVEL / len(maxima)) * float(logs.std(ddof=1))
        found[name] = max(exp(float(logs.mean()) + reach), float(sizes.max()))
    return found


def counted(
    flows: pl.DataFrame, bounds: Mapping[str, float], effects: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The edges that count.

    An edge counts when |flow| − z·se − integration error exceeds the bound of its class, where z is
    the normal quantile at which in one case of a hundred any edge at all would exceed a bound (or
    0) by sampling error alone: family-wise over the edges (Bonferroni, both signs), for there are
    thousands of them. That holds whatever their dependence, which is strong: they share sequences
    and suppliers. The integration error is no matter of chance but how far the flow may be from
    its integral over the dial, so it is taken off whole. A flow without either cannot count.

    Where exact effects were measured an edge also counts when |effect| − z·se exceeds the bound on
    effects. A half-dialled model may answer nonsense, so that an edge without which the whole model
    fails earns little on the way; its effect tells. z is then that of twice as many edges: effects
    are measured where flows are large, so all of them might have been.

    Args:
        flows: Rows of table ``flows`` of one step and one baseline.
        bounds: By class of edges (:func:`bounds`).
        effects: Rows of table ``edges`` of the same. Edges without a flow, which are those from
            embeddings, are passed over: embeddings are the endowment.

    Returns:
        Columns ``supplier``, ``buyer``, ``port``, ``flow`` (signal + crowding), ``se``,
        ``integration_error``, ``bound``, ``effect``, ``effect_se``, ``effect_bound`` (null where
        not measured), ``admitted_by`` (:class:`Admitted`), in the order of the forward pass
        whatever the order of the rows.

    Raises:
        ConfigurationError: If an edge is there twice, or there is no bound for its class.
    """
    tested = _tested(flows, bounds, effects)
    flow = _beyond(pl.col("flow").abs() - pl.col("integration_error"), "se", "bound")
    effect = _beyond(pl.col("effect").abs(), "effect_se", "effect_bound")
    admitted = (
        pl.when(flow & effect)
        .then(pl.lit(Admitted.BOTH.value))
        .when(flow)
        .then(pl.lit(Admitted.FLOW.value))
        .when(effect)
        .then(pl.lit(Admitted.EFFECT.value))
    )
    kept = tested.with_columns(admitted_by=admitted).filter(pl.col("admitted_by").is_not_null())
    edges = kept.select(_EDGE).rows()
    return kept[sorted(range(len(edges)), key=lambda at: edge_key(edges[at]))].drop("z")


def amount(edges: pl.DataFrame) -> pl.Series:
    """What passes over each counted edge, in nats: its flow, or the effect if it alone counts."""
    if "admitted_by" not in edges.columns:
        return edges["flow"]
    exact = pl.col("admitted_by") == Admitted.EFFECT
    return edges.select(pl.when(exact).then("effect").otherwise("flow").alias("amount")).to_series()


def shortfall(
    flows: pl.DataFrame,
    bounds: Mapping[str, float],
    sequences: int,
    effects: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """How far the largest flow is from counting, and how many sequences would make it count.

    Its standard error is taken to shrink with the root of their number; its size, and what
    untrained models reach and what its integral may be off by, to stay.

    Args:
        flows: As for :func:`counted`.
        bounds: As for :func:`counted`.
        sequences: How many sequences the flows were measured on.
        effects: As for :func:`counted`; that there are any raises z.

    Returns:
        ``supplier``, ``buyer``, ``port``, ``flow``, ``se``, ``integration_error``, ``bound`` of the
        largest flow;
        ``needed``, sequences that would make it count, and ``fewest``, those that would make any
        flow count. None is never: untrained models reach as much, or nobody knows the error.
    """
    tested = _tested(flows, bounds, effects)
    beyond = pl.col("flow").abs() - pl.col("integration_error") - pl.col("bound")
    errors = pl.col("z") * pl.col("se")
    needed = pl.when((beyond > 0) & errors.is_finite()).then(
        (sequences * (errors / beyond) ** 2).ceil().clip(1).cast(pl.Int64, strict=False)
    )
    rows = tested.with_columns(needed=needed).sort(pl.col("flow").abs(), descending=True)
    names = (*_EDGE, "flow", "se", "integration_error", "bound", "needed")
    first: dict[str, Any] = dict.fromkeys(names)
    if rows.height:
        first = rows.select(names).row(0, named=True)
    return {**first, "fewest": rows["needed"].min()}


def _tested(
    flows: pl.DataFrame, bounds: Mapping[str, float], effects: pl.DataFrame | None
) -> pl.DataFrame:
    """Flows, and effects, with what they must exceed: a bound beyond z standard errors."""
    for what, rows in (("flow", flows), ("effect", effects)):
        if rows is not None and (twice := rows.filter(rows.select(_EDGE).is_duplicated())).height:
            raise ConfigurationError(
                f"the {what} {' '.join(twice.select(_EDGE).row(0))} is there more than once: edges "
                "are counted at one step and under one baseline"
            )
    errors = [pl.col(name).cast(pl.Float64) for name in ("se", "integration_error")]
    known = flows.select(*_EDGE, _FLOW.alias("flow"), *errors).filter(pl.col("flow").is_finite())
    found = known.with_columns(_bounds(known, bounds, Quantity.FLOW).alias("bound"))
    tests = int(known["se"].is_finite().sum())
    if effects is None:
        found = found.with_columns(**dict.fromkeys(_EXACT, pl.lit(None, pl.Float64)))
    else:
        tests *= 2
        exact = effects.select(*_EDGE, "effect", effect_se="se").join(
            known, on=list(_EDGE), how="semi"
        )
        bound = _bounds(exact, bounds, Quantity.EFFECT).alias("effect_bound")
        found = found.join(exact.with_columns(bound), on=list(_EDGE), how="left")
    z = sampling_quantile(tests)
    return found.with_columns(z=pl.lit(z, pl.Float64))


def _beyond(size: pl.Expr, se: str, bound: str) -> pl.Expr:
    certain = size - pl.col("z") * pl.col(se)
    return (certain.is_finite() & (certain > pl.col(bound))).fill_null(value=False)


def _bounds(edges: pl.DataFrame, bounds: Mapping[str, float], quantity: Quantity) -> pl.Series:
    classes = _classes(edges, quantity)
    if missing := sorted(set(classes).difference(bounds)):
        raise ConfigurationError(
            f"no untrained model says what {missing[0]}s may reach; there is: "
            f"{', '.join(sorted(bounds)) or 'nothing'}"
        )
    return pl.Series([bounds[name] for name in classes], dtype=pl.Float64)


def sampling_quantile(edges: int) -> float:
    """How many standard errors an edge must be from 0 to count, among so many edges."""
    return -NormalDist().inv_cdf(LEVEL / 2 / max(edges, 1))


@cache
def _further(count: int, level: float) -> float:
    """Upper quantile of how far one more Gumbel draw lies above the mean of some, in deviations.

    It does not depend on place and scale of the distribution, so it is simulated (from a fixed
    seed, to about 1 %).
    """
    rng = np.random.default_rng(0)
    draws = (rng.gumbel(size=(_SAMPLES // _BATCHES, count + 1)) for _ in range(_BATCHES))
    ratios = [(x[:, 0] - x[:, 1:].mean(1)) / x[:, 1:].std(1, ddof=1) for x in draws]
    return float(np.quantile(np.concatenate(ratios), 1 - level))


def _classes(edges: pl.DataFrame, quantity: Quantity) -> list[str]:
    for supplier in edges["supplier"].unique():
        kind_of(supplier)
    known = {buyer: edge_class(buyer, quantity) for buyer in edges["buyer"].unique()}
    return [known[buyer] for buyer in edges["buyer"]]

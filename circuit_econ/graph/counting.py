"""Which edges count: those beyond their sampling error and beyond untrained models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import exp
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import polars as pl

from circuit_econ.errors import ConfigurationError
from circuit_econ.tables import Kind, component_key

__all__ = ["bounds", "counted", "edge_class", "edge_key", "kind_of", "largest_flows"]

LEVEL: Final = 0.01
"""Chance that anything at all counts by accident: over classes of edges, and over edges."""

LEAST: Final = 5
"""Untrained models below which their spread says too little."""

_SAMPLES: Final = 400_000
_BATCHES: Final = 20

_EDGE: Final = ("supplier", "buyer", "port")
_FLOW = pl.col("signal") + pl.col("crowding")


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


def edge_class(supplier: str, buyer: str, port: str) -> str:
    """The class of an edge: kinds of supplier and buyer, and port; ``head → head k``."""
    return f"{kind_of(supplier)} → {kind_of(buyer)} {port}"


def edge_key(edge: Sequence[str]) -> tuple[Any, ...]:
    """Sort key of supplier, buyer, port: in the order of the forward pass, logits last."""
    supplier, buyer, port = edge
    return (component_key(supplier), component_key(buyer), port)


def largest_flows(flows: pl.DataFrame) -> pl.DataFrame:
    """The largest absolute flow of every class of edges in one model.

    Args:
        flows: Columns ``supplier``, ``buyer``, ``port``, ``signal``, ``crowding`` of one model
            under one baseline.

    Returns:
        Columns ``class`` and ``largest`` (nats per scored position), sorted by class.
    """
    sizes = flows.select(
        pl.Series("class", _classes(flows), pl.String), _FLOW.abs().alias("largest")
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
        largest: Columns ``seed``, ``class``, ``largest``: :func:`largest_flows` of several models.

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
                f"the flows of an untrained model are not finite ({name}): there is no bound on "
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


def counted(flows: pl.DataFrame, bounds: Mapping[str, float]) -> pl.DataFrame:
    """The edges that count.

    An edge counts when |flow| − z·se exceeds the bound of its class, where z is the normal quantile
    at which in one case of a hundred any edge at all would exceed a bound (or 0) by sampling error
    alone: family-wise over the edges (Bonferroni, both signs), for there are thousands of them.
    That holds whatever their dependence, which is strong: they share sequences and suppliers.
    An edge without a standard error cannot count.

    Args:
        flows: Rows of table ``flows`` of one step and one baseline.
        bounds: By class of edges (:func:`bounds`).

    Returns:
        Columns ``supplier``, ``buyer``, ``port``, ``flow`` (signal + crowding), ``se``, ``bound``,
        in the order of the forward pass whatever the order of the flows.

    Raises:
        ConfigurationError: If an edge is there twice, or there is no bound for its class.
    """
    twice = flows.filter(flows.select(_EDGE).is_duplicated())
    if twice.height:
        raise ConfigurationError(
            f"the flow {' '.join(twice.select(_EDGE).row(0))} is there more than once: edges are "
            "counted at one step and under one baseline"
        )
    known = flows.select(*_EDGE, flow=_FLOW, se=pl.col("se").cast(pl.Float64)).filter(
        pl.col("flow").is_finite() & pl.col("se").is_finite()
    )
    classes = _classes(known)
    if missing := sorted(set(classes).difference(bounds)):
        raise ConfigurationError(
            f"no untrained model says what edges {missing[0]!r} may reach; there is: "
            f"{', '.join(sorted(bounds)) or 'nothing'}"
        )
    z = -NormalDist().inv_cdf(LEVEL / 2 / max(known.height, 1))
    reach = pl.Series("bound", [bounds[name] for name in classes], pl.Float64)
    kept = known.with_columns(reach).filter(
        pl.col("flow").abs() - z * pl.col("se") > pl.col("bound")
    )
    edges = kept.select(_EDGE).rows()
    return kept[sorted(range(len(edges)), key=lambda at: edge_key(edges[at]))]


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


def _classes(flows: pl.DataFrame) -> list[str]:
    ends = flows.select("supplier", "buyer").unique().rows()
    known = {(supplier, buyer): edge_class(supplier, buyer, "") for supplier, buyer in ends}
    return [known[edge[:2]] + edge[2] for edge in flows.select(_EDGE).iter_rows()]

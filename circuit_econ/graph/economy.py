"""What flows say of an economy as a whole and of each component: shares, stages, turnover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from circuit_econ.tables import Kind

__all__ = ["capital_share", "through_flow", "upstreamness"]

NEAR_ZERO: Final = 0.01
"""All flows together are near 0 when this share of what changes hands would undo them."""

_FLOW = pl.col("signal") + pl.col("crowding")


def capital_share(flows: pl.DataFrame) -> float | None:
    """Flows to components over all flows (economy, section 4).

    Args:
        flows: Rows of table ``flows`` of one step and one baseline.

    Returns:
        The share, without unit. Flows have signs, so it may leave 0 to 1. None where it is
        undefined: all flows together are at most 1 % of the sum of their sizes.
    """
    found = flows.select(
        capital=_FLOW.filter(pl.col("buyer") != Kind.LOGITS).sum(),
        total=_FLOW.sum(),
        size=_FLOW.abs().sum(),
    ).row(0, named=True)
    # Written so that a NaN, too, is undefined.
    if not abs(found["total"]) > NEAR_ZERO * found["size"]:
        return None
    return found["capital"] / found["total"]


def upstreamness(coefficients: Sequence[float]) -> float | None:
    """Mean number of stages between a component's sales and the loss (Antràs et al. 2012).

    U = 1 + φ'(1)/φ(1), where the coefficient of zⁿ in φ(z) is the income that passes n components
    on its way to the logits.

    Args:
        coefficients: Income by stage in nats; the first is sold to the logits directly.

    Returns:
        Stages: 1 where all is sold to the logits. None where the income is not positive.
    """
    income = sum(coefficients)
    if not income > 0:
        return None
    return 1 + sum(passed * earned for passed, earned in enumerate(coefficients)) / income


def through_flow(flows: pl.DataFrame) -> pl.DataFrame:
    """What every component buys and sells, net of losses, in nats per scored position.

    Args:
        flows: Rows of table ``flows`` of one step and one baseline.

    Returns:
        Columns ``component``, ``bought`` (0 for who only sells) and ``sold`` (its income).
    """
    sold = flows.group_by(component="supplier").agg(sold=_FLOW.sum())
    bought = flows.group_by(component="buyer").agg(bought=_FLOW.sum())
    return (
        bought.join(sold, on="component", how="full", coalesce=True)
        .select("component", pl.col("bought", "sold").fill_null(0.0))
        .sort("component")
    )

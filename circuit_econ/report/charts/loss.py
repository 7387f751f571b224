"""The loss of every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import altair as alt
import polars as pl

from circuit_econ.report.charts.encodings import (
    Z95,
    AnyChart,
    run_colour,
    step_axis,
    supply,
    themed,
    told,
)
from circuit_econ.report.frames import RunFrames
from circuit_econ.tables import Status

__all__ = ["loss_curve", "loss_data"]

_RED: Final = "#c62828"


def loss_data(runs: Sequence[RunFrames]) -> pl.DataFrame:
    """The checkpoints of all runs with the ends of their error bands, ``low`` and ``high``."""
    margin = Z95 * pl.col("loss_se")
    return pl.concat([run.checkpoints for run in runs]).with_columns(
        low=pl.col("loss") - margin, high=pl.col("loss") + margin
    )


def loss_curve(
    runs: Sequence[RunFrames], width: int | str = 860, data: str | None = None
) -> AnyChart:
    """Loss of every checkpoint with its error, a line per run; failed checkpoints as crosses.

    Args:
        runs: At least one.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
    """
    rows = loss_data(runs)
    measured = f"datum.status === '{Status.MEASURED}' && isValid(datum.loss)"
    title = "loss (nats per position)"
    loss = alt.Y("loss:Q", title=title, scale=alt.Scale(zero=False))
    who = [alt.Tooltip("run:N")] if len(runs) > 1 else []
    when = [*who, alt.Tooltip("step:Q", format=",")]
    if rows["tokens_seen"].is_not_null().any():
        when.append(alt.Tooltip("tokens_seen:Q", format=",", title="tokens seen"))
    base = (
        alt.Chart()
        .transform_calculate(told_loss=told("loss", "loss_se", ".4f"))
        .encode(x=step_axis(rows["step"]), color=run_colour(runs))
    )
    line = base.transform_filter(measured).mark_line(strokeWidth=2).encode(y=loss)
    points = (
        base.transform_filter(measured)
        .mark_point(filled=True, size=45, opacity=1)
        .encode(y=loss, tooltip=[*when, alt.Tooltip("told_loss:N", title="loss")])
    )
    band = (
        base.transform_filter(f"{measured} && isValid(datum.loss_se)")
        .mark_area(opacity=0.25)
        .encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    )
    failed = (
        base.transform_filter(f"datum.status !== '{Status.MEASURED}'")
        .mark_point(shape="cross", size=90, filled=True, angle=45, opacity=1)
        .encode(y=alt.value(10), color=alt.value(_RED), tooltip=[*when, alt.Tooltip("reason:N")])
    )
    # A layer without rows has no extent, of which Vega complains.
    layers = [failed]
    if rows["loss"].is_not_null().any():
        layers = [line, points, failed]
    if rows["low"].is_not_null().any():
        layers = [band, *layers]
    chart = alt.layer(*layers, data=supply(rows, data)).properties(width=width, height=240)
    return themed(chart)

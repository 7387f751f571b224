"""Value, and attention scores beside it, over time as lines."""

from __future__ import annotations

from typing import Final

import altair as alt
import polars as pl

from circuit_econ.report.charts.encodings import (
    LARGEST_FIRST,
    OF_BASELINE,
    TOLD,
    VALUE,
    AnyChart,
    baseline_choice,
    end_or_value,
    quantity_choice,
    step_axis,
    supply,
    themed,
    value_tooltip,
)
from circuit_econ.report.frames import RunFrames
from circuit_econ.report.theme import FAINT
from circuit_econ.tables import Kind

__all__ = ["score_and_value", "value_over_time"]

_SCORE: Final = "attention score"
_COLOURED: Final = 6  # more colours cannot be told apart
_COMPONENT: Final = alt.Color(
    "component:N", legend=alt.Legend(title="largest", symbolOpacity=1, symbolType="circle")
)


def value_over_time(run: RunFrames, width: int | str = 860, data: str | None = None) -> AnyChart:
    """Value of every component over time as lines: the largest coloured, with error bands.

    Args:
        run: A run with values.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
    """
    base = (
        _ranked(alt.Chart(), "abs(datum.value)")
        .transform_calculate(
            down=end_or_value("low"),
            up=end_or_value("high"),
        )
        .encode(x=step_axis(run.steps))
    )
    count = run.accounts["component"].n_unique()
    layers = _highlighted(base, alt.Y("value:Q", title=VALUE), count)
    band = (
        base.transform_filter(f"datum.rank <= {_COLOURED}")
        .mark_area(opacity=0.18)
        .encode(
            y=alt.Y("down:Q", title=VALUE),
            y2="up:Q",
            color=_COMPONENT,
        )
    )
    chart = alt.layer(band, *layers, data=supply(run.accounts, data)).properties(
        width=width, height=260
    )
    return themed(chart.add_params(baseline_choice([run])))


def score_and_value(run: RunFrames, width: int = 780, data: str | None = None) -> AnyChart:
    """An attention score of every head over time, above the value of the same heads.

    The heads with the highest scores are coloured, alike in both panels, so that a phase change
    shows in what a head does and in what it earns. Without values only the scores are drawn.

    Args:
        run: A run with attention scores.
        width: Of the plots in pixels.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
    """
    base = (
        _ranked(alt.Chart(), "datum[quantity]")
        .transform_filter(f"datum.kind === '{Kind.HEAD}'")
        .encode(x=step_axis(run.steps))
    )
    heads = run.accounts.filter(pl.col("kind") == Kind.HEAD.value)["component"].n_unique()
    shown = [alt.Y("size:Q", title=_SCORE)]
    if run.has_values:
        shown.append(alt.Y("value:Q", title=VALUE))
    panels = [
        alt.layer(*_highlighted(base, y, heads, alt.Tooltip("size:Q", title=_SCORE, format=".3~g")))
        for y in shown
    ]
    sized = [panel.properties(width=width, height=190) for panel in panels]
    chart = alt.vconcat(*sized, data=supply(run.accounts, data), spacing=12)
    return themed(chart.add_params(baseline_choice([run]), quantity_choice(run)))


def _ranked(chart: alt.Chart, size: str) -> alt.Chart:
    """Rows of the chosen baseline with ``size``; ``rank`` of the component by its largest size."""
    return (
        chart.transform_filter(OF_BASELINE)
        .transform_calculate(size=size)
        .transform_filter("isValid(datum.size)")
        .transform_calculate(**TOLD)
        .transform_joinaggregate(peak="max(size)", groupby=["component"])
        .transform_window(
            rank="dense_rank()",
            sort=LARGEST_FIRST,
        )
    )


def _highlighted(base: alt.Chart, y: alt.Y, count: int, *tips: alt.Tooltip) -> list[alt.Chart]:
    """Lines of ``count`` :func:`_ranked` components: the first coloured, the others faint."""
    top = base.transform_filter(f"datum.rank <= {_COLOURED}")
    layers = [
        top.mark_line(strokeWidth=2).encode(y=y, color=_COMPONENT),
        top.mark_point(filled=True, size=35, opacity=1).encode(
            y=y, color=_COMPONENT, tooltip=[*value_tooltip(), *tips]
        ),
    ]
    if count <= _COLOURED:  # a layer without rows has no extent, of which Vega complains
        return layers
    others = base.transform_filter(f"datum.rank > {_COLOURED}")
    faint = others.mark_line(strokeWidth=1, opacity=0.3).encode(
        y=y, detail="component:N", color=alt.value(FAINT)
    )
    return [faint, *layers]

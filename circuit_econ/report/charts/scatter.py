"""Value against capacity, with a slider over checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import altair as alt

from circuit_econ.report.charts.encodings import (
    LARGEST_FIRST,
    OF_BASELINE,
    SHORT_NUMBER,
    TOLD,
    VALUE,
    AnyChart,
    baseline_choice,
    checkpoint_choice,
    currency_choice,
    end_or_value,
    kind_scale,
    run_colour,
    supply,
    themed,
    together,
    value_tooltip,
)
from circuit_econ.report.frames import RunFrames
from circuit_econ.report.theme import FAINT

__all__ = ["value_against_capacity"]

_NAMED: Final = 8  # points with a name and a trail


def value_against_capacity(
    runs: Sequence[RunFrames],
    width: int | str = 860,
    data: str | None = None,
    steps: Sequence[int] | None = None,
) -> AnyChart:
    """Value against capacity at one checkpoint, chosen with a slider, in a chosen currency.

    The axes span all checkpoints, so that moving the slider shows movement; faint trails are the
    ways of the largest components. On a ray from the origin the return is the same; the
    dashed one is the components' mean value / mean capacity at the checkpoint.

    Args:
        runs: At least one, with values and a currency. Several runs differ in colour.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
        steps: What the slider counts through; by default the runs' own steps.
    """
    steps = steps or sorted({step for run in runs for step in run.steps})
    labels = {c: label for run in runs for c, label in run.currencies.items()}
    step = f"{json.dumps(steps)}[checkpoint]"
    colour, shape = kind_scale(runs)
    if len(runs) > 1:
        colour = run_colour(runs)
    capacity = "capacity in the chosen currency"
    x = alt.X("capacity:Q", title=capacity, axis=alt.Axis(labelExpr=SHORT_NUMBER, tickCount=8))
    y = alt.Y("value:Q", title=VALUE)
    low = alt.Y("down:Q", title=VALUE)
    every = (
        alt.Chart()
        .transform_filter(OF_BASELINE)
        .transform_calculate(
            capacity="datum[currency]",
            down=end_or_value("low"),
            up=end_or_value("high"),
        )
        .transform_filter("isValid(datum.capacity) && isValid(datum.value)")
        .transform_joinaggregate(
            top="max(up)", bottom="min(down)", right="max(capacity)", left="min(capacity)"
        )
        .encode(x=x, detail=["component:N", "run:N"])
    )
    now = every.transform_filter(f"datum.step === {step}")
    # Invisible error bars of all checkpoints: they hold the axes still.
    extent = every.mark_rule(opacity=0).encode(y=low, y2="up:Q")
    trail = (
        every.transform_joinaggregate(peak="max(value)", groupby=["component", "run"])
        .transform_window(rank="dense_rank()", sort=LARGEST_FIRST)
        .transform_filter(f"datum.rank <= {_NAMED}")
        .mark_line(strokeWidth=1, opacity=0.4)
        .encode(y=y, order="step:Q", color=alt.value(FAINT))
    )
    bars = now.mark_rule(strokeWidth=1.2, opacity=0.7).encode(y=low, y2="up:Q", color=colour)
    points = (
        now.transform_calculate(
            price="datum.capacity ? format(datum.value / datum.capacity, '.3~g') : '–'",
            told_capacity="format(datum.capacity, abs(datum.capacity) < 1e4 ? ',.4~r' : ',.0f')",
            **TOLD,
        )
        .mark_point(filled=True, size=70, opacity=0.95)
        .encode(
            y=y,
            color=colour,
            shape=shape,
            tooltip=[
                *([alt.Tooltip("run:N")] if len(runs) > 1 else []),
                *value_tooltip(),
                alt.Tooltip("told_capacity:N", title="capacity"),
                alt.Tooltip("price:N", title="return"),
            ],
        )
    )
    # A name stands only where the one above it, in order of value, leaves room.
    names = (
        now.transform_window(
            rank="row_number()",
            above="lag(value)",
            beside="lag(capacity)",
            sort=[alt.SortField("value", order="descending")],
        )
        .transform_filter(
            f"datum.rank <= {_NAMED} && (!isValid(datum.above)"
            " || datum.above - datum.value > 0.04 * (datum.top - datum.bottom)"
            " || abs(datum.beside - datum.capacity)"
            " > 0.08 * (max(datum.right, 0) - min(datum.left, 0)))"
        )
        .mark_text(align="left", dx=8, fontSize=11)
        .encode(y=y, text="component:N")
    )
    ray = (
        now.transform_aggregate(
            mean_capacity="mean(capacity)",
            mean_value="mean(value)",
            right="max(right)",
            groupby=["run"],
        )
        .transform_calculate(
            zero="0",
            end="datum.mean_capacity > 0"
            " ? datum.mean_value / datum.mean_capacity * datum.right : 0",
        )
        .mark_rule(strokeDash=[5, 4], clip=True)
        .encode(
            x=alt.X("zero:Q", title=capacity),
            x2="right:Q",
            y=alt.Y("zero:Q", title=VALUE),
            y2="end:Q",
            color=colour if len(runs) > 1 else alt.value(FAINT),
            detail="run:N",
        )
    )
    title = alt.TitleParams(
        text=alt.expr(
            f"'step ' + format({step}, ',') + ': value against ' + {json.dumps(labels)}[currency]"
        )
    )
    chart = alt.layer(extent, trail, ray, bars, points, names, data=supply(together(runs), data))
    return themed(
        chart.properties(width=width, height=430, title=title).add_params(
            baseline_choice(runs), currency_choice(runs), checkpoint_choice(steps)
        )
    )

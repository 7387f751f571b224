"""Circuits over training as lanes: when each was born, what it was worth, and when it went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import altair as alt
import polars as pl

from circuit_econ.report.charts.encodings import (
    AnyChart,
    colour_limit,
    moment,
    step_axis,
    supply,
    themed,
    told,
)
from circuit_econ.report.frames import RunFrames
from circuit_econ.report.theme import FAINT, SIGNS

__all__ = ["circuit_lanes"]

_EVENTS: Final = {
    "birth": "triangle-up",
    "death": "cross",
    "split": "triangle-right",
    "merger": "triangle-left",
    "relocation": "diamond",
    "conversion": "square",
    "growth": "arrow",
    "decline": "triangle-down",
}
"""Marks of events. That a circuit goes on is none."""

_LANE: Final = 58
"""Pixels from lane to lane."""

_HAPPENED: Final = f"indexof({json.dumps(list(_EVENTS))}, datum.event) >= 0"


def circuit_lanes(
    run: RunFrames,
    width: int | str = 860,
    data: tuple[str, str] | None = None,
    steps: Sequence[int] | None = None,
) -> AnyChart:
    """A lane for each line of circuits, from its birth to its exit.

    A lane is as thick as what is traded inside, and each checkpoint's point has the colour of the
    joint value. Marks above a lane are events; where circuits split or merge a thin line leads from
    the lane of the parent.

    Args:
        run: A run in which circuits were found.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Names of the datasets of circuits and of events, where whoever shows the chart
            supplies them; by default the rows go along.
        steps: What the page's choice of a checkpoint counts through.
    """
    lives = run.trade.lives
    circuits, events = data or (None, None)
    x = step_axis({*lives.circuits["step"], *lives.events["step"], *lives.agreement["step"]})
    valued = lives.circuits.filter(pl.col("baseline").is_not_null())
    measured = set(valued["baseline"])
    order = [name for name in run.all_baselines if name in measured]
    params = moment(steps or run.all_steps, valued, order or None) if valued.height else []
    lane = alt.Y(
        "lineage:N",
        sort=None,
        scale=alt.Scale(domain=lives.lineages),
        axis=alt.Axis(title="circuit", grid=False, ticks=False, labelOverlap=False),
    )
    of_baseline = "!isValid(datum.baseline)" + (" || datum.baseline === under" if params else "")
    base = (
        alt.Chart(supply(lives.circuits, circuits))
        .transform_filter(of_baseline)
        .transform_calculate(
            told_value=told("value", "se"),
            told_redundancy=told("redundancy", "redundancy_se"),
        )
        .encode(x=x, y=lane)
    )
    thick = alt.Size(
        "trade:Q",
        scale=alt.Scale(domain=[0, max(lives.circuits["trade"]) or 1.0], range=[2, 26]),
        legend=alt.Legend(
            title="trade inside, |flow| (nats per position)", orient="top", tickCount=3,
            symbolFillColor=FAINT,
        ),
    )  # fmt: skip
    tips = [
        alt.Tooltip("lineage:N", title="line"),
        alt.Tooltip("circuit:N"),
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("roles:N", title="roles"),
        alt.Tooltip("members:Q"),
        alt.Tooltip("trade:Q", title="trade inside (nats)", format=".4~g"),
    ]
    points = base.mark_point(filled=True, size=110, opacity=1, strokeWidth=1, stroke=FAINT)
    if valued.height:
        limit = colour_limit([lives.circuits["value"]])
        points = points.encode(
            fill=alt.Fill(
                "value:Q",
                scale=alt.Scale(
                    type="symlog", constant=limit / 20, domain=[-limit, limit], domainMid=0,
                    clamp=True, interpolate="rgb", range="diverging",
                ),
                legend=alt.Legend(
                    title="joint value (nats per position)", orient="top", gradientLength=200,
                    values=[-limit, 0, limit], format="~r",
                ),
            )
        )  # fmt: skip
        tips += [
            alt.Tooltip("baseline:N"),
            alt.Tooltip("told_value:N", title="joint value (nats)"),
            alt.Tooltip("singles:Q", title="sum of single values (nats)", format=".4~g"),
            alt.Tooltip("told_redundancy:N", title="redundancy (nats)"),
        ]
    layers: list[alt.Chart] = [
        base.mark_trail(color=FAINT, opacity=0.45).encode(
            size=thick, detail="lineage:N", order="step:Q"
        ),
        points.encode(tooltip=tips),
        base.transform_joinaggregate(first="min(step)", groupby=["lineage"])
        .transform_filter("datum.step === datum.first")
        .mark_text(align="left", yOffset=23, fontSize=10.5, limit=360, opacity=0.8)
        .encode(text="roles:N"),
    ]
    if lives.events["event"].is_in(list(_EVENTS)).any():
        layers += _event_marks(run, events, x, lane)
    chart = alt.layer(*layers).resolve_scale(size="independent", shape="independent")
    return themed(
        chart.properties(width=width, height=max(70, _LANE * len(lives.lineages))).add_params(
            *params
        )
    )


def _event_marks(run: RunFrames, data: str | None, x: alt.X, lane: alt.Y) -> list[alt.Chart]:
    events = run.trade.lives.events
    there = [name for name in _EVENTS if name in set(events["event"])]
    base = (
        alt.Chart(supply(events, data))
        .transform_filter(_HAPPENED)
        .transform_calculate(
            told_overlap="isValid(datum.overlap) ? format(datum.overlap, '.2f') : '–'",
            told_since="isValid(datum.since) ? 'since step ' + format(datum.since, ',') : '–'",
            told_value=told("value", "se"),
            told_parent=told("parent_value", "parent_se"),
        )
    )
    shape = alt.Shape(
        "event:N",
        scale=alt.Scale(domain=there, range=[_EVENTS[name] for name in there]),
        legend=alt.Legend(title="event", orient="top", symbolType="circle"),
    )
    marks = base.mark_point(
        filled=True, size=70, opacity=1, yOffset=-17, color=list(SIGNS.values())[1]
    ).encode(
        x=x,
        y=lane,
        shape=shape,
        tooltip=[
            alt.Tooltip("event:N"),
            alt.Tooltip("step:Q", format=","),
            alt.Tooltip("lineage:N", title="line"),
            alt.Tooltip("circuit:N"),
            alt.Tooltip("parent:N"),
            alt.Tooltip("told_overlap:N", title="overlap"),
            alt.Tooltip("baseline:N", title="values under"),
            alt.Tooltip("told_parent:N", title="parent's joint value (nats)"),
            alt.Tooltip("told_value:N", title="joint value (nats)"),
            alt.Tooltip("told_since:N", title="grown or declined"),
        ],
    )
    crossing = events.filter((events["lineage"] != events["from_lineage"]).fill_null(False))
    if not crossing.height:
        return [marks]
    ties = (
        base.transform_filter("isValid(datum.from_lineage) && datum.from_lineage !== datum.lineage")
        .mark_rule(strokeWidth=1.2, strokeDash=[3, 3], color=FAINT)
        .encode(
            x=alt.X("from_step:Q", title="step"),
            x2="step:Q",
            y=alt.Y("from_lineage:N", title="circuit"),
            y2="lineage:N",
        )
    )
    return [ties, marks]

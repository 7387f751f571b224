"""One quantity against another at one checkpoint: a point for each component, or each edge."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import polars as pl

from circuit_econ.report.charts.encodings import (
    OF_MOMENT,
    SHAPES,
    Z95,
    AnyChart,
    margin,
    moment,
    moment_title,
    supply,
    themed,
    told,
)
from circuit_econ.report.frames import RunFrames
from circuit_econ.report.theme import FAINT, KIND_COLOURS
from circuit_econ.report.trade import kind_of

__all__ = ["direct_against_mediated", "effect_against_flow", "signal_against_crowding"]

_NAMED: Final = 8  # points with a name


def signal_against_crowding(
    run: RunFrames,
    width: int | str = 860,
    data: str | None = None,
    steps: Sequence[int] | None = None,
) -> AnyChart:
    """What each component sells against what it costs or spares the others, at one checkpoint.

    On the dashed line the two cancel: above it income is positive. The axes do not move with the
    slider.

    Args:
        run: A run with flows.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
        steps: What the slider counts through; by default the steps with flows.
    """
    rows = run.trade.nodes.filter(pl.col("income").is_not_null()).with_columns(
        crowding=pl.col("income") - pl.col("signal")
    )
    points = (
        _of_moment(supply(run.trade.nodes, data))
        .transform_filter("isValid(datum.income)")
        .transform_calculate(margin=margin())
        .transform_calculate(
            crowding="datum.income - datum.signal",
            size="abs(datum.income)",
            told_income=told("income", "margin"),
        )
    )
    tips = [
        alt.Tooltip("component:N"),
        alt.Tooltip("signal:Q", title="signal (nats)", format=".4~g"),
        alt.Tooltip("crowding:Q", title="crowding (nats)", format=".4~g"),
        alt.Tooltip("told_income:N", title="income (nats)"),
    ]
    axes = (_axis(rows, "signal"), _axis(rows, "crowding"))
    chart = alt.layer(
        *_cross(*axes, slope=-1), *_named(points, *axes, tips, *_kinds(rows["component"]))
    )
    return _finished(chart, run, rows, width, steps, "signal against crowding")


def direct_against_mediated(
    run: RunFrames,
    width: int | str = 860,
    data: str | None = None,
    steps: Sequence[int] | None = None,
) -> AnyChart:
    """Direct value of each component against its mediated value, at one checkpoint.

    Bars are ± 1.96 standard errors; on the dashed line the two are equal.

    Args:
        run: A run with direct and mediated values.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
        steps: What the slider counts through; by default the steps that were measured.
    """
    rows = run.trade.direct
    points = _of_moment(supply(rows, data)).transform_calculate(
        size="abs(datum.direct) + abs(datum.mediated)",
        kind="test(/^m/, datum.component) ? 'mlp' : test(/^a/, datum.component)"
        " ? 'head' : datum.component",
        told_direct=told("direct", "se"),
        told_mediated=told("mediated", "mediated_se"),
        told_interaction=told("interaction", "interaction_se"),
    )
    tips = [
        alt.Tooltip("component:N"),
        alt.Tooltip("told_direct:N", title="direct (nats)"),
        alt.Tooltip("told_mediated:N", title="mediated (nats)"),
        alt.Tooltip("told_interaction:N", title="interaction (nats)"),
    ]
    x = _axis(rows, "direct", "direct value")
    y = _axis(rows, "mediated", "mediated value")
    bars = [
        _bars(points, "direct", "se", x, y, flat=True),
        _bars(points, "mediated", "mediated_se", y, x),
    ]
    chart = alt.layer(
        *_cross(x, y, slope=1), *bars, *_named(points, x, y, tips, *_kinds(rows["component"]))
    )
    return _finished(chart, run, rows, width, steps, "direct against mediated value")


def effect_against_flow(
    run: RunFrames,
    width: int | str = 860,
    data: str | None = None,
    steps: Sequence[int] | None = None,
) -> AnyChart:
    """Exact effect of each measured edge against its flow, at one checkpoint.

    Bars are ± 1.96 standard errors, those of flows with the integration error on top; on the dashed
    line the two are equal.

    Args:
        run: A run with exact edges.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
        steps: What the slider counts through; by default the steps that were measured.
    """
    rows = run.trade.effects.filter(pl.col("flow").is_not_null())
    points = (
        _of_moment(supply(run.trade.effects, data))
        .transform_filter("isValid(datum.flow)")
        .transform_calculate(margin=margin("flow_se", "flow_error"))
        .transform_calculate(
            told_flow=told("flow", "margin"),
            component="datum.supplier + ' → ' + datum.buyer"
            " + (datum.port === 'in' ? '' : ' ' + datum.port)",
            size="abs(datum.effect)",
            told_effect=told("effect", "se"),
            why="datum.chosen === 'flow' ? 'for its flow' : 'at random'",
        )
    )
    tips = [
        alt.Tooltip("component:N", title="edge"),
        alt.Tooltip("told_flow:N", title="flow (nats)"),
        alt.Tooltip("told_effect:N", title="exact effect (nats)"),
        alt.Tooltip("why:N", title="chosen"),
    ]
    x, y = _axis(rows, "flow"), _axis(rows, "effect", "exact effect")
    why = alt.Color(
        "why:N",
        scale=alt.Scale(domain=["for its flow", "at random"]),
        legend=alt.Legend(title="edge chosen", orient="top"),
    )
    bars = [_bars(points, "effect", "se", y, x)]
    if rows["flow_error"].is_not_null().any():  # else a bar would have no end anywhere
        bars.append(_bars(points, "flow", "margin", x, y, errors=1.0, flat=True))
    chart = alt.layer(*_cross(x, y, slope=1), *bars, *_named(points, x, y, tips, why))
    return _finished(chart, run, rows, width, steps, "exact effect against flow")


def _of_moment(data: alt.NamedData | alt.InlineData) -> alt.Chart:
    return alt.Chart(data).transform_filter(OF_MOMENT)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One of the two quantities: its field, its title, and its ends under each baseline."""

    field: str
    title: str
    low: dict[str, float]
    high: dict[str, float]

    def on(self, channel: type[Any], field: str | None = None) -> Any:
        """The axis as x or y, which does not move with the slider."""
        ends = (alt.expr(f"{json.dumps(end)}[under]") for end in (self.low, self.high))
        scale = alt.Scale(**dict(zip(("domainMin", "domainMax"), ends, strict=True)), nice=False)
        return channel(f"{field or self.field}:Q", title=self.title, scale=scale)

    @property
    def span(self) -> str:
        """Vega expression of its length."""
        return f"({json.dumps(self.high)}[under] - {json.dumps(self.low)}[under])"


def _axis(rows: pl.DataFrame, field: str, title: str | None = None) -> _Axis:
    low, high = {}, {}
    for (baseline,), part in rows.group_by("baseline", maintain_order=True):
        known = part[field].drop_nulls().drop_nans()
        ends = min(0.0, *known, 0.0), max(0.0, *known, 0.0)
        room = 0.06 * (ends[1] - ends[0]) or 1.0
        low[str(baseline)], high[str(baseline)] = ends[0] - room, ends[1] + room
    return _Axis(field, f"{title or field} (nats per position)", low, high)


def _cross(x: _Axis, y: _Axis, slope: int) -> list[alt.Chart]:
    """Both zeros, and a dashed line through the origin."""
    faint: Any = {"color": FAINT, "strokeWidth": 1, "opacity": 0.6}
    far = max(map(abs, (*x.low.values(), *x.high.values(), *y.low.values(), *y.high.values())))
    line = alt.Chart(alt.sequence(-1, 2, 2, as_="end")).transform_calculate(
        **{x.field: f"{far} * datum.end", y.field: f"{slope * far} * datum.end", "zero": "0"}
    )
    return [
        line.mark_rule(**faint).encode(x=x.on(alt.X, "zero")),
        line.mark_rule(**faint).encode(y=y.on(alt.Y, "zero")),
        line.mark_line(strokeDash=[5, 4], clip=True, **faint).encode(x=x.on(alt.X), y=y.on(alt.Y)),
    ]


def _bars(
    points: alt.Chart,
    field: str,
    error: str,
    along: _Axis,
    other: _Axis,
    *,
    errors: float = Z95,
    flat: bool = False,
) -> alt.Chart:
    """Error bars along one axis, so many errors to either side."""
    ends = points.transform_filter(f"isValid(datum.{error})").transform_calculate(
        low=f"datum.{field} - {errors} * datum.{error}",
        high=f"datum.{field} + {errors} * datum.{error}",
    )
    marked = ends.mark_rule(strokeWidth=1, opacity=0.6, color=FAINT, clip=True)
    if flat:
        return marked.encode(x=along.on(alt.X, "low"), x2="high:Q", y=other.on(alt.Y))
    return marked.encode(y=along.on(alt.Y, "low"), y2="high:Q", x=other.on(alt.X))


def _kinds(components: Iterable[str]) -> tuple[alt.Color, alt.Shape]:
    """A colour and a shape for each kind of component that is there."""
    there = {kind_of(component)[0] for component in components}
    kinds = [kind for kind in KIND_COLOURS if kind in there]
    legend = alt.Legend(title=None, orient="top")
    colours = alt.Scale(domain=kinds, range=[KIND_COLOURS[kind] for kind in kinds])
    shapes = alt.Scale(domain=kinds, range=[SHAPES[kind] for kind in kinds])
    return (
        alt.Color("kind:N", scale=colours, legend=legend),
        alt.Shape("kind:N", scale=shapes, legend=legend),
    )


def _named(
    points: alt.Chart, x: _Axis, y: _Axis, tips: list[alt.Tooltip], *look: alt.Color | alt.Shape
) -> list[alt.Chart]:
    """The points, and names of the largest."""
    encoded = points.mark_point(filled=True, size=60, opacity=0.9).encode(
        *look, x=x.on(alt.X), y=y.on(alt.Y), tooltip=tips
    )
    names = (
        points.transform_window(
            rank="row_number()",
            sort=[alt.SortField("size", order="descending"), alt.SortField("component")],
        )
        .transform_filter(f"datum.rank <= {_NAMED}")
        # A name stands only where the one above it leaves room.
        .transform_window(
            above=f"lag({y.field})",
            beside=f"lag({x.field})",
            sort=[alt.SortField(y.field, order="descending")],
        )
        .transform_filter(
            f"!isValid(datum.above) || datum.above - datum.{y.field} > 0.045 * {y.span}"
            f" || abs(datum.beside - datum.{x.field}) > 0.12 * {x.span}"
        )
        .mark_text(align="left", dx=8, fontSize=11)
        .encode(x=x.on(alt.X), y=y.on(alt.Y), text="component:N")
    )
    return [encoded, names]


def _finished(
    chart: alt.LayerChart | alt.FacetChart,
    run: RunFrames,
    rows: pl.DataFrame,
    width: int | str,
    steps: Sequence[int] | None,
    title: str,
) -> AnyChart:
    own = sorted(set(rows["step"]))
    order = [name for name in run.all_baselines if name in set(rows["baseline"])]
    return themed(
        chart.properties(width=width, height=360, title=moment_title(title)).add_params(
            *moment(steps or own, rows, order or None)
        )
    )

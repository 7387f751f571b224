"""The composition graph of one checkpoint, drawn by depth, with a slider over checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import altair as alt
import polars as pl

from circuit_econ.report.charts.encodings import (
    OF_MOMENT,
    SHAPES,
    AnyChart,
    margin,
    moment,
    moment_title,
    supply,
    themed,
    told,
)
from circuit_econ.report.frames import RunFrames
from circuit_econ.report.theme import FAINT, GOODS, SIGNS
from circuit_econ.report.trade import Trade, kind_of
from circuit_econ.tables import Kind, component_key

__all__ = ["OF_EDGES", "edge_choices", "graph_by_depth"]

_OPENING: Final = 60  # edges to begin with, about
_FINE: Final = 3  # decades below the largest flow that the threshold goes down to
_PORTS: Final = {"q": -8, "q_scale": -12, "k": 0, "k_scale": 4, "v": 8}
"""Where an edge enters its buyer, in pixels from the middle."""
_TOUCHED: Final = "!isValid(picked.component) || " + " || ".join(
    f"indexof(picked.component, datum.{end}) >= 0" for end in ("supplier", "buyer")
)

OF_EDGES: Final = (
    f"{OF_MOMENT} && abs(datum.signal + datum.crowding) >= smallest"
    " && (!counted_only || datum.counts === 'yes')"
)
"""Vega expression for the edges that :func:`edge_choices` leave."""


def graph_by_depth(
    run: RunFrames,
    width: int | str = 860,
    data: tuple[str, str] | None = None,
    steps: Sequence[int] | None = None,
) -> AnyChart:
    """Who supplies whom at one checkpoint: layers upward, heads side by side, MLPs to the right.

    An edge is as wide as its flow is large, blue where its supplier earns and orange where it
    loses, and enters its buyer at its port: q to the left, k in the middle, v to the right. A node
    is as large as its income, and coloured by the share of it that is sold to components: 0 is a
    final good, 1 a capital good, grey where sales and losses cancel. Widths and sizes mean the same
    at every checkpoint. Pointing at a node leaves its edges.

    Args:
        run: A run with flows.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Names of the datasets of nodes and of edges, where whoever shows the chart supplies
            them; by default the rows go along.
        steps: What the slider counts through; by default the steps with flows.
    """
    trade = run.trade
    nodes, edges = data or (None, None)
    places, columns, top = _places(trade.components)
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.6, columns + 0.1], nice=False))
    layers = sorted({layer for c in trade.components if (layer := kind_of(c)[1]) is not None})
    axis = alt.Axis(
        title=None, values=layers, labelExpr="'layer ' + datum.value", ticks=False, domain=False
    )
    y = alt.Y("y:Q", axis=axis, scale=alt.Scale(domain=[-0.45, top + 0.3], nice=False))
    chart = alt.layer(
        _edges(trade, edges).encode(x=x, y=y),
        _nodes(trade, nodes).encode(x=x, y=y),
        _names(trade, nodes, columns).encode(x=x, y=y),
        _facts(trade, edges),
    )
    params = [
        *moment(steps or trade.steps, trade.nodes, trade.baselines),
        *edge_choices(trade),
        alt.param(name="places", value=places),
        alt.param(name="ports", value=_PORTS),
        alt.param(name="pixel", expr=f"{top + 0.75} / height"),
        alt.param(name="room", expr=f"width / {columns + 0.7}"),
        alt.param(
            name="widest", value=_largest(trade.edges, pl.col("signal") + pl.col("crowding"))
        ),
        alt.param(name="richest", value=_largest(trade.nodes, pl.col("income"))),
    ]
    height = 190 + 76 * len(layers) if len(layers) < 5 else 150 + 64 * len(layers)
    return themed(
        chart.properties(
            width=width, height=height, title=moment_title("who supplies whom")
        ).add_params(*params)
    )


def _largest(rows: pl.DataFrame, amount: pl.Expr) -> dict[str, float]:
    """The largest size under each baseline; 1 where there is nothing but zeros."""
    found = rows.group_by("baseline", maintain_order=True).agg(amount.abs().max().alias("size"))
    return {baseline: size or 1.0 for baseline, size in found.rows()}


def edge_choices(trade: Trade) -> list[alt.Parameter]:
    """The smallest flow that is shown, and whether only edges that count are."""
    sizes = (trade.edges["signal"] + trade.edges["crowding"]).abs()
    largest = max(0.0, *sizes.drop_nulls(), 0.0)
    unit = 10.0 ** math.floor(math.log10(largest)) if largest else 1.0
    series = [float(f"{f * unit / 10**n:.0e}") for n in range(_FINE + 1) for f in (5, 2, 1)]
    options = [0.0, *sorted(x for x in series if x <= largest)]
    last = trade.edges.filter(
        (trade.edges["step"] == trade.steps[-1]) & (trade.edges["baseline"] == trade.baselines[0])
    )
    shown = (last["signal"] + last["crowding"]).abs()
    opening = next((x for x in options if (shown >= x).sum() <= _OPENING), options[-1])
    threshold = alt.binding_select(
        options=options,
        labels=["all that are kept", *(f"{x:g}" for x in options[1:])],
        name="smallest |flow| shown (nats per position) ",
    )
    choices = [alt.param(name="smallest", value=opening, bind=threshold)]
    if trade.edges["counts"].is_not_null().any():
        box = alt.binding_checkbox(name="only edges that count ")
        return [*choices, alt.param(name="counted_only", value=False, bind=box)]
    return [*choices, alt.param(name="counted_only", value=False)]


def _places(components: Sequence[str]) -> tuple[dict[str, list[float]], float, float]:
    """Place of each component; how many columns there are, and how high the logits stand."""
    kinds = {name: kind_of(name) for name in components}
    heads = {n: component_key(n)[2] for n, (kind, _) in kinds.items() if kind == Kind.HEAD}
    widest = float(max(heads.values(), default=0))
    deepest = max((layer for _, layer in kinds.values() if layer is not None), default=0)
    mlps = any(kind == Kind.MLP for kind, _ in kinds.values())
    top = deepest + (1.35 if mlps else 1.0)
    places = {
        name: [float(heads[name]), float(layer)] if name in heads else [widest + 1.0, layer + 0.5]
        for name, (_, layer) in kinds.items()
        if layer is not None
    }
    places[Kind.LOGITS.value] = [widest / 2, top]
    return places, widest + (1.6 if mlps else 0.6), top


def _edges(trade: Trade, data: str | None) -> alt.Chart:
    """A curve for each edge, upright at both ends; what would run through nodes bows out."""
    earns, loses = SIGNS
    colour = alt.Color(
        "sign:N",
        scale=alt.Scale(domain=list(SIGNS), range=list(SIGNS.values())),
        legend=alt.Legend(
            title="the supplier", orient="top", symbolType="stroke", symbolStrokeWidth=4
        ),
    )
    wide = alt.StrokeWidth(
        "width:Q",
        scale=alt.Scale(domainMin=0, domainMax=alt.expr("widest[under]"), range=[0.8, 11]),
        legend=alt.Legend(
            title="|flow| (nats per position)", orient="top", tickCount=3, symbolSize=300,
            symbolStrokeColor=FAINT,
        ),
    )  # fmt: skip
    return (
        alt.Chart(supply(trade.edges, data))
        .transform_filter(OF_EDGES)
        .transform_calculate(flow="datum.signal + datum.crowding", margin=margin())
        .transform_calculate(
            width="abs(datum.flow)",
            sign=f"datum.flow < 0 ? '{loses}' : '{earns}'",
            edge="datum.supplier + ' → ' + datum.buyer",
            key="datum.supplier + ' ' + datum.buyer + ' ' + datum.port",
            told_flow=told("flow", "margin"),
            told_effect=told("effect", "effect_se"),
            told_counts="datum.counts ? 'yes' + (datum.circuit ? ', inside ' + datum.circuit : '')"
            " : 'no'",
            across="places[datum.buyer][0] + (ports[datum.port] || 0) / room"
            " - places[datum.supplier][0]",
            up="places[datum.buyer][1] - places[datum.supplier][1]",
            t="sequence(0, 1.01, 0.125)",
        )
        .transform_flatten(["t"])
        .transform_calculate(
            x="places[datum.supplier][0] + datum.across * datum.t * datum.t * (3 - 2 * datum.t)"
            " + (abs(datum.across) < 0.5 && datum.up > 1.2 ? 0.32 * sin(PI * datum.t) : 0)",
            # Edges of one pair run beside each other.
            y="places[datum.supplier][1] + datum.up * datum.t + (datum.across > 0 ? -1 : 1)"
            " * sin(PI * datum.t) * (ports[datum.port] || 0) * pixel",
        )
        .mark_line(strokeCap="round", interpolate="natural")
        .encode(
            detail="key:N",
            order="t:Q",
            color=colour,
            strokeWidth=wide,
            opacity=alt.when(_TOUCHED).then(alt.value(0.7)).otherwise(alt.value(0.06)),
            tooltip=_edge_tooltip(trade),
        )
    )


def _edge_tooltip(trade: Trade) -> list[alt.Tooltip]:
    edges = trade.edges
    tips = [
        alt.Tooltip("edge:N"),
        alt.Tooltip("port:N"),
        alt.Tooltip("told_flow:N", title="flow (nats)"),
        alt.Tooltip("integration_error:Q", title="of it integration error", format=".2~g"),
        alt.Tooltip("signal:Q", format=".4~g"),
        alt.Tooltip("crowding:Q", format=".4~g"),
    ]
    if edges["effect"].is_not_null().any():
        tips.append(alt.Tooltip("told_effect:N", title="exact effect (nats)"))
    if edges["counts"].is_not_null().any():
        tips.append(alt.Tooltip("told_counts:N", title="counts"))
    return tips


def _nodes(trade: Trade, data: str | None) -> alt.Chart:
    """Marks of the components, to point at."""
    share = alt.Fill(
        "good:Q",
        scale=alt.Scale(domain=[0, 0.5, 1], range=list(GOODS), clamp=True, interpolate="rgb"),
        legend=alt.Legend(
            title="share of income sold to components", orient="top", gradientLength=200,
            values=[0, 0.5, 1],
            labelExpr="datum.value == 0 ? '0 final good' : datum.value == 1 ? '1 capital' : ''",
        ),
    )  # fmt: skip
    area = alt.Size(
        "size:Q",
        scale=alt.Scale(domainMin=0, domainMax=alt.expr("richest[under]"), range=[90, 1100]),
        legend=alt.Legend(
            title="|income| (nats per position)", orient="top", tickCount=3, symbolType="circle",
            symbolFillColor=FAINT, symbolStrokeWidth=0,
        ),
    )  # fmt: skip
    shapes = [Kind.HEAD.value, Kind.MLP.value, Kind.LOGITS.value]
    kinds = alt.Scale(domain=shapes, range=[SHAPES[kind] for kind in shapes])
    picked = alt.selection_point(
        name="picked", fields=["component"], on="pointerover", clear="pointerout"
    )
    valued = trade.nodes["value"].is_not_null().any()
    staged = trade.nodes["upstreamness"].is_not_null().any()
    return (
        alt.Chart(supply(trade.nodes, data), name="nodes")
        .transform_filter(OF_MOMENT)
        .transform_calculate(margin=margin())
        .transform_calculate(
            x="places[datum.component][0]",
            y="places[datum.component][1]",
            size="abs(datum.income || 0)",
            good="datum.share || 0",
            final="isValid(datum.income) ? datum.income - datum.capital : null",
            told_income=told("income", "margin"),
            told_value=told("value", "value_se"),
            **{f"told_{n}": _plain(n) for n in ("capital", "final", "bought", "upstreamness")},
        )
        .mark_point(filled=True, opacity=1, strokeWidth=2)
        .encode(
            fill=alt.when("isValid(datum.share)").then(share).otherwise(alt.value(FAINT)),
            stroke=alt.when("datum.income < 0")
            .then(alt.value(list(SIGNS.values())[1]))
            .otherwise(alt.value(FAINT)),
            size=alt.when("isValid(datum.income)").then(area).otherwise(alt.value(260)),
            shape=alt.Shape("kind:N", scale=kinds, legend=None),
            tooltip=[
                alt.Tooltip("component:N"),
                alt.Tooltip("told_income:N", title="income (nats)"),
                *([alt.Tooltip("told_value:N", title="value (nats)")] if valued else []),
                alt.Tooltip("told_capital:N", title="sold to components (nats)"),
                alt.Tooltip("told_final:N", title="sold to logits (nats)"),
                alt.Tooltip("told_bought:N", title="bought (nats)"),
                *([alt.Tooltip("told_upstreamness:N", title="upstreamness (stages)")]
                  if staged else []),
            ],
        )
        .add_params(picked)
    )  # fmt: skip


def _plain(number: str) -> str:
    return f"isValid(datum.{number}) ? format(datum.{number}, '.4~g') : '–'"


def _names(trade: Trade, data: str | None, columns: float) -> alt.Chart:
    """Names beside the nodes, as long as there is room for them."""
    return (
        alt.Chart(supply(trade.nodes, data))
        .transform_filter(OF_MOMENT)
        .transform_calculate(
            x="places[datum.component][0]",
            y="places[datum.component][1]",
            name="datum.kind === 'head' ? slice(datum.component, indexof(datum.component, 'h'))"
            " : datum.component",
        )
        .mark_text(
            align="left", dx=16, dy=13, fontSize=11, opacity=alt.expr("room > 40 ? 0.9 : 0"),
            clip=False,
        )
        .encode(text="name:N")
    )  # fmt: skip


def _facts(trade: Trade, data: str | None) -> alt.Chart:
    """How many of the edges are drawn, and how much of all flows they carry."""
    rows: dict[str, Any] = {"drawn": "count()", "size": "sum(size)"}
    return (
        alt.Chart(supply(trade.edges, data))
        .transform_filter(OF_EDGES)
        .transform_calculate(size="abs(datum.signal + datum.crowding)")
        .transform_aggregate(**rows, all="max(all)", total="max(total)")
        .transform_calculate(
            text="format(datum.drawn, ',') + ' of ' + format(datum.all, ',') + ' edges, with '"
            " + format(datum.size / datum.total, '.1%') + ' of all |flow|'"
        )
        .mark_text(align="left", baseline="bottom", fontSize=11, color=FAINT)
        .encode(x=alt.value(0), y=alt.value(-4), text="text:N")
    )

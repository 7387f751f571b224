"""Supplier against buyer at one checkpoint, as colours."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from circuit_econ.report.charts.encodings import (
    OF_MOMENT,
    AnyChart,
    colour_limit,
    margin,
    moment,
    moment_title,
    supply,
    themed,
    told,
)
from circuit_econ.report.frames import RunFrames
from circuit_econ.report.theme import FAINT
from circuit_econ.tables import Kind

__all__ = ["ALL_PORTS", "flow_matrix"]

ALL_PORTS = "all"


def flow_matrix(
    run: RunFrames,
    width: int | str = 860,
    data: str | None = None,
    steps: Sequence[int] | None = None,
) -> AnyChart:
    """Flows from suppliers (columns) to buyers (rows), summed over ports or of one port.

    Both are in the order of the forward pass, buyers from below upward. The colour is that of the
    heat map of values: centred at 0, symmetric, compressed towards the ends.

    Args:
        run: A run with flows.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
        steps: What the slider counts through; by default the steps with flows.
    """
    trade = run.trade
    limit = colour_limit([trade.edges["signal"] + trade.edges["crowding"]])
    components = trade.components
    suppliers = [name for name in components if name != Kind.LOGITS]
    few = len(components) <= 40
    ticks = alt.Axis(labelOverlap=False if few else "greedy", grid=False, ticks=False)
    flat = alt.Axis(labelAngle=0, grid=False, ticks=False) if len(suppliers) <= 14 else ticks
    ports = [ALL_PORTS, *trade.edges["port"].unique().sort()]
    port = alt.binding_select(options=ports, name="port ")
    colour = alt.Color(
        "flow:Q",
        scale=alt.Scale(
            type="symlog", constant=limit / 20, domain=[-limit, limit], domainMid=0, clamp=True,
            interpolate="rgb",
        ),
        legend=alt.Legend(
            title="flow (nats per position)", orient="top", gradientLength=300,
            values=[-limit, -limit / 10, 0, limit / 10, limit], format="~r",
        ),
    )  # fmt: skip
    chart = (
        alt.Chart(supply(trade.edges, data))
        .transform_filter(f"{OF_MOMENT} && (port === '{ALL_PORTS}' || datum.port === port)")
        .transform_calculate(flow="datum.signal + datum.crowding", one=margin())
        .transform_aggregate(
            flow="sum(flow)", reach="sum(one)", known="valid(one)", rows="count()",
            ports="values(port)", groupby=["supplier", "buyer"],
        )
        # Ports share sequences: together they are off by no more than one by one.
        .transform_calculate(margin="datum.known === datum.rows ? datum.reach : null")
        .transform_calculate(
            told_flow=told("flow", "margin"),
            edge="datum.supplier + ' → ' + datum.buyer",
            through="join(sort(pluck(datum.ports, 'port')), ', ')"
        )
        .mark_rect()
        .encode(
            x=alt.X("supplier:N", scale=alt.Scale(domain=suppliers), axis=flat, title="supplier"),
            y=alt.Y("buyer:N", scale=alt.Scale(domain=components[::-1]), axis=ticks, title="buyer"),
            color=colour,
            tooltip=[
                alt.Tooltip("edge:N"),
                alt.Tooltip("told_flow:N", title="flow (nats)"),
                alt.Tooltip("through:N", title="ports"),
            ],
        )
        .properties(
            width=width,
            height=max(200, min(22 * len(components), 900)),
            title=moment_title("flow from supplier to buyer"),
            view=alt.ViewConfig(stroke=FAINT, strokeOpacity=0.4),
        )
    )  # fmt: skip
    return themed(
        chart.add_params(
            *moment(steps or trade.steps, trade.nodes, trade.baselines),
            alt.param(name="port", value=ALL_PORTS, bind=port),
        )
    )

"""Value of every component over time, as colours."""

from __future__ import annotations

import altair as alt
import polars as pl

from circuit_econ.report.charts.encodings import (
    OF_BASELINE,
    SHORT_NUMBER,
    TOLD,
    AnyChart,
    baseline_choice,
    colour_limit,
    supply,
    themed,
    value_tooltip,
)
from circuit_econ.report.frames import RunFrames

__all__ = ["value_heatmap"]


def value_heatmap(
    run: RunFrames,
    limit: float | None = None,
    columns: int | None = None,
    data: str | None = None,
) -> AnyChart:
    """Value of every component over time: a panel per layer, a row per component.

    The colour is centred at 0, symmetric, and compressed towards the ends (symmetric logarithm), so
    that small values show beside large ones. It saturates at ``limit``.

    Args:
        run: A run with values.
        limit: Value of full colour in nats; by default :func:`colour_limit` of the run.
        columns: Panels side by side; by default according to the number of layers.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
    """
    limit = limit or colour_limit([run.accounts["value"]])
    rows = run.accounts.unique("component", maintain_order=True)
    groups = rows["group"].unique(maintain_order=True).to_list()
    groups.sort(key="joint".__eq__)  # sets of components last, wherever their first member is
    labels = rows.sort(pl.col("label") == "mlp", maintain_order=True)["label"]
    columns = columns or (1 if len(groups) <= 3 else 2 if len(groups) <= 6 else 3)
    shade = alt.Color(
        "value:Q",
        scale=alt.Scale(
            type="symlog",
            constant=limit / 20,
            domain=[-limit, limit],
            domainMid=0,
            clamp=True,
            interpolate="rgb",  # the default path through hues turns small losses pink
        ),
        legend=alt.Legend(
            title="value (nats per position)",
            orient="top",
            gradientLength=300,
            values=[-limit, -limit / 10, 0, limit / 10, limit],
            format="~r",
        ),
    )
    axis = alt.Axis(labelExpr=SHORT_NUMBER, labelAngle=0, labelSeparation=6, title="step")
    names = alt.Axis(labelOverlap=False)
    cells = (
        alt.Chart()
        .transform_filter(f"{OF_BASELINE} && isValid(datum.value)")
        .transform_calculate(**TOLD)
        .mark_rect()
        .encode(
            x=alt.X("step:O", axis=axis),
            y=alt.Y(
                "label:N",
                title=None,
                sort=labels.unique(maintain_order=True).to_list(),
                axis=names,
            ),
            color=shade,
            tooltip=value_tooltip(),
        )
        .properties(width={1: 860, 2: 400}.get(columns, 250), height=alt.Step(15))
    )
    layer = alt.Facet("group:N", title=None, sort=groups, header=alt.Header(labelAnchor="start"))
    chart = cells.facet(
        layer, columns=columns, data=supply(run.accounts, data), spacing={"row": 16, "column": 20}
    )
    return themed(chart.resolve_scale(y="independent").add_params(baseline_choice([run])))

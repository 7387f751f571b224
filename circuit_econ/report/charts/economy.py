"""The economy as a whole over training: capital goods, stages, and how far edges are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import altair as alt
import polars as pl

from circuit_econ.report.charts.encodings import (
    Z95,
    AnyChart,
    moment,
    step_axis,
    supply,
    themed,
    told,
)
from circuit_econ.report.frames import RunFrames
from circuit_econ.report.theme import FAINT, STAGES
from circuit_econ.report.trade import LAST_STAGE

__all__ = ["capital_over_time", "edges_over_time", "income_by_stage"]

_BASELINE: Final = "datum.baseline === under"


def capital_over_time(run: RunFrames, width: int | str = 860, data: str | None = None) -> AnyChart:
    """Capital share of every checkpoint, a line per baseline in their band from least to greatest.

    Where it is undefined the line is broken and a cross stands at the top. Hollow points belong to
    economies that are flagged.

    Args:
        run: A run with flows.
        width: Of the plot in pixels, or "container" to fill the element it is shown in.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
    """
    rows = run.trade.economies
    title = "capital share of all flows"
    share = alt.Y("share:Q", title=title)
    # Measured economies only: the gap alone is no share.
    base = (
        alt.Chart()
        .transform_filter("isValid(datum.edges)")
        .transform_calculate(
            told=told("share", "none").replace(" (no se)", ""),
            settled="datum.converged === 'no' ? 'no: see the integration errors' : 'yes'",
            flag="datum.flagged ? 'yes: ablated loss beyond the error of the unigram loss' : 'no'",
        )
        .encode(x=step_axis(run.trade.steps))
    )
    colour = alt.Color(
        "baseline:N",
        scale=alt.Scale(domain=run.trade.baselines),
        legend=alt.Legend(title="baseline", orient="top", symbolOpacity=1),
    )
    tips = [
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("baseline:N"),
        alt.Tooltip("told:N", title="capital share"),
        alt.Tooltip("flag:N", title="flagged"),
        alt.Tooltip("settled:N", title="converged"),
    ]
    broken: Any = {"invalid": "break-paths-filter-domains"}
    layers = []
    if rows["low"].is_not_null().any():
        if len(run.trade.baselines) > 1:
            layers.append(
                base.mark_area(opacity=0.15, color=FAINT, **broken).encode(
                    y=alt.Y("low:Q", title=title), y2="high:Q"
                )
            )
        layers.append(base.mark_line(strokeWidth=2, **broken).encode(y=share, color=colour))
        layers.append(
            base.transform_filter("isValid(datum.share)")
            .mark_point(size=50, opacity=1)
            .encode(
                y=share,
                color=colour,
                fill=alt.when("datum.flagged")
                .then(alt.value("transparent"))
                .otherwise(alt.Fill("baseline:N", legend=None)),
                tooltip=tips,
            )
        )
    undefined = rows.filter(pl.col("share").is_null() & pl.col("edges").is_not_null())
    if undefined.height:
        layers.append(
            base.transform_filter("!isValid(datum.share)")
            .mark_point(shape="cross", angle=45, filled=True, size=60, opacity=1)
            .encode(
                y=alt.value(8),
                color=colour,
                tooltip=[*tips[:2], alt.Tooltip("none:N", title="capital share")],
            )
            .transform_calculate(none="'undefined: all flows together are near 0'")
        )
    chart = alt.layer(*layers, data=supply(rows, data)).properties(width=width, height=240)
    return themed(chart)


def income_by_stage(
    run: RunFrames, data: str | None = None, steps: Sequence[int] | None = None
) -> AnyChart:
    """Income of each layer over training by stage: a panel per layer, a line per stage.

    Stage 1 is sold to the logits, stage 2 to what sells to the logits, and so on.

    Args:
        run: A run with incomes by stage.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
        steps: What the choice of a checkpoint counts through.
    """
    rows = run.trade.stages
    layers = rows["layer"].unique().sort().to_list()
    stages = rows["stage"].unique().sort().to_list()
    columns = 2 if len(layers) <= 4 else 3
    labels = (
        f"datum.value == 1 ? '1: logits' : datum.value == {LAST_STAGE}"
        f" ? '{LAST_STAGE} and more' : datum.value"
    )
    colour = alt.Color(
        "stage:O",
        scale=alt.Scale(domain=stages, range=list(STAGES[: len(stages)])),
        legend=alt.Legend(title="stage", orient="top", labelExpr=labels, symbolOpacity=1),
    )
    base = alt.Chart().transform_filter(_BASELINE).encode(
        x=step_axis(rows["step"]),
        y=alt.Y("income:Q", title="income (nats per position)"),
        color=colour,
    )  # fmt: skip
    lines = base.mark_line(strokeWidth=2)
    points = base.mark_point(filled=True, size=25, opacity=1).encode(
        tooltip=[
            alt.Tooltip("group:N", title="layer"),
            alt.Tooltip("step:Q", format=","),
            alt.Tooltip("baseline:N"),
            alt.Tooltip("stage:O"),
            alt.Tooltip("income:Q", title="income (nats)", format=".4~g"),
        ]
    )
    facet = alt.Facet(
        "group:N",
        title=None,
        sort=[f"layer {layer}" for layer in layers],
        header=alt.Header(labelAnchor="start"),
    )
    chart = (
        alt.layer(lines, points)
        .properties(width={2: 390, 3: 250}[columns], height=150)
        .facet(facet, columns=columns, data=supply(rows, data), spacing={"row": 14, "column": 20})
    )
    return themed(chart.add_params(*moment(steps or run.trade.steps, rows, run.trade.baselines)))


def edges_over_time(
    run: RunFrames, width: int = 780, data: str | None = None, steps: Sequence[int] | None = None
) -> AnyChart:
    """How well flows rank edges, and what the edges that were not measured hide, over training.

    Above, the rank correlation of flow and exact effect; below, the effect of all edges measured,
    that expected of the rest with ± 1.96 standard errors, and the expected sum of their sizes.

    Args:
        run: A run with exact edges.
        width: Of the plots in pixels.
        data: Name of a dataset that whoever shows the chart supplies; by default the rows go along.
        steps: What the choice of a checkpoint counts through.
    """
    rows = run.trade.sampling
    base = alt.Chart().transform_filter(_BASELINE).encode(x=step_axis(rows["step"]))
    panels = [
        _panel(
            base, "rank correlation", {"rank_correlation": "all measured",
                                       "rank_correlation_drawn": "drawn at random"},
            alt.Scale(domain=[-1, 1]),
        ),
        _panel(
            base, "effect (nats per position)",
            {"effect": "measured, sum", "hidden": "not measured, expected sum",
             "hidden_size": "not measured, expected sum of sizes"},
            alt.Scale(),
        ),
    ]  # fmt: skip
    sized = [panel.properties(width=width, height=150) for panel in panels]
    chart = alt.vconcat(*sized, data=supply(rows, data), spacing=12).resolve_scale(
        color="independent"
    )
    return themed(chart.add_params(*moment(steps or run.trade.steps, rows)))


def _panel(
    base: alt.Chart, title: str, lines: dict[str, str], scale: alt.Scale
) -> alt.LayerChart | alt.FacetChart:
    """A line per column, with the error that ``hidden`` has."""
    names = list(lines)
    colour = alt.Color(
        "line:N",
        scale=alt.Scale(domain=list(lines.values())),
        legend=alt.Legend(title=None, orient="top", symbolOpacity=1),
    )
    told_line = " : ".join(f"datum.column === '{n}' ? '{lines[n]}'" for n in names) + " : ''"
    y = alt.Y("amount:Q", title=title, scale=scale)
    folded = (
        base.transform_fold([*names], as_=["column", "amount"])
        .transform_filter("isValid(datum.amount)")
        .transform_calculate(
            line=told_line,
            error="datum.column === 'hidden' ? datum.hidden_se : null",
        )
        .transform_calculate(
            low=f"datum.amount - {Z95} * (datum.error || 0)",
            high=f"datum.amount + {Z95} * (datum.error || 0)",
            told_amount=f"datum.column === 'hidden' ? {told('amount', 'error')}"
            " : format(datum.amount, '.4~g')",
        )
    )
    tips = [
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("baseline:N"),
        alt.Tooltip("line:N", title="edges"),
        alt.Tooltip("told_amount:N", title="amount"),
        *(
            alt.Tooltip(f"{name}:Q", format=",", title=text)
            for name, text in {"edges": "all edges", "largest": "measured for their flow",
                               "drawn": "drawn of the rest"}.items()
        ),
    ]  # fmt: skip
    layers = [
        folded.mark_line(strokeWidth=2).encode(y=y, color=colour),
        folded.mark_point(filled=True, size=35, opacity=1).encode(y=y, color=colour, tooltip=tips),
    ]
    if "hidden" in lines:
        band = folded.mark_rule(strokeWidth=1.2).encode(
            y=alt.Y("low:Q", title=title), y2="high:Q", color=colour
        )
        layers = [band, *layers]
    return alt.layer(*layers)

"""What the charts share: axes, colours, tooltips, the choices a reader makes, the theme."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import altair as alt
import polars as pl

from circuit_econ.report.frames import RunFrames
from circuit_econ.report.theme import KIND_COLOURS, LIGHT
from circuit_econ.report.words import Z95
from circuit_econ.tables import Outcome

__all__ = [
    "LARGEST_FIRST",
    "OF_BASELINE",
    "OF_MOMENT",
    "SHAPES",
    "SHORT_NUMBER",
    "TOLD",
    "VALUE",
    "Z95",
    "AnyChart",
    "baseline_choice",
    "checkpoint_choice",
    "colour_limit",
    "currency_choice",
    "end_or_value",
    "kind_scale",
    "margin",
    "moment",
    "moment_title",
    "quantity_choice",
    "run_colour",
    "step_axis",
    "supply",
    "themed",
    "together",
    "told",
    "value_tooltip",
]

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart

OF_BASELINE: Final = "(datum.baseline === baseline || !isValid(datum.baseline))"
"""Vega expression for the rows of the chosen baseline, and of none."""

OF_MOMENT: Final = "datum.step === now && datum.baseline === under"
"""Vega expression for the rows of what :func:`moment` defines."""

LARGEST_FIRST: Final[list[Any]] = [
    alt.SortField("peak", order="descending"),
    alt.SortField("component"),
]
"""Order that gives every component a rank of its own by its ``peak``, whatever ties there are."""

VALUE: Final = "value (nats per position)"
"""Title of every axis of value."""

SHORT_NUMBER: Final = "format(datum.value, abs(datum.value) < 1e4 ? ',~r' : '.3~s')"
"""Label of an axis of steps or amounts. An axis format would give all labels one SI prefix (0k)."""

SHAPES: Final = {
    "head": "circle",
    "mlp": "square",
    "embed": "diamond",
    "pos": "triangle-up",
    "joint": "cross",
    "logits": "triangle-up",
}
"""The shape of each kind of component."""


def step_axis(steps: Iterable[int]) -> alt.X:
    """The training step on a symmetric logarithm, so that step 0 has a place beside step 100,000.

    The scale is linear up to the first positive step and logarithmic beyond it.
    """
    known = sorted(set(steps)) or [0]
    first, last = known[0], known[-1]
    positive = next((s for s in known if s > 0), 1)
    if first == last:
        # A domain of no width would put the only checkpoint nowhere.
        scale = alt.Scale(domain=[first - 1, last + 1], nice=False)
        ticks = [first]
    else:
        scale = alt.Scale(type="symlog", constant=positive, domain=[first, last], nice=False)
        low, high = math.floor(math.log10(positive)), math.ceil(math.log10(last))
        factors = (1,) if high - low > 3 else (1, 2, 5)
        candidates = [f * 10**e for e in range(low, high + 1) for f in factors]
        # Between 0 and the first positive step the scale is linear: no room for ticks.
        ticks = [t for t in (0, *candidates) if first <= t <= last and (not t or t >= positive)]
    axis = alt.Axis(values=ticks, labelExpr=SHORT_NUMBER, title="step")
    return alt.X("step:Q", scale=scale, axis=axis)


def colour_limit(values: Iterable[pl.Series]) -> float:
    """Value of full colour: the 99th percentile of |value|, rounded up to one digit.

    A single huge value must not turn everything else pale. 1 if there is nothing but zeros.
    """
    sizes = pl.concat([v.drop_nulls().drop_nans().abs() for v in values])
    size = sizes.quantile(0.99, "higher") if len(sizes) else None
    if not size or not math.isfinite(size):
        return 1.0
    unit = 10.0 ** math.floor(math.log10(size))
    return float(f"{math.ceil(size / unit - 1e-9) * unit:.0e}")


def told(number: str, error: str, style: str = ".4~g") -> str:
    """Vega expression for a number with its error. A format alone would print what is null as 0."""
    return (
        f"isValid(datum.{number}) ? format(datum.{number}, '{style}') + (isValid(datum.{error})"
        f" ? ' ± ' + format(datum.{error}, '.2~g') : ' (no se)') : '–'"
    )


def margin(se: str = "se", error: str = "integration_error") -> str:
    """Vega expression for half of the interval of an income or flow; null where it is unknown.

    As :func:`circuit_econ.report.words.margin`.
    """
    known = f"isValid(datum.{se}) && isValid(datum.{error})"
    return f"{known} ? {Z95} * datum.{se} + datum.{error} : null"


def end_or_value(end: str) -> str:
    """Vega expression for an end of the 95 % interval; one that cannot be given has no length."""
    return f"isValid(datum.{end}) ? datum.{end} : datum.value"


_ENDS: Final = " + ' … ' + ".join(
    f"(isValid(datum.{end}) ? format(datum.{end}, '.4~g') : '?')" for end in ("low", "high")
)
_UNSURE: Final = json.dumps([Outcome.FEW, Outcome.HEAVY_TAIL, Outcome.NOT_ESTIMABLE])

TOLD: Final = {
    "told_value": told("value", "se"),
    "told_interval": f"{_ENDS} + (indexof({_UNSURE}, datum.outcome) < 0 ? '' : ' (' + datum.outcome"
    " + (isValid(datum.needed) ? ', needs ' + format(datum.needed, ',') + ' or more' : '') + ')')",
    "told_placebo": told("placebo", "placebo_se"),
}
"""Calculated columns that :func:`value_tooltip` shows."""


def value_tooltip() -> list[alt.Tooltip]:
    """Everything known of one value, for hovering; needs the columns of :data:`TOLD`."""
    return [
        alt.Tooltip("component:N"),
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("baseline:N"),
        alt.Tooltip("told_value:N", title="value"),
        alt.Tooltip("told_interval:N", title="95 % interval"),
        alt.Tooltip("told_placebo:N", title="placebo"),
    ]


def run_colour(runs: Sequence[RunFrames]) -> alt.Color:
    """A colour per run; no legend for a single one."""
    legend = alt.Legend(title="run", orient="top", symbolOpacity=1) if len(runs) > 1 else None
    return alt.Color("run:N", scale=alt.Scale(domain=[r.name for r in runs]), legend=legend)


def kind_scale(runs: Sequence[RunFrames]) -> tuple[alt.Color, alt.Shape]:
    """A colour and a shape per kind of component, for the kinds that are there."""
    there = {kind for run in runs for kind in run.accounts["kind"].unique()}
    kinds = [kind for kind in KIND_COLOURS if kind in there]
    legend = alt.Legend(title=None, orient="top")
    colours = alt.Scale(domain=kinds, range=[KIND_COLOURS[k] for k in kinds])
    shapes = alt.Scale(domain=kinds, range=[SHAPES[k] for k in kinds])
    return (
        alt.Color("kind:N", scale=colours, legend=legend),
        alt.Shape("kind:N", scale=shapes, legend=legend),
    )


def baseline_choice(runs: Sequence[RunFrames]) -> alt.Parameter:
    """What stands in an ablated component's place; a drop-down if there are several."""
    options = list(dict.fromkeys(b for run in runs for b in run.baselines))
    return _choice("baseline", {option: option for option in options})


def currency_choice(runs: Sequence[RunFrames]) -> alt.Parameter:
    """What capacity is counted in."""
    return _choice("currency", {c: label for run in runs for c, label in run.currencies.items()})


def quantity_choice(run: RunFrames) -> alt.Parameter:
    """Which attention score."""
    return _choice("quantity", run.scores)


def checkpoint_choice(steps: Sequence[int]) -> alt.Parameter:
    """A slider over the checkpoint's index: steps are spaced too unevenly for one over steps."""
    last = len(steps) - 1
    if last == 0:
        return alt.param(name="checkpoint", value=0)
    bind = alt.binding_range(min=0, max=last, step=1, name="checkpoint ")
    return alt.param(name="checkpoint", value=last, bind=bind)


def moment(
    steps: Sequence[int], measured: pl.DataFrame, baselines: Sequence[str] | None = None
) -> list[alt.Parameter]:
    """What a chart of one checkpoint shows: the parameters checkpoint, baseline, now and under.

    ``now`` is the last step with rows up to the chosen checkpoint (else the first there is), and
    ``under`` the chosen baseline, or the first one where there are no rows of that. So the choices
    can be those of a page on which other things were measured at other steps; whoever uses this
    says in the chart's title what is shown (:func:`moment_title`).

    Args:
        steps: What the choice of a checkpoint counts through.
        measured: A frame with ``step`` and ``baseline``, not empty.
        baselines: In order; by default as they come.
    """
    there = sorted(set(measured["step"]))
    known = list(baselines or measured["baseline"].unique(maintain_order=True))
    at = [max((m for m in there if m <= step), default=there[0]) for step in steps]
    names = json.dumps(known)
    under = f"indexof({names}, baseline) < 0 ? {names}[0] : baseline"
    return [
        _choice("baseline", {name: name for name in known}),
        checkpoint_choice(steps),
        alt.param(name="now", expr=f"{json.dumps(at)}[checkpoint]"),
        alt.param(name="under", expr=under),
    ]


def moment_title(text: str) -> alt.TitleParams:
    """A title that begins with the step and the baseline that are shown; two lines if narrow."""
    shown = "'step ' + format(now, ',') + ', ' + under + ' baseline'"
    return alt.TitleParams(
        text=alt.expr(f"width < 450 ? [{shown}, '{text}'] : {shown} + ': {text}'")
    )


def themed(chart: AnyChart, theme: Mapping[str, Any] = LIGHT) -> AnyChart:
    """The chart in the project's colours; nothing global is touched."""
    return chart.configure(**theme)


def supply(rows: pl.DataFrame, name: str | None) -> alt.NamedData | alt.InlineData:
    """The rows in the chart itself (Altair's limit is for frames, not for these), or a name."""
    return alt.NamedData(name=name) if name else alt.InlineData(values=rows.to_dicts())


def together(runs: Sequence[RunFrames]) -> pl.DataFrame:
    """The accounts of several runs; columns that one run lacks are null in its rows."""
    return pl.concat([run.accounts for run in runs], how="diagonal")


def _choice(name: str, options: Mapping[str, str]) -> alt.Parameter:
    first = next(iter(options), None)
    if len(options) < 2:
        return alt.param(name=name, value=first)
    bind = alt.binding_select(options=list(options), labels=list(options.values()), name=f"{name} ")
    return alt.param(name=name, value=first, bind=bind)

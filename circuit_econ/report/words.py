"""What a run says in words, for the page and the terminal alike: numbers, headline, warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from circuit_econ.accounts import sign_disagreements
from circuit_econ.report.frames import RunFrames
from circuit_econ.tables import FEW, Outcome

__all__ = [
    "Z95",
    "Notice",
    "amount",
    "earners",
    "flagged",
    "headline",
    "last_step",
    "listed_steps",
    "margin",
    "notices",
    "plus_minus",
]

Z95: Final = 1.96
"""Error bars and bands are this many standard errors to either side, except those of values, which
show the interval in the ledger."""

_LISTED = 6
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know before believing a number.

    Attributes:
        text: One sentence.
        details: The cases, one line each.
    """

    text: str
    details: tuple[str, ...] = ()


def plus_minus(value: float | None, se: float | None) -> str:
    """A number with its error: two digits of the error, and as many places of the number.

    ``0.123 ± 0.045``, or ``(1.23 ± 0.45)×10⁻⁵`` where that is shorter; a dash for no number, and
    ``(no se)`` where the error could not be estimated.
    """
    if value is None or not math.isfinite(value):
        return "–"
    known = se is not None and math.isfinite(se)
    error = se if known and se is not None else 0.0
    size = max(abs(value), error)
    exponent = math.floor(math.log10(size)) if size else 0
    exponent = 0 if -3 <= exponent <= 5 else exponent
    scaled, error = value / 10.0**exponent, error / 10.0**exponent
    leading = error if error > 0 else abs(scaled) / 10
    places = max(0, min(6, 1 - math.floor(math.log10(leading)))) if leading > 0 else 0
    number = f"{scaled:,.{places}f}".replace("-", "−")
    text = f"{number} ± {error:,.{places}f}" if known else number
    if exponent:
        power = f"×10{str(exponent).translate(_SUPERSCRIPT)}"
        text = f"({text}){power}" if known else text + power
    return text if known else f"{text} (no se)"


def margin(se: float | None, integration_error: float | None) -> float | None:
    """Half of the interval of an income or flow: 1.96 standard errors and the integration error.

    They add: how far an integral is off is no draw that could happen to cancel what the sample is
    off. None where either is unknown.
    """
    if se is None or integration_error is None:
        return None
    return Z95 * se + integration_error


def amount(number: float | int | None) -> str:
    """A capacity: whole numbers in full, others to four digits, a dash for none."""
    if number is None or not math.isfinite(number):
        return "–"
    if float(number).is_integer() and abs(number) < 1e15:
        return f"{number:,.0f}"
    return f"{number:,.4g}" if abs(number) < 1e4 else f"{number:,.0f}"


def last_step(run: RunFrames) -> int | None:
    """The last checkpoint with values; None if there is none."""
    return run.steps[-1] if run.has_values else None


def earners(run: RunFrames) -> pl.DataFrame:
    """Rows of ``accounts`` at the last checkpoint under the first baseline, largest value first."""
    if not run.has_values:
        return run.accounts.clear()
    return run.accounts.filter(
        (pl.col("step") == run.steps[-1]) & (pl.col("baseline") == run.baselines[0])
    ).sort("value", descending=True, nulls_last=True, maintain_order=True)


def headline(run: RunFrames) -> str:
    """One paragraph: what was measured, and which components earned most at the last checkpoint."""
    rows = earners(run)
    measured = run.checkpoints.height - run.failed.height
    if not rows.height:
        if not run.checkpoints.height:
            return "No checkpoint was recorded."
        if not measured:
            return f"None of {_count(run.checkpoints.height, 'checkpoint')} could be measured."
        return (
            f"{measured} of {run.checkpoints.height} checkpoints were measured, but not for value."
        )
    loss = run.checkpoints.filter(pl.col("step") == run.steps[-1])
    told = [
        f"{name} ({plus_minus(value, se)})"
        for name, value, se in rows.select("component", "value", "se").head(3).iter_rows()
    ]
    many = f"{told[0]} earned most" if len(told) == 1 else (
        f"{told[0]} earned most, then {' and '.join(told[1:])}"
    )  # fmt: skip
    sentences = [
        f"At step {run.steps[-1]:,}"
        + (
            f", with a loss of {plus_minus(loss['loss'][0], loss['loss_se'][0])} nats per position,"
            if loss.height and loss["loss"][0] is not None
            else ""
        )
        + f" {many}: that much would be lost if the component were replaced by its "
        f"{run.baselines[0]} baseline."
    ]
    if rows["se"].is_not_null().any():
        se, placebo_se = (pl.col(c).fill_nan(None) for c in ("se", "placebo_se"))
        clear = rows.filter((pl.col("low") > 0) | (pl.col("high") < 0)).height
        # The same sequences: as many standard errors of the difference as the interval has below.
        errors = (pl.col("value") - pl.col("low")) / se
        margin = errors * (se**2 + placebo_se**2).sqrt()
        beyond = rows.filter(pl.col("value") - pl.col("placebo") > margin).height
        sentences.append(
            f"{clear} of {rows.height} components have a 95 % interval that excludes zero; "
            f"{beyond} {'is' if beyond == 1 else 'are'} that clear of "
            f"{'its' if beyond == 1 else 'their'} placebo."
        )
    sentences.append(f"{measured} of {run.checkpoints.height} checkpoints were measured.")
    return " ".join(sentences)


def notices(run: RunFrames) -> list[Notice]:
    """What a reader has to know: failures, audit, missing errors, contradictions, notes."""
    found = []
    if run.failed.height:
        found.append(
            Notice(
                f"{_count(run.failed.height, 'checkpoint')} could not be measured.",
                tuple(f"step {s:,}: {r}" for s, r in run.failed.select("step", "reason").rows()),
            )
        )
    if run.audit.height:
        found.append(
            Notice(
                f"The audit of the trajectory has {_count(run.audit.height, 'finding')}.",
                tuple(
                    f"step {step:,}: {finding}{f' ({tensor})' if tensor else ''}: {detail}"
                    for step, finding, tensor, detail in run.audit.rows()
                ),
            )
        )
    if run.has_values:
        found += _value_notices(run)
    found += _unsettled(run)
    found += flagged(run)
    found += [Notice(str(note)) for note in run.run.get("notes") or []]
    return found


def flagged(run: RunFrames) -> list[Notice]:
    """Conclusions that rest on a model worse than the unigram frequencies (economy, section 2).

    Edges that count, and the circuits found in them, are conclusions; other flagged economies are
    told of where their incomes are.
    """
    rows = run.trade.flagged.filter(pl.col("counted") > 0)
    every = run.trade.economies.filter(pl.col("counted") > 0)
    if not rows.height:
        return []
    return [
        Notice(
            "With every component at its baseline the model is worse than the unigram frequencies "
            f"in {rows.height:,} of {_count(every.height, 'economy', 'economies')} whose edges "
            "count: those edges and the circuits of them are priced there, too.",
            tuple(
                f"{baseline} baseline: {listed_steps(part['step'].to_list())}, by up to "
                f"{amount((part['ablated_loss'] - part['unigram_loss']).max())} nats"  # type: ignore[arg-type]
                for (baseline,), part in rows.group_by("baseline", maintain_order=True)
            ),
        )
    ]


def _unsettled(run: RunFrames) -> list[Notice]:
    """Economies whose incomes and flows are not what their integrals are."""
    every = run.trade.economies.filter(pl.col("converged").is_not_null())
    rows = every.filter(pl.col("converged") == "no")
    if not rows.height:
        return []
    return [
        Notice(
            f"The integral behind incomes has not converged in {rows.height:,} of "
            f"{_count(every.height, 'economy', 'economies')}: the ± of incomes and flows there "
            "says how far off they may be, and what is off by too much does not count; a larger "
            "measures.income.most_nodes would go on.",
            tuple(
                f"{baseline} baseline: {listed_steps(part['step'].to_list())}, with up to "
                f"{amount(part['missed'].max())} nats of the loss missed"  # type: ignore[arg-type]
                for (baseline,), part in rows.group_by("baseline", maintain_order=True)
            ),
        )
    ]


def listed_steps(steps: Sequence[int]) -> str:
    """Steps in words, the first and last of many; empty for none."""
    if not steps:
        return ""
    shown = [f"{step:,}" for step in steps]
    if len(shown) > _LISTED:
        shown = [*shown[: _LISTED - 1], f"… {shown[-1]} ({len(steps)} checkpoints)"]
    return f"step{'' if len(steps) == 1 else 's'} {'; '.join(shown)}"


def _value_notices(run: RunFrames) -> list[Notice]:
    found = []
    turned = sign_disagreements(run.accounts.lazy())
    if turned.height:
        # Who disagrees latest comes first: early values are small and swing.
        by_component = (
            turned.group_by("component", maintain_order=True)
            .agg(pl.len(), pl.col("step", "positive", "negative").last())
            .sort("step", descending=True, maintain_order=True)
        )
        found.append(
            Notice(
                f"The baselines disagree about {_count(by_component.height, 'component')}: "
                "clearly useful under one and clearly harmful under another.",
                tuple(
                    f"{component}: at {_count(count, 'checkpoint')}; at step {step:,} positive "
                    f"under {positive}, negative under {negative}"
                    for component, count, step, positive, negative in by_component.rows()
                ),
            )
        )
    return found + _interval_notices(run)


def _interval_notices(run: RunFrames) -> list[Notice]:
    """Values whose interval is wide, open or missing, and why."""
    valued = run.accounts.filter(pl.col("value").is_not_null())
    no_error, few = pl.col("se").is_null(), pl.col("outcome") == Outcome.FEW
    kinds: list[tuple[pl.Expr, str]] = [
        (
            pl.col("outcome") == Outcome.HEAVY_TAIL,
            "have a heavy tail: a few sequences carry the effects of their checkpoint, and others "
            "may not have been met, so that only the end of the interval that faces away from the "
            "tail is given. Both ends need at least {least:,} sequences or documents, and up to "
            "{most:,}.",
        ),
        (
            few & ~no_error,
            "rest on few documents: their {sequences:,} sequences tell as much about an error as "
            f"{{effective:.1f}} documents of one size. Below {FEW} the intervals are wide, and "
            "a heavy tail would not show.",
        ),
        (
            few & no_error,
            "have no standard error: the evaluation set is a single sequence or document.",
        ),
        (
            pl.col("outcome") == Outcome.NOT_ESTIMABLE,
            "are 0 on every sequence measured, which does not say how they vary on others: they "
            "have no interval.",
        ),
    ]
    found = []
    for which, text in kinds:
        rows = valued.filter(which)
        if rows.height:
            numbers = {
                "least": rows["needed"].min(),
                "most": rows["needed"].max(),
                "sequences": rows["sequences"].max(),
                "effective": rows["effective"].min(),
            }
            share = f"{rows.height:,} of {_count(valued.height, 'value')}"
            found.append(Notice(f"{share} {text.format(**numbers)}", _by_step(rows)))
    return found


def _by_step(rows: pl.DataFrame) -> tuple[str, ...]:
    """The components concerned, a line for each checkpoint."""
    lines = []
    for (step,), part in rows.group_by("step", maintain_order=True):
        names = part["component"].unique(maintain_order=True).to_list()
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        lines.append(f"step {step:,}: {', '.join(names[:_LISTED])}{more}")
    return tuple(lines)


def _count(number: int, noun: str, several: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"

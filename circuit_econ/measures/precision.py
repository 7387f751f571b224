"""Precision asked for: how many sequences each component needs, decided without spoiling it.

The decision looks at data, so the estimate must not be made of the data that decided. A pilot says
how many sequences a component needs; the estimate comes from others. What is left of the damage
(where the first guess falls short, the estimate's own data ask for more) is measured by simulation
in ``tests/test_coverage.py``.

Whether an interval can keep its word is asked of all effects of a checkpoint together, with or
without a precision (:func:`judge`). Effects of a model that has learned its task are small on most
sequences and huge on a few: where one sequence in a hundred carries a fifth of a mean, half of all
samples of 48 hold none of those, look well-behaved, and are wrong. Such a tail shows in the other
components and baselines, whose rare sequences are not the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.measures.plan import PANEL
from circuit_econ.measures.statistics import Estimate
from circuit_econ.tables import FEW, Outcome

__all__ = ["PILOT", "Judged", "Precision", "first_guess", "judge", "next_guess", "tail"]

PILOT = PANEL
"""Sequences (documents, where several come from one) that only decide."""

_FEWEST = 48
"""Sequences that an estimate is made of at least, where there are so many."""

_PER_SKEWNESS = 15
"""Units that an interval needs per squared skewness (Cochran 1977, section 2.15, asks 25 of
Student's): measured, on effects whose skewness is 7 to 19, in ``benchmarks/coverage.py``."""

_TOLERABLE = 2.0
"""Squared skewness that few units may have: theirs is bounded by their number, and mostly noise."""

_MARGIN = 1.25
"""More than the pilot says is asked for: its variance is itself an estimate, and a first guess
that suffices leaves the interval undisturbed."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Standard errors asked for: max(absolute, relative · |value|).

    Attributes:
        absolute: In nats per scored position.
        relative: As a share of the value.
    """

    absolute: float = 0.002
    relative: float = 0.05

    def __post_init__(self) -> None:
        for name, value in (("absolute", self.absolute), ("relative", self.relative)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(
                    f"precision.{name} must be a number of at least 0, not {value}"
                )
        if self.absolute == 0 and self.relative == 0:
            raise ConfigurationError(
                "precision asks for no error at all; leave it out to measure every sequence: "
                "precision=null"
            )

    @classmethod
    def make(cls, given: Precision | Mapping[str, float] | None) -> Precision | None:
        """From a mapping; what it leaves out has its default.

        Raises:
            ConfigurationError: If it holds another key.
        """
        if given is None or isinstance(given, Precision):
            return given
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise unknown("key", f"precision.{name}", [f"precision.{k}" for k in known])
        return cls(**{name: float(value) for name, value in given.items()})

    def target(self, value: float) -> float:
        """The standard error asked for at a value."""
        return max(self.absolute, self.relative * abs(value))


def tail(estimates: Iterable[Estimate]) -> float:
    """Mean squared skewness of a checkpoint's effects; those that never showed have no say."""
    squares = [e.skewness**2 for e in estimates if e.affected]
    return sum(squares) / len(squares) if squares else 0.0


def first_guess(pilot: Estimate, precision: Precision, tail: float) -> int:
    """Sequences an estimate is first made of, from a pilot."""
    # The value is as uncertain as its error says: the smaller one asks for more.
    safe = max(0.0, abs(pilot.mean) - pilot.se)
    return max(_FEWEST, _needed(pilot, precision.target(safe)), _for_tail(pilot, tail))


def next_guess(so_far: Estimate, precision: Precision, tail: float) -> int | None:
    """Sequences to make the estimate of instead; None if these suffice."""
    if not so_far.affected:
        return 2 * so_far.units
    wanted = _for_tail(so_far, tail)
    if so_far.se > precision.target(so_far.mean):
        wanted = max(so_far.units + 1, wanted, _needed(so_far, precision.target(so_far.mean)))
    return wanted if wanted > so_far.units else None


@dataclass(frozen=True, slots=True)
class Judged:
    """What is said of an estimate.

    Attributes:
        outcome: Why its interval is as it is.
        low: Lower end of the 95 % interval; NaN where none can be given.
        high: Upper end.
        needed: Sequences (documents) that an interval takes at least, where the tail is heavy.
    """

    outcome: Outcome
    low: float
    high: float
    needed: int | None = None


def judge(found: Estimate, precision: Precision | None, tail: float) -> Judged:
    """Which interval an estimate can vouch for.

    A mean of units of skewness g is normal enough from some multiple of g² units on (Cochran 1977,
    section 2.15). A sample's own skewness says too little, as it has not seen the tail when it is
    wrong: so g² is the mean over the effects of the checkpoint (:func:`tail`), or a quarter of its
    own, if that is larger (then fewer than four units carry the effect).

    Args:
        found: The estimate.
        precision: What was asked for; None for all sequences.
        tail: Mean squared skewness of the checkpoint's effects.

    Returns:
        ``not estimable``: no sequence was affected, so how it varies is not known;
        ``heavy tail``: too few for such skewness, so that only the end that faces away from the
        tail is given; ``few``: fewer than 16 effective units, so an interval with few degrees of
        freedom; ``fixed``: all sequences were used, as no precision was asked for; ``met``: the
        error asked for was reached; ``used up``: it was not, with all sequences.
    """
    if not found.affected:
        return Judged(Outcome.NOT_ESTIMABLE, math.nan, math.nan)
    needed = _for_tail(found, tail)
    if needed > found.units:
        right = found.skewness > 0
        low, high = (found.low, math.nan) if right else (math.nan, found.high)
        return Judged(Outcome.HEAVY_TAIL, low, high, needed)
    if found.effective < FEW:
        outcome = Outcome.FEW
    elif precision is None:
        outcome = Outcome.FIXED
    else:
        reached = found.se <= precision.target(found.mean)
        outcome = Outcome.MET if reached else Outcome.USED_UP
    return Judged(outcome, found.low, found.high)


def _for_tail(found: Estimate, tail: float) -> int:
    """Units from which on an interval keeps its word; 0 where any number will do."""
    squared = max(tail, found.skewness**2 / 4)
    if squared <= _TOLERABLE:
        return 0
    return math.ceil(_PER_SKEWNESS * squared * found.units / found.effective)


def _needed(found: Estimate, target: float) -> int:
    if found.se == 0:
        return 0
    # A value around 0 may be asked for an error of 0: that takes all there is.
    return math.ceil(_MARGIN * found.units * (found.se / max(target, 1e-6 * found.se)) ** 2)

"""Precision asked for: how many sequences each component needs, decided without spoiling it.

The decision looks at data, so the estimate must not be made of the data that decided. A pilot says
how many sequences a component needs; the estimate comes from others. What is left of the damage
(where the first guess falls short, the estimate's own data ask for more) is measured by simulation
in ``tests/test_coverage.py``: 95 % intervals cover between 93 and 97 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.measures.plan import PANEL
from circuit_econ.measures.statistics import AFFECTED, Estimate

__all__ = ["PILOT", "Precision", "first_guess", "next_guess", "verdict"]

PILOT = PANEL
"""Sequences (documents, where several come from one) that only decide."""

_FEWEST = 48
"""Sequences that an estimate is made of at least, where there are so many."""

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


def first_guess(pilot: Estimate, precision: Precision) -> int:
    """Sequences an estimate is first made of, from a pilot."""
    # The value is as uncertain as its error says: the smaller one asks for more.
    safe = max(0.0, abs(pilot.mean) - pilot.se)
    return max(_FEWEST, _needed(pilot, precision.target(safe)))


def next_guess(so_far: Estimate, precision: Precision) -> int | None:
    """Sequences to make the estimate of instead; None if these suffice."""
    if so_far.affected < AFFECTED:
        return 2 * so_far.units
    if so_far.se <= precision.target(so_far.mean):
        return None
    return max(so_far.units + 1, _needed(so_far, precision.target(so_far.mean)))


def verdict(found: Estimate, precision: Precision | None) -> str:
    """What the ``outcome`` column says.

    ``met``: the error asked for was reached; ``used up``: it was not, with all sequences;
    ``not estimable``: fewer than 30 sequences were affected; ``fixed``: none was asked for.
    """
    if precision is None:
        return "fixed"
    if found.affected < AFFECTED:
        return "not estimable"
    return "met" if found.se <= precision.target(found.mean) else "used up"


def _needed(found: Estimate, target: float) -> int:
    if found.se == 0:
        return 0
    # A value around 0 may be asked for an error of 0: that takes all there is.
    return math.ceil(_MARGIN * found.units * (found.se / max(target, 1e-6 * found.se)) ** 2)

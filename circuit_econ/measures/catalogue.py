"""The list of measures. A new one is one file and one entry here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.measures.attention import ATTENTION
from circuit_econ.measures.base import Measure
from circuit_econ.measures.capacity import CAPACITY
from circuit_econ.measures.circuits import CIRCUITS
from circuit_econ.measures.composition import COMPOSITION
from circuit_econ.measures.edges import EDGES
from circuit_econ.measures.income import INCOME
from circuit_econ.measures.value import VALUE

__all__ = ["MEASURES", "measures_of"]

MEASURES: Final[dict[str, Measure]] = {
    m.name: m for m in (VALUE, ATTENTION, CAPACITY, COMPOSITION, INCOME, EDGES, CIRCUITS)
}
"""Every measure by name, in the order in which they run."""


def measures_of(names: Sequence[str]) -> list[Measure]:
    """The measures of some names, and those they need, in the order in which they run.

    Raises:
        ConfigurationError: If a name is unknown (what exists is listed) or there is none.
    """
    for name in names:
        if name not in MEASURES:
            raise unknown("measure", name, MEASURES)
    if not names:
        raise ConfigurationError(f"no measure asked for; there is: {', '.join(MEASURES)}")
    wanted = {*names}
    for measure in reversed(MEASURES.values()):
        if measure.name in wanted:
            wanted.update(measure.needs)
    return [m for m in MEASURES.values() if m.name in wanted]

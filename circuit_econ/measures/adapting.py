"""Runs a sweep until every variant is known as well as was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from circuit_econ.measures.precision import PILOT, Precision, first_guess, next_guess, tail
from circuit_econ.measures.statistics import Estimate, estimate
from circuit_econ.measures.sweep import Draw, Sweep

__all__ = ["Adapted", "adapt", "estimate_of", "pilot_panels"]

Adapted = dict[int, slice]
"""By variant, the columns that its estimate is made of."""


def pilot_panels(draw: Draw) -> int:
    """Panels of the pilot: the first that hold 32 sequences (documents).

    0 if there are not twice as many: then nothing is decided, and every sequence is measured.
    """
    units = _units(draw, len(draw.order))
    if units < 2 * PILOT:
        return 0
    return next(n for n, (_, last) in enumerate(draw.panels, 1) if _units(draw, last) >= PILOT)


def adapt(
    sweep: Sweep,
    numbers: Sequence[int],
    placebos: Sequence[int],
    precision: Precision,
    kindred: Sequence[int],
) -> Adapted:
    """Measure variants until their standard errors are as asked for, or all sequences are used.

    Args:
        sweep: Where to measure.
        numbers: Variants that are estimated.
        placebos: Variants that run on the pilot alone.
        precision: What is asked for.
        kindred: Those of ``numbers`` whose tails speak for all.

    Returns:
        Columns of each estimate: those behind the pilot, as many as it took.
    """
    everything = range(len(sweep.panels))
    pilot = pilot_panels(sweep)
    if pilot == 0:
        sweep.run(everything, [*numbers, *placebos])
        return dict.fromkeys(numbers, slice(0, len(sweep.order)))
    sweep.run(range(pilot), [*numbers, *placebos])
    begin = sweep.panels[pilot][0]
    reached = dict.fromkeys(numbers, pilot)
    found = {n: estimate_of(sweep, [n], slice(0, begin)) for n in numbers}
    spread = tail(found[n] for n in kindred)
    wanted = {n: first_guess(found[n], precision, spread) for n in numbers}
    while wanted:
        goal = {n: _panel_of(sweep, begin, units, reached[n]) for n, units in wanted.items()}
        cuts = sorted({*(reached[n] for n in goal), *goal.values()})
        for first, last in pairwise(cuts):
            sweep.run(range(first, last), [n for n in goal if reached[n] <= first < goal[n]])
        reached |= goal
        found |= {n: estimate_of(sweep, [n], slice(begin, _end(sweep, reached[n]))) for n in goal}
        # What one has met of the tail is news for all, also for those that were content before.
        spread = tail(found[n] for n in kindred)
        short = [n for n in numbers if reached[n] < len(sweep.panels)]
        asked = {n: next_guess(found[n], precision, spread) for n in short}
        wanted = {n: units for n, units in asked.items() if units is not None}
    return {n: slice(begin, _end(sweep, reached[n])) for n in numbers}


def estimate_of(sweep: Sweep, numbers: Sequence[int], columns: slice) -> Estimate:
    """Of the mean over some variants, over those of the columns that were measured."""
    differences = sweep.difference[list(numbers)][:, columns].mean(0)
    there = ~differences.isnan()
    clusters = None if sweep.clusters is None else sweep.clusters[columns][there]
    return estimate(differences[there], sweep.counts[columns][there], clusters)


def _units(draw: Draw, columns: int) -> int:
    clusters = draw.clusters
    return columns if clusters is None else len(clusters[:columns].unique())


def _end(sweep: Sweep, panels: int) -> int:
    return sweep.panels[panels - 1][1]


def _panel_of(sweep: Sweep, begin: int, units: int, reached: int) -> int:
    """How many panels it takes to have so many units behind the pilot; more than were reached."""
    sequences = len(sweep.order)
    columns = begin + units * sequences / _units(sweep, sequences)
    enough = (n for n, (_, last) in enumerate(sweep.panels, 1) if last >= columns)
    return max(reached + 1, next(enough, len(sweep.panels)))

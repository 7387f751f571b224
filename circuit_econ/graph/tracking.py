"""Circuits over checkpoints: births, deaths, splits, mergers, moves, growth and decline."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import hypot
from typing import Any, Final, NamedTuple, TypeAlias

import polars as pl

from circuit_econ.errors import ConfigurationError
from circuit_econ.graph.circuits import natural
from circuit_econ.graph.counting import amount, kind_of
from circuit_econ.graph.lineages import heirs_of, members_by_step
from circuit_econ.tables import TABLES, Kind, make_table

__all__ = ["Event", "events_by_threshold", "track"]

SAME_FUNCTION: Final = 0.9
"""Cosine of two circuits' functions from which on one may be the other, moved."""

SAME_GOODS: Final = 0.5
"""Cosine of what a circuit trades and what it traded when it began, below which it is another."""

COMPARABLE: Final = 0.5
"""Trade inside of the smaller one, as a share of the larger one's, for the same."""


CERTAIN: Final = 3.0
"""Standard errors of the difference by which a joint value must have moved to grow or decline."""


class Event(StrEnum):
    """What happened to a circuit since the checkpoint before."""

    BIRTH = "birth"
    DEATH = "death"
    CONTINUATION = "continuation"
    SPLIT = "split"
    MERGER = "merger"
    RELOCATION = "relocation"
    CONVERSION = "conversion"
    GROWTH = "growth"
    DECLINE = "decline"


def track(
    circuits: pl.DataFrame,
    counted: pl.DataFrame,
    steps: Sequence[int],
    threshold: float = 0.5,
    values: pl.DataFrame | None = None,
    factor: float = 2.0,
) -> pl.DataFrame:
    """What happened to circuits from each measured step to the next.

    Two circuits of consecutive steps are linked when |A ∩ B| / min(|A|, |B|) of their members
    reaches the threshold. Links are many to many, and each is one row:

    - ``continuation``: neither has another link;
    - ``conversion``: likewise, but it no longer trades what it did: the cosine of its goods with
      those of the circuit that the lineage began with is below 0.5. The same members then form
      another circuit, and another lineage begins. (Not with those of the step before: what changes
      slowly changes, too.)
    - ``growth``, ``decline``: likewise, but its joint value is at least ``factor`` times what it
      was, or at most one ``factor``-th of it, and has moved by more than three standard errors of
      the difference. What it was is its value when it was born, converted, moved, split or merged,
      or since then last grew or declined: what shrinks slowly shrinks, too. What was worth nothing
      can grow; it has nothing to lose.
    - ``split``: the parent has several links, the circuit has this one; one row for each part;
    - ``merger``: the circuit has several links, whatever its parents have; one row for each parent.

    A circuit without a link is a ``birth`` (no parent); also all at the first step, where nobody
    knows how old they are. A circuit without a link to the next step is a ``death``: a row of the
    step at which it is gone, with the parent alone. Where one dies and one is born at once, and
    both do the same, it is a ``relocation`` and neither: the cosine of their functions is at least
    0.9 and the trade inside of one at least half of the other's. The function of a circuit is its
    goods, the shares of its internal trade by kind of supplier, port, kind of buyer and sign, and
    the shares of its sales to the logits by sign. Pairs are made by cosine, the closest first.

    Args:
        circuits: Table ``circuits`` of all steps.
        counted: Table ``counted`` of all steps.
        steps: All steps at which circuits were looked for, also where there were none.
        threshold: Overlap that makes a link; above 0, at most 1.
        values: Rows of table ``circuit_values`` of all steps under one baseline. Without them
            nothing grows or declines.
        factor: From which factor on a circuit grows or declines; above 1.

    Returns:
        Table ``circuit_events``, by step, then circuit, then parent, deaths last. ``overlap`` is
        null for births and deaths, ``since`` for all but growth and decline.

    Raises:
        ConfigurationError: If threshold or factor is out of range, there are circuits at a step
            that is not among the steps, or values under several baselines.
    """
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"threshold must be above 0 and at most 1, not {threshold}")
    if not factor > 1:
        raise ConfigurationError(f"factor must be above 1, not {factor}")
    known = _known(circuits, counted)
    if strange := sorted(set(known).difference(steps)):
        raise ConfigurationError(
            f"there are circuits at step {strange[0]}, which is not among the steps to track: "
            f"{', '.join(map(str, sorted(set(steps)))) or 'none'}"
        )
    sizes, baseline = _sizes(values)
    rows: list[tuple[Any, ...]] = []
    ordered = sorted(set(steps))
    founders: dict[str, _Circuit] = {}
    marks: dict[str, _Size] = {}
    for before, step in pairwise([None, *ordered]):
        parents, children = known.get(before, {}), known.get(step, {})
        told: list[tuple[Event, str | None, str | None, float | None]] = []
        marked = {name: sizes[step, name] for name in children if (step, name) in sizes}
        for event, child, parent, overlap in _events(parents, children, founders, threshold):
            since = None
            if event is Event.CONTINUATION and parent in marks and child in marked:
                event = _resized(marked[child], marks[parent], factor)
                if event is Event.CONTINUATION:
                    marked[child] = marks[parent]
                else:
                    since = marks[parent].step
            told.append((event, child, parent, overlap))
            both = ((step, child), (before, parent))
            amounts = [x for at in both for x in (sizes[at][1:] if at in sizes else (None, None))]
            rows.append((step, event.value, child, parent, overlap, baseline, *amounts, since))
        heirs = heirs_of(
            [(c, p) for event, c, p, _ in told if c and p and event != Event.CONVERSION],
            {name: one.members for name, one in children.items()},
            {name: one.members for name, one in parents.items()},
        )
        founders = {c: founders[heirs[c]] if c in heirs else children[c] for c in children}
        marks = marked
    names = TABLES["circuit_events"]
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return make_table("circuit_events", dict(zip(names, map(list, columns), strict=True)))


def events_by_threshold(
    circuits: pl.DataFrame,
    counted: pl.DataFrame,
    steps: Sequence[int],
    thresholds: Sequence[float] = (0.3, 0.5, 0.7),
) -> pl.DataFrame:
    """How many events there are at other thresholds of overlap.

    Args:
        circuits: As for :func:`track`.
        counted: As for :func:`track`.
        steps: As for :func:`track`.
        thresholds: Overlaps that make a link.

    Returns:
        Columns ``threshold``, ``event``, ``count``; every event has a row. A split counts once
        however many its parts, a merger once however many its parents.
    """
    rows: list[tuple[float, str, int]] = []
    for threshold in thresholds:
        events = track(circuits, counted, steps, threshold)
        # What the rows of one event have in common.
        happened = {
            (event, step, parent if event == Event.SPLIT else circuit or parent)
            for step, event, circuit, parent in events.select(
                "step", "event", "circuit", "parent"
            ).iter_rows()
        }
        count = Counter(event for event, _, _ in happened)
        rows += [(threshold, event.value, count[event]) for event in Event]
    return pl.DataFrame(
        {
            "threshold": [row[0] for row in rows],
            "event": [row[1] for row in rows],
            "count": [row[2] for row in rows],
        },
        schema={"threshold": pl.Float64, "event": pl.String, "count": pl.Int64},
    )


_Amounts: TypeAlias = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class _Circuit:
    """What is followed of a circuit.

    Attributes:
        members: Its components.
        trade: Inside, in absolute flows.
        goods: Shares of that trade by kind, port and sign.
        sales: Shares of sales to the logits by sign.
    """

    members: frozenset[str]
    trade: float
    goods: _Amounts
    sales: _Amounts

    def overlap(self, other: _Circuit) -> float:
        """Of the smaller one's members, the share that the other has, too."""
        common = len(self.members & other.members)
        return common / min(len(self.members), len(other.members))

    def cosine(self, other: _Circuit) -> float:
        """Of the functions; 0 where one has none."""
        return _cosine({**self.goods, **self.sales}, {**other.goods, **other.sales})

    def converted(self, founder: _Circuit) -> bool:
        """Whether it trades other goods than the circuit its lineage began with."""
        known = bool(self.goods and founder.goods)
        return known and _cosine(self.goods, founder.goods) < SAME_GOODS

    def comparable(self, other: _Circuit) -> bool:
        """Whether neither trades much more inside."""
        return min(self.trade, other.trade) >= COMPARABLE * max(self.trade, other.trade)


class _Size(NamedTuple):
    """The joint value of a circuit at a step."""

    step: int
    value: float
    se: float | None


_Found: TypeAlias = Mapping[str, _Circuit]


def _events(
    parents: _Found, children: _Found, founders: _Found, threshold: float
) -> Iterator[tuple[Event, str | None, str | None, float | None]]:
    """From one step to the next."""
    overlaps = {
        (child, parent): children[child].overlap(parents[parent])
        for child in children
        for parent in parents
    }
    links = {pair for pair, overlap in overlaps.items() if overlap >= threshold}
    of_child = Counter(child for child, _ in links)
    of_parent = Counter(parent for _, parent in links)
    moved = _moved(
        {name: parents[name] for name in parents if not of_parent[name]},
        {name: children[name] for name in children if not of_child[name]},
    )
    for child in children:
        if child in moved:
            parent = moved[child]
            yield Event.RELOCATION, child, parent, overlaps[child, parent]
        elif not of_child[child]:
            yield Event.BIRTH, child, None, None
        for parent in parents:
            if (child, parent) in links:
                event = (
                    Event.MERGER
                    if of_child[child] > 1
                    else Event.SPLIT
                    if of_parent[parent] > 1
                    else Event.CONVERSION
                    if children[child].converted(founders[parent])
                    else Event.CONTINUATION
                )
                yield event, child, parent, overlaps[child, parent]
    for parent in parents:
        if not of_parent[parent] and parent not in moved.values():
            yield Event.DEATH, None, parent, None


def _sizes(values: pl.DataFrame | None) -> tuple[dict[tuple[Any, Any], _Size], str | None]:
    """Joint values by step and circuit, and under which baseline they are."""
    if values is None or values.is_empty():
        return {}, None
    baselines = values["baseline"].unique().sort().to_list()
    if len(baselines) > 1:
        raise ConfigurationError(
            f"values to track must be those of one baseline, not of {', '.join(baselines)}"
        )
    rows = values.select("step", "circuit", "value", "se").iter_rows()
    return {(step, name): _Size(step, value, se) for step, name, value, se in rows}, baselines[0]


def _resized(now: _Size, then: _Size, factor: float) -> Event:
    """Whether a circuit that goes on has grown or declined since."""
    if now.se is None or then.se is None:
        return Event.CONTINUATION
    moved = now.value - then.value
    if abs(moved) <= CERTAIN * hypot(now.se, then.se):
        return Event.CONTINUATION
    small, large = sorted((now.value, then.value))
    if large <= 0 or large < factor * small:
        return Event.CONTINUATION
    return Event.GROWTH if moved > 0 else Event.DECLINE


def _moved(dying: _Found, born: _Found) -> dict[str, str]:
    """Who of those that died does the same as who was born."""
    pairs = [
        (-born[child].cosine(dying[parent]), natural(child), natural(parent))
        for child in born
        for parent in dying
        if born[child].comparable(dying[parent])
    ]
    found: dict[str, str] = {}
    for cosine, (_, child), (_, parent) in sorted(pairs):
        if -cosine >= SAME_FUNCTION and child not in found and parent not in found.values():
            found[child] = parent
    return found


def _cosine(ours: _Amounts, theirs: _Amounts) -> float:
    sizes = hypot(*ours.values()) * hypot(*theirs.values())
    product = sum(ours[key] * theirs[key] for key in sorted(set(ours) & set(theirs)))
    return product / sizes if sizes else 0.0


def _known(circuits: pl.DataFrame, counted: pl.DataFrame) -> dict[Any, dict[str, _Circuit]]:
    """All circuits by step and name."""
    by_step: dict[int, list[tuple[str, str, str, float, str | None]]] = {}
    edges = counted.select("step", "supplier", "buyer", "port", amount(counted), "circuit")
    for step, *edge in sorted(edges.rows(), key=lambda row: row[:4]):
        by_step.setdefault(step, []).append(tuple(edge))
    found: dict[int, dict[str, _Circuit]] = {}
    for step, here in members_by_step(circuits).items():
        for name, members in here.items():
            inside: defaultdict[tuple[str, ...], float] = defaultdict(float)
            sales: defaultdict[tuple[str, ...], float] = defaultdict(float)
            for supplier, buyer, port, flow, circuit in by_step.get(step, []):
                sign = "gain" if flow > 0 else "loss"
                if circuit == name:
                    key = (kind_of(supplier), port, kind_of(buyer), sign)
                    inside[key] += abs(flow)
                elif buyer == Kind.LOGITS and supplier in members:
                    sales[buyer, sign] += abs(flow)
            found.setdefault(step, {})[name] = _Circuit(
                members, sum(inside.values(), 0.0), _shares(inside), _shares(sales)
            )
    return found


def _shares(amounts: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    total = sum(amounts.values())
    return {key: amount / total for key, amount in amounts.items()}

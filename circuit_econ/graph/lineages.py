"""Lasting names of circuits through time: who carries on whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import polars as pl

from circuit_econ.graph.circuits import natural

__all__ = ["heirs_of", "lineages", "members_by_step"]

Members: TypeAlias = dict[int, dict[str, frozenset[str]]]
"""Members of circuits, by step and name."""


def lineages(circuits: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """One lasting name for a circuit through time.

    The heir of a circuit that splits is the part with which it shares most members; a circuit that
    merges of several goes on with the name of the parent with which it shares most. Of equals, that
    with the smaller remainder, then that with the larger trade inside (circuits are named by it).
    The others end, or begin, there. A relocated circuit keeps its name.

    Args:
        circuits: Table ``circuits`` of all steps.
        events: Table ``circuit_events`` of the same.

    Returns:
        Columns ``step``, ``circuit``, ``lineage`` (``L1``, ``L2``, … in the order of birth), one
        row per step and circuit, sorted.
    """
    members = members_by_step(circuits)
    links: dict[int, list[tuple[str, str]]] = {}
    linked = events.filter(
        pl.col("circuit").is_not_null()
        & pl.col("parent").is_not_null()
        & (pl.col("event") != "conversion")
    )
    for step, circuit, parent in linked.select("step", "circuit", "parent").rows():
        links.setdefault(step, []).append((circuit, parent))
    named: dict[tuple[int, str], str] = {}
    before, born = 0, 0
    for step, here in members.items():
        heirs = heirs_of(links.get(step, []), here, members.get(before, {}))
        for circuit in here:
            if circuit in heirs:
                named[step, circuit] = named[before, heirs[circuit]]
            else:
                born += 1
                named[step, circuit] = f"L{born}"
        before = step
    return pl.DataFrame(
        {
            "step": [step for step, _ in named],
            "circuit": [circuit for _, circuit in named],
            "lineage": list(named.values()),
        },
        schema={"step": pl.Int64, "circuit": pl.String, "lineage": pl.String},
    )


def heirs_of(
    links: Sequence[tuple[str, str]],
    here: Mapping[str, frozenset[str]],
    there: Mapping[str, frozenset[str]],
) -> dict[str, str]:
    """The parent that each circuit carries on; no parent has two heirs."""
    heirs: dict[str, str] = {}
    for circuit, parent in _closest(links, here, there):
        if circuit not in heirs and parent not in heirs.values():
            heirs[circuit] = parent
    return heirs


def _closest(
    links: Sequence[tuple[str, str]],
    here: Mapping[str, frozenset[str]],
    there: Mapping[str, frozenset[str]],
) -> list[tuple[str, str]]:
    """Circuits and parents that share most members first; of equals those that differ least."""

    def order(link: tuple[str, str]) -> tuple[int, int, tuple[int, str], tuple[int, str]]:
        child, parent = here[link[0]], there[link[1]]
        return -len(child & parent), len(child | parent), natural(link[1]), natural(link[0])

    return sorted(links, key=order)


def members_by_step(circuits: pl.DataFrame) -> Members:
    """Members of circuits by step; steps and circuits in order."""
    gathered: dict[tuple[int, str], set[str]] = {}
    for step, circuit, component in circuits.select("step", "circuit", "component").rows():
        gathered.setdefault((step, circuit), set()).add(component)
    found: Members = {}
    for step, circuit in sorted(gathered, key=lambda key: (key[0], natural(key[1]))):
        found.setdefault(step, {})[circuit] = frozenset(gathered[step, circuit])
    return found

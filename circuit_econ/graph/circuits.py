"""Modular circuits: roles tied by edges that count, starting and ending within the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import comb
from typing import TYPE_CHECKING, Final, TypeAlias

import networkx as nx
import polars as pl

from circuit_econ.graph.counting import amount, edge_key
from circuit_econ.graph.roles import find_roles
from circuit_econ.tables import Kind, component_key

if TYPE_CHECKING:
    Ties: TypeAlias = nx.Graph[int]
else:  # the class takes no parameters when it runs
    Ties = nx.Graph

__all__ = ["Circuits", "adjusted_rand", "find_circuits", "natural"]

MINOR: Final = 0.1
"""Share of a role's largest tie below which another one is minor to it."""


@dataclass(frozen=True, slots=True)
class Circuits:
    """The circuits of one checkpoint.

    All three go by component, in the order of circuits, then roles, then components.

    Attributes:
        assigned: Circuit: ``c1`` is the one with the largest trade inside, then ``c2`` and so on.
        role: Role; no two circuits have one in common.
        membership: Share of the component's counted trade with other components (in absolute
            flows, sold and bought) that is inside of its circuit; between 0 and 1.
    """

    assigned: Mapping[str, str] = field(default_factory=dict)
    role: Mapping[str, str] = field(default_factory=dict)
    membership: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_table(cls, rows: pl.DataFrame) -> Circuits:
        """From the rows of table ``circuits`` of one step."""
        found = rows.select("component", "circuit", "role", "membership").rows()
        found.sort(key=lambda row: component_key(row[0]))
        roles = list(dict.fromkeys(row[2] for row in found))
        found.sort(key=lambda row: (natural(row[1]), roles.index(row[2])))
        return cls(*({row[0]: row[at] for row in found} for at in (1, 2, 3)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the circuits, the largest first."""
        return tuple(dict.fromkeys(self.assigned.values()))

    def inside(self, supplier: str, buyer: str) -> str | None:
        """The circuit that both are in, if they are in one."""
        circuit = self.assigned.get(supplier)
        return circuit if circuit == self.assigned.get(buyer) else None

    def members(self, circuit: str) -> dict[str, float]:
        """Membership by component, in reading order."""
        names = (name for name, found in self.assigned.items() if found == circuit)
        return {name: self.membership[name] for name in sorted(names, key=component_key)}

    def roles(self, circuit: str) -> dict[str, tuple[str, ...]]:
        """Members by role, both in reading order."""
        found: dict[str, list[str]] = {}
        for name in self.members(circuit):
            found.setdefault(self.role[name], []).append(name)
        return {role: tuple(names) for role, names in found.items()}

    def columns(self) -> dict[str, list[str] | list[float]]:
        """Columns of table ``circuits`` but for the step."""
        return {
            "circuit": list(self.assigned.values()),
            "role": list(self.role.values()),
            "component": list(self.assigned),
            "membership": list(self.membership.values()),
        }


def find_circuits(counted: pl.DataFrame, alike: float = 0.6, seed: int = 0) -> Circuits:
    """Circuits among the edges that count.

    Roles (:func:`~circuit_econ.graph.roles.find_roles`) are tied by the absolute flows between
    their members; the logits tie nobody, for everybody sells to them. A role is minor whose every
    tie is under a tenth of the largest tie of the role at its other end: it supplies a circuit, or
    buys of it, and is in none. What hangs together of the rest is a circuit, unless it falls into
    parts each of which trades more inside than with all roles outside.

    Parts are proposed by modularity (Louvain, from the seed) and tried again within each part; one
    that trades too little inside joins the part it trades most with. So a star of one supplier and
    many alike buyers stays whole, and modularity's limit of resolution does not matter: it merges
    what is tried again, and what it splits too far grows together.

    Args:
        counted: Edges that count at one step: ``supplier``, ``buyer``, ``port``, ``flow``, and
            where effects admitted some ``effect`` and ``admitted_by``
            (:func:`~circuit_econ.graph.counting.amount`).
        alike: How alike components must trade to share a role.
        seed: Of the search for parts. The same seed gives the same circuits, whatever the order of
            the rows.

    Returns:
        The circuits; each has at least two roles and an edge between components. Components that
        are minor to all their partners, or trade with the logits alone, are in none.

    Raises:
        ConfigurationError: If ``alike`` is out of range.
    """
    role_of = find_roles(counted, alike)
    edges = _between_components(counted)
    roles = {role: at for at, role in enumerate(dict.fromkeys(role_of.values()))}
    ties: Ties = nx.Graph()
    ties.add_nodes_from(roles.values())
    for supplier, buyer, size in edges:
        ends = roles[role_of[supplier]], roles[role_of[buyer]]
        known = ties.get_edge_data(*ends, default={"weight": 0.0})["weight"]
        ties.add_edge(*ends, weight=known + size)
    ties.remove_nodes_from(_minor(ties))
    parts = [part for whole in nx.connected_components(ties) for part in _parts(ties, whole, seed)]
    # The largest trade inside comes first; roles are numbered in reading order.
    parts.sort(key=lambda part: (-_inside(ties, part), min(part)))
    circuit_of = {role: f"c{n}" for n, part in enumerate(parts, 1) for role in part}
    place = {name: roles[role] for name, role in role_of.items()}
    total, inside = dict.fromkeys(role_of, 0.0), dict.fromkeys(role_of, 0.0)
    for supplier, buyer, size in edges:
        circuit = circuit_of.get(place[supplier])
        for end in (supplier, buyer):
            total[end] += size
            inside[end] += size * (circuit is not None and circuit == circuit_of.get(place[buyer]))
    # A member of a role may be alone in trading with nobody of the circuit.
    order = [name for name in role_of if inside[name] > 0]
    order.sort(key=lambda name: (natural(circuit_of[place[name]]), place[name]))
    return Circuits(
        {name: circuit_of[place[name]] for name in order},
        {name: role_of[name] for name in order},
        {name: inside[name] / total[name] for name in order},
    )


def natural(name: str) -> tuple[int, str]:
    """Sort key by which ``c2`` comes before ``c10``."""
    return (len(name), name)


def _between_components(counted: pl.DataFrame) -> list[tuple[str, str, float]]:
    """Supplier, buyer and size of every edge between components, in reading order."""
    rows = counted.select("supplier", "buyer", "port", amount(counted)).rows()
    rows.sort(key=lambda row: edge_key(row[:3]))
    return [(row[0], row[1], abs(row[3])) for row in rows if row[1] != Kind.LOGITS]


def _minor(ties: Ties) -> list[int]:
    """Roles that nobody they trade with would miss.

    The two ends of a role's largest tie cannot both be minor, so who stays has somebody to trade
    with.
    """
    largest = {
        role: max((tie["weight"] for tie in ties[role].values()), default=0.0) for role in ties
    }
    return [
        role
        for role in ties
        if all(tie["weight"] < MINOR * largest[other] for other, tie in ties[role].items())
    ]


def _parts(ties: Ties, whole: set[int], seed: int) -> list[set[int]]:
    """The whole, or its parts if every one trades more inside than outside."""
    found = _strong(ties, _proposed(ties, whole, seed))
    if len(found) == 1:
        return [whole]
    return [part for parts in found for part in _parts(ties, parts, seed)]


def _proposed(ties: Ties, whole: set[int], seed: int) -> list[set[int]]:
    """Communities by modularity, each of which hangs together."""
    inner: Ties = nx.Graph()
    inner.add_nodes_from(sorted(whole))
    inner.add_edges_from(
        sorted((min(a, b), max(a, b), tie) for a, b, tie in ties.subgraph(whole).edges(data=True))
    )
    found = nx.community.louvain_communities(inner, weight="weight", seed=seed)
    return [set(part) for some in found for part in nx.connected_components(inner.subgraph(some))]


def _strong(ties: Ties, parts: list[set[int]]) -> list[set[int]]:
    """Parts joined until each trades more inside than outside, or one is left."""
    parts = sorted(parts, key=min)
    while len(parts) > 1:
        surplus = [_inside(ties, part) - nx.cut_size(ties, part, weight="weight") for part in parts]
        least = min(range(len(parts)), key=lambda at: surplus[at])
        if surplus[least] > 0:
            break
        weak = parts.pop(least)
        most = max(parts, key=lambda part: nx.cut_size(ties, weak, part, weight="weight"))
        most |= weak
    return parts


def _inside(ties: Ties, part: Iterable[int]) -> float:
    return ties.subgraph(part).size(weight="weight")


def adjusted_rand(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[int, float | None]:
    """How far two assignments to circuits agree beyond chance (Hubert & Arabie 1985).

    Args:
        a: Circuit by component.
        b: The same from other data; names of circuits do not matter.

    Returns:
        How many components both assign, and the adjusted Rand index over these: 1 for the same
        circuits, about 0 for chance; None where there are fewer than two.
    """
    both = sorted(set(a) & set(b))
    if len(both) < 2:
        return len(both), None
    pairs = {
        name: sum(comb(groups.count(group), 2) for group in set(groups))
        for name, groups in {
            "a": [a[c] for c in both],
            "b": [b[c] for c in both],
            "both": [(a[c], b[c]) for c in both],
        }.items()
    }
    # Whole numbers up to the division: expected = a·b / all, largest = (a + b) / 2.
    every = comb(len(both), 2)
    above = 2 * (pairs["both"] * every - pairs["a"] * pairs["b"])
    room = (pairs["a"] + pairs["b"]) * every - 2 * pairs["a"] * pairs["b"]
    # No room above chance: both have one circuit, or only circuits of one.
    return len(both), above / room if room else 1.0

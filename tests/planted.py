"""Tables of flows with circuits planted in them, and without, for the tests of what is found.

A model has layers of heads with an MLP each; every pair that can trade has a flow. What nobody
planted is lognormal around 0.001 nats with a deviation of 1 (factors of e) and a random sign, in
untrained models and here. Planted flows are lognormal around 1 nat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from circuit_econ.graph.counting import bounds, largest
from circuit_econ.tables import head_name, mlp_name

LAYERS, HEADS = 4, 8
Edge = tuple[str, str, str]


def pairs() -> list[Edge]:
    """Everybody who can trade, and through which port."""
    units = [
        (2 * layer + mlp, mlp_name(layer) if mlp else head_name(layer, head))
        for layer in range(LAYERS)
        for mlp in range(2)
        for head in range(1 if mlp else HEADS)
    ]
    found = []
    for place, supplier in units:
        for other, buyer in units:
            if other > place:
                found += [(supplier, buyer, port) for port in (["in"] if other % 2 else "qkv")]
        found.append((supplier, "logits", "in"))
    return found


def background(rng: np.random.Generator, edges: Sequence[Edge], se: float = 0.001) -> pl.DataFrame:
    """Flows in which nothing is planted."""
    sizes = 0.001 * np.exp(rng.normal(size=len(edges)))
    flows = sizes * rng.choice([-1.0, 1.0], len(edges)) + se * rng.normal(size=len(edges))
    return table(edges, flows, se)


def table(edges: Sequence[Edge], flows: Sequence[float] | np.ndarray, se: float) -> pl.DataFrame:
    """Flows, half of them called crowding so that the sum matters."""
    suppliers, buyers, ports = (list(x) for x in zip(*edges, strict=True))
    half = [float(x) / 2 for x in flows]
    return pl.DataFrame(
        {"supplier": suppliers, "buyer": buyers, "port": ports, "signal": half, "crowding": half,
         "se": [se] * len(half), "integration_error": [0.0] * len(half)}
    )  # fmt: skip


def null_bounds(
    rng: np.random.Generator, edges: Sequence[Edge], seeds: int = 20
) -> dict[str, float]:
    """Bounds from so many models in which nothing is planted."""
    found = [
        largest(background(rng, edges)).with_columns(pl.lit(seed).alias("seed"))
        for seed in range(seeds)
    ]
    return bounds(pl.concat(found))


@dataclass
class Planted:
    """Circuits in a table of flows."""

    seed: int
    spread: float = 0.5
    circuits: list[list[list[str]]] = field(default_factory=list)
    flows: dict[Edge, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.free = {
            layer: [head_name(layer, int(h)) for h in self.rng.permutation(HEADS)]
            for layer in range(LAYERS)
        }

    def size(self) -> float:
        return float(np.exp(self.spread * self.rng.normal()))

    def plant(self, sizes: Sequence[int], ports: Sequence[str], first: int = 0) -> None:
        """A chain of stages, each so many heads of one layer, that sells to the logits."""
        stages = [
            [self.free[first + at].pop() for _ in range(size)] for at, size in enumerate(sizes)
        ]
        for at, port in enumerate(ports):
            for supplier in stages[at]:
                for buyer in stages[at + 1]:
                    self.flows[supplier, buyer, port] = self.size()
        for name in stages[-1]:
            self.flows[name, "logits", "in"] = self.size()
        self.circuits.append(stages)

    @property
    def assigned(self) -> dict[str, str]:
        """The truth: circuit by component."""
        return {
            name: str(at) for at, stages in enumerate(self.circuits) for s in stages for name in s
        }

    @property
    def roles(self) -> dict[str, str]:
        """The truth: role by component."""
        return {
            name: f"{at}.{n}"
            for at, stages in enumerate(self.circuits)
            for n, s in enumerate(stages)
            for name in s
        }

    def table(self, noise: float = 0.0, size: float = 0.3, se: float = 0.01) -> pl.DataFrame:
        """All flows; besides the planted there are ``noise`` times as many false ones that count.

        Half of them go between members of circuits, half between any two components, through any
        port, with any sign; they are lognormal around ``size``.
        """
        edges = pairs()
        found = background(self.rng, edges)
        flows = (found["signal"] + found["crowding"]).to_numpy().copy()
        place = {edge: at for at, edge in enumerate(edges)}
        between = [edge for edge in edges if edge[1] != "logits" and edge not in self.flows]
        members = [e for e in between if e[0] in self.assigned and e[1] in self.assigned]
        for some in (between, members):
            count = round(noise * len(self.flows) / 2)
            for at in self.rng.choice(len(some), count, replace=False):
                flows[place[some[at]]] = size * self.size() * self.rng.choice([-1.0, 1.0])
        for edge, flow in self.flows.items():
            flows[place[edge]] = flow + se * self.rng.normal()
        rows = table(edges, flows, se)
        return rows[self.rng.permutation(rows.height)]

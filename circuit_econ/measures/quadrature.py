"""Integrals over [0, 1] by nested rules: every node of a rule is a node of the next finer one.

Clenshaw–Curtis rules: 3, 5, 9, 17 … nodes, both ends among them. About as accurate as as many
Gauss–Legendre nodes for what is measured here (Trefethen 2008), and a finer rule takes as many new
nodes as the coarser one has intervals, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import legendre

__all__ = ["Rule", "level_above", "level_below", "rule"]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A rule with 2^level + 1 nodes.

    Attributes:
        level: Of how many halvings.
        nodes: On [0, 1], ascending, ``[n]``.
        weights: ``[n]``; they sum to 1.
        between: Weights that integrate the polynomial through all nodes from each node to the next,
            ``[n - 1, n]``; they sum to ``weights`` over their rows.
    """

    level: int
    nodes: np.ndarray
    weights: np.ndarray
    between: np.ndarray

    def weight(self, node: float) -> float:
        """The weight of a node; 0 if it is none of this rule."""
        at = int(np.searchsorted(self.nodes, node))
        there = at < len(self.nodes) and self.nodes[at] == node
        return float(self.weights[at]) if there else 0.0


@cache
def rule(level: int) -> Rule:
    """The rule of a level, from 0 (the trapezoid)."""
    n = 1 << level
    # A node has the same bits in all rules: π i is doubled exactly where n is.
    nodes = np.sin(np.pi * np.arange(n + 1) / (2 * n)) ** 2
    at = 2 * nodes - 1
    upto = np.stack([legendre.legval(at, legendre.legint(row)) for row in np.eye(n + 1)], 1) / 2
    between = np.diff(upto, axis=0) @ np.linalg.inv(legendre.legvander(at, n))
    return Rule(level, nodes, between.sum(0), between)


def level_above(nodes: int) -> int:
    """The level of the smallest rule with at least so many nodes."""
    return max(0, (max(nodes, 2) - 2).bit_length())


def level_below(nodes: int) -> int:
    """The level of the largest rule with at most so many nodes."""
    return (nodes - 1).bit_length() - 1

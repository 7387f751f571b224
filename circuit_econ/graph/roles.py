"""Roles: components that buy from and sell to alike partners, through alike ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist, squareform

from circuit_econ.errors import ConfigurationError
from circuit_econ.graph.counting import amount, edge_key
from circuit_econ.tables import Kind, component_key, set_name

__all__ = ["find_roles", "role_name"]

_NEVER: Final = 1e9
"""A distance that no average with it can make up for."""

_ROUNDING: Final = 1e-9

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


def find_roles(counted: pl.DataFrame, alike: float = 0.6) -> dict[str, str]:
    """Components that trade alike share a role: suppliers of one good.

    What a component buys is a profile: the shares that its purchases have by partner, port and
    sign. So is what it sells, with the logits as a partner of their own. Two components are as
    alike as the geometric mean of what their purchases and their sales have in common (Σ min of the
    shares): nothing in common on one side is nothing in common, where one of them has trade there.
    A side on which neither has any says nothing. Amounts do not matter, shares do, so suppliers of
    one good may differ in size.

    Clusters (average linkage) of components that are at least so alike become roles; then partners
    are replaced by their roles, which makes more components alike, until nothing changes (regular
    equivalence, White & Reitz 1983, from the fine side: parallel circuits stay apart because their
    partners are others). Two components that trade with each other never share a role: who supplies
    whom is what roles are to tell apart.

    Args:
        counted: Edges that count, as for :func:`~circuit_econ.graph.circuits.find_circuits`.
        alike: From which likeness on two components share a role; above 0, at most 1.

    Returns:
        Name of the role by component, in reading order. Components that trade with the logits
        alone have none. The order of the rows does not matter.

    Raises:
        ConfigurationError: If ``alike`` is out of range.
    """
    if not 0 < alike <= 1:
        raise ConfigurationError(f"alike must be above 0 and at most 1, not {alike}")
    edges = sorted(
        counted.select("supplier", "buyer", "port", amount(counted)).iter_rows(),
        key=lambda edge: edge_key(edge[:3]),
    )
    trading = {end for edge in edges if edge[1] != Kind.LOGITS for end in edge[:2]}
    if not trading:
        return {}
    names = sorted(trading, key=component_key)
    trade = _Trade(names, [edge for edge in edges if edge[0] in trading])
    roles: Integers = np.arange(len(names))
    while True:
        distance = 1 - trade.likeness(roles)
        # Roles grow together and do not come apart again, so this ends.
        distance[roles[:, None] == roles] = 0
        distance[trade.partners] = _NEVER
        np.fill_diagonal(distance, 0)
        tree = linkage(squareform(distance, checks=False), "average")
        found = fcluster(tree, 1 - alike + _ROUNDING, "distance").astype(np.int64) - 1
        if found.max() == roles.max():
            break
        roles = found
    members: dict[int, list[str]] = {}
    for name, role in zip(names, roles.tolist(), strict=True):
        members.setdefault(role, []).append(name)
    return {
        name: role_name(members[role]) for name, role in zip(names, roles.tolist(), strict=True)
    }


def role_name(members: Sequence[str]) -> str:
    """A short name, by the first member and how many there are; all of them up to three."""
    ordered = sorted(members, key=component_key)
    if len(ordered) <= 3:
        return set_name(ordered)
    return f"{ordered[0]} and {len(ordered) - 1} more"


class _Trade:
    """Counted edges as arrays."""

    def __init__(self, names: Sequence[str], edges: Sequence[tuple[Any, ...]]) -> None:
        place = {name: at for at, name in enumerate(names)}
        self.size = len(names)
        place[Kind.LOGITS] = self.size
        ports = sorted({port for _, _, port, _ in edges})
        self.suppliers: Integers = np.array([place[edge[0]] for edge in edges])
        self.buyers: Integers = np.array([place[edge[1]] for edge in edges])
        self.amounts: Floats = np.array([abs(edge[3]) for edge in edges])
        # Port and sign in one number.
        self.goods: Integers = np.array(
            [2 * ports.index(edge[2]) + (edge[3] < 0) for edge in edges]
        )
        self.partners = np.zeros((self.size, self.size), bool)
        inner = self.buyers < self.size
        self.partners[self.suppliers[inner], self.buyers[inner]] = True
        self.partners |= self.partners.T

    def likeness(self, roles: Integers) -> Floats:
        """Of all pairs of components, when partners are told apart by role; between 0 and 1."""
        role = np.append(roles, self.size)
        inner = self.buyers < self.size
        sales, no_sales = self._common(self.suppliers, role[self.buyers], self.goods, self.amounts)
        purchases, no_purchases = self._common(
            self.buyers[inner],
            role[self.suppliers[inner]],
            self.goods[inner],
            self.amounts[inner],
        )
        both = np.sqrt(sales * purchases)
        return np.where(no_purchases, sales, np.where(no_sales, purchases, both))

    def _common(
        self, owners: Integers, partners: Integers, goods: Integers, amounts: Floats
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """What all pairs have in common on one side, and where neither has anything there."""
        keys, column = np.unique(np.stack([partners, goods]), axis=1, return_inverse=True)
        profile = np.zeros((self.size, keys.shape[1]))
        np.add.at(profile, (owners, column.ravel()), amounts)
        total = profile.sum(1)
        trades = total > 0
        profile[trades] /= total[trades, None]
        # Of two sets of shares, Σ min = 1 − ½ Σ |difference|.
        common = np.maximum(1 - cdist(profile, profile, "cityblock") / 2, 0)
        return np.where(np.outer(trades, trades), common, 0.0), np.outer(~trades, ~trades)

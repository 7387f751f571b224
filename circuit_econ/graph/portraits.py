"""What each modular circuit makes, of what, for whom: a circuit as an economy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from circuit_econ.graph.circuits import Circuits
from circuit_econ.graph.counting import edge_key
from circuit_econ.tables import Kind, place_key

__all__ = ["Portrait", "describe", "portraits_table"]

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Portrait:
    """One circuit as an economy; flows in nats per scored position.

    Attributes:
        circuit: Its name.
        roles: Members by role.
        goods: Flow inside by selling role, buying role and port; losses negative.
        suppliers: Flow bought by component outside.
        buyers: Flow sold by buyer outside, the logits among them.
        product: All that is sold outside, net of losses.
        to_logits: How much of it is sold to the logits.
        internal: Trade inside, in absolute flows.
        external: Trade with components outside, in absolute flows.
        capacity: Sum over members by currency. Sums of ranks and of dimensions are the most that
            the members can span together.
    """

    circuit: str
    roles: Mapping[str, tuple[str, ...]]
    goods: Mapping[tuple[str, str, str], float]
    suppliers: Mapping[str, float]
    buyers: Mapping[str, float]
    product: float
    to_logits: float
    internal: float
    external: float
    capacity: Mapping[str, float]


def describe(
    circuits: Circuits, trade: pl.DataFrame, capacity: pl.DataFrame | None = None
) -> list[Portrait]:
    """What every circuit makes, of what, for whom.

    Args:
        circuits: Of one checkpoint.
        trade: Rows of table ``counted``, or of ``flows`` under one baseline, of that checkpoint.
            The first say what counts; with the second small flows are added up as well.
        capacity: Rows of table ``capacity`` of that checkpoint; of a share that is read in several
            places the last along the pass is taken.

    Returns:
        The circuits in order; suppliers and buyers by size, the largest first.
    """
    if "flow" not in trade.columns:
        trade = trade.with_columns(flow=pl.col("signal") + pl.col("crowding"))
    rows = trade.select("supplier", "buyer", "port", "flow").drop_nulls().rows()
    rows.sort(key=lambda row: edge_key(row[:3]))
    return [_portrait(circuits, name, rows, capacity) for name in circuits.names]


def _portrait(
    circuits: Circuits,
    name: str,
    rows: Sequence[tuple[str, str, str, float]],
    capacity: pl.DataFrame | None,
) -> Portrait:
    members = circuits.members(name)
    goods: dict[tuple[str, str, str], float] = {}
    suppliers: dict[str, float] = {}
    buyers: dict[str, float] = {}
    internal = external = 0.0
    for supplier, buyer, port, flow in rows:
        if supplier in members and buyer in members:
            good = (circuits.role[supplier], circuits.role[buyer], port)
            goods[good] = goods.get(good, 0.0) + flow
            internal += abs(flow)
        elif supplier in members:
            buyers[buyer] = buyers.get(buyer, 0.0) + flow
            external += abs(flow) * (buyer != Kind.LOGITS)
        elif buyer in members:
            suppliers[supplier] = suppliers.get(supplier, 0.0) + flow
            external += abs(flow)
    return Portrait(
        name,
        circuits.roles(name),
        _by_size(goods),
        _by_size(suppliers),
        _by_size(buyers),
        sum(buyers.values(), 0.0),
        buyers.get(Kind.LOGITS, 0.0),
        internal,
        external,
        {} if capacity is None else _capacity(capacity, members),
    )


def _by_size(amounts: dict[_Key, float]) -> dict[_Key, float]:
    return dict(sorted(amounts.items(), key=lambda item: -abs(item[1])))


def _capacity(capacity: pl.DataFrame, members: Iterable[str]) -> dict[str, float]:
    known = capacity.filter(
        pl.col("component").is_in(list(members)), pl.col("amount").is_not_null()
    )
    places = known["place"].to_list()
    along = sorted(range(known.height), key=lambda row: place_key(places[row]))
    last = (
        known[along]
        .unique(["component", "currency"], keep="last", maintain_order=True)
        .sort("currency", "component")
    )
    sums = last.group_by("currency", maintain_order=True).agg(pl.col("amount").sum())
    return dict(sums.iter_rows())


def portraits_table(portraits: Sequence[Portrait]) -> pl.DataFrame:
    """One row per circuit, words for names and numbers for amounts; for a page or a terminal.

    Columns ``circuit``, ``roles``, ``members``, ``goods``, ``suppliers``, ``buyers`` (text),
    ``product``, ``to_logits``, ``internal``, ``external`` (nats per scored position), and
    ``capacity_{currency}`` for every currency that is known.
    """
    texts: dict[str, list[str]] = {
        "circuit": [p.circuit for p in portraits],
        "roles": [" | ".join(", ".join(names) for names in p.roles.values()) for p in portraits],
        "goods": [
            ", ".join(f"{a} → {b} {port} {x:.3g}" for (a, b, port), x in p.goods.items())
            for p in portraits
        ],
        "suppliers": [_listed(p.suppliers) for p in portraits],
        "buyers": [_listed(p.buyers) for p in portraits],
    }
    amounts = {
        name: [float(getattr(p, name)) for p in portraits]
        for name in ("product", "to_logits", "internal", "external")
    }
    currencies = sorted({currency for p in portraits for currency in p.capacity})
    capacity = {f"capacity_{c}": [p.capacity.get(c) for p in portraits] for c in currencies}
    members = [sum(map(len, p.roles.values())) for p in portraits]
    return pl.DataFrame(
        texts | {"members": members} | amounts | capacity,
        schema=dict.fromkeys(texts, pl.String)
        | {"members": pl.Int64}
        | dict.fromkeys([*amounts, *capacity], pl.Float64),
    )


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:.3g}" for name, amount in amounts.items())

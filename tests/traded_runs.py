"""Ledgers of economies that never were, of any size, for the tests of their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from synthetic import components

from circuit_econ.ledger import Ledger, LedgerWriter, open_ledger
from circuit_econ.tables import SCHEMA_VERSION, TABLES, component_key, make_table

STEPS = (0, 10, 100, 1000)
INCOME = ("income", "income_stages", "income_gap", "flows")
EDGES = ("direct", "edges", "edge_sampling")
CIRCUITS = (
    "counted", "counting", "circuits", "circuit_values", "circuit_agreement", "circuit_events",
)  # fmt: skip
NO_EFFECT = (None, None, None, "flow")
ALL = ("value", *INCOME, *EDGES, *CIRCUITS)
# Circuit, role, component at each step; c1 of step 100 comes out of c0.
MEMBERS: Mapping[int, Sequence[tuple[str, str, str]]] = {
    10: [("c0", "r0", "a0.h0"), ("c0", "r1", "a1.h0"), ("c0", "r1", "a1.h1")],
    100: [
        ("c0", "r0", "a0.h0"), ("c0", "r1", "a1.h0"),
        ("c1", "r0", "a0.h1"), ("c1", "r1", "a1.h1"),
    ],
    1000: [("c0", "r0", "a0.h0"), ("c0", "r1", "a1.h0")],
}  # fmt: skip
EVENTS = [
    (10, "birth", "c0", None, None, "mean", 0.125, 0.01, None, None, None),
    (100, "split", "c0", "c0", 1.0, "mean", 0.38, 0.01, 0.125, 0.01, None),
    (100, "split", "c1", "c0", 0.5, "mean", 1.15, 0.01, 0.125, 0.01, None),
    (1000, "continuation", "c0", "c0", 1.0, "mean", 0.49, 0.01, 0.38, 0.01, None),
    (1000, "death", None, "c1", None, "mean", None, None, 1.15, 0.01, None),
]
Edge = tuple[str, str, str]


def edges_of(layers: int, heads: int, mlp: bool) -> list[Edge]:
    """Everybody who is read, by whom, through which port."""
    names = components(layers, heads, mlp)
    found = []
    for supplier in names:
        at = component_key(supplier)[:2]
        for buyer in names:
            if component_key(buyer)[:2] > at:
                ports = "qkv" if buyer.startswith("a") else ("in",)
                found += [(supplier, buyer, port) for port in ports]
        found.append((supplier, "logits", "in"))
    return found


def flows_of(edges: Sequence[Edge], step: int, baseline: str) -> list[tuple[float, float]]:
    """Signal and crowding of each edge: few are large, a fifth are losses, all grow."""
    random = np.random.default_rng(len(edges))
    size = random.lognormal(-6.0, 1.8, len(edges)) * random.choice([1, 1, 1, 1, -1], len(edges))
    grown = step / (step + 30) * (1.5 if baseline == "zero" else 1.0)
    return [(float(x), float(-0.2 * x)) for x in size * grown]


def trading_run(
    path: Path,
    *,
    layers: int = 2,
    heads: int = 3,
    mlp: bool = True,
    steps: Sequence[int] = STEPS,
    baselines: Sequence[str] = ("mean", "zero"),
    tables: Sequence[str] = ALL,
    flagged: Mapping[str, Sequence[int]] | None = None,
    cancelled: Sequence[int] = (),
    unigram_se: float | None = 0.1,
    unsettled: Sequence[int] = (),
) -> Ledger:
    """Write and open a ledger.

    Economies of ``flagged`` baselines are worse than unigrams at those steps; at ``cancelled``
    steps all flows add up to nothing, at ``unsettled`` ones no integral has converged. The loss of
    unigrams is 6 ± ``unigram_se``. Circuits are those of :data:`MEMBERS`.
    """
    content = {
        "study": "traded",
        "schema_version": SCHEMA_VERSION,
        "configuration": {"baselines": list(baselines)},
    }
    every = edges_of(layers, heads, mlp)
    names = components(layers, heads, mlp)
    with LedgerWriter.open(path, content) as writer:
        for step in steps:
            found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in ALL}
            for baseline in baselines:
                amounts = flows_of(every, step, baseline)
                if step in cancelled:
                    amounts = [(-1.0 if i % 2 else 1.0, 0.0) for i in range(len(every))]
                    amounts[-1] = (0.0 if len(every) % 2 else amounts[-1][0], 0.0)
                worse = step in (flagged or {}).get(baseline, ())
                losses = (6.5 if worse else 5.0, 6.0, unigram_se)
                settled = step not in unsettled
                _trade(found, every, names, amounts, baseline, layers, losses, settled=settled)
            _circuits(found, every, flows_of(every, step, baselines[0]), step, baselines)
            checkpoint = {
                "step": step, "tokens_seen": 512 * step, "digest": f"{step:016x}", "seconds": 2.0,
                "waited": 0.1, "device": "cpu", "dtype": "float32", "status": "measured",
                "reason": "", "loss": 1.0 + 4.0 / (1 + step / 30), "loss_se": 0.02,
            }  # fmt: skip
            writer.write("checkpoints", make_table("checkpoints", checkpoint), step)
            for table in tables:
                writer.write(table, _table(table, step, found[table]), step)
    return open_ledger(path)


def _table(name: str, step: int, rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    names = [column for column in TABLES[name] if column != "step"]
    columns = {column: [row[at] for row in rows] for at, column in enumerate(names)}
    return make_table(name, {"step": [step] * len(rows), **columns})


def _trade(
    found: dict[str, list[tuple[Any, ...]]],
    every: Sequence[Edge],
    names: Sequence[str],
    amounts: Sequence[tuple[float, float]],
    baseline: str,
    layers: int,
    losses: tuple[float, float, float | None],
    *,
    settled: bool,
) -> None:
    income = dict.fromkeys(names, 0.0)
    final = dict.fromkeys(names, 0.0)
    for (supplier, buyer, port), (signal, crowding) in zip(every, amounts, strict=True):
        income[supplier] += signal + crowding
        if buyer == "logits":
            final[supplier] += signal + crowding
        half = (signal + crowding) / 2
        found["flows"].append(
            (supplier, buyer, port, baseline, signal, crowding, 0.001, 0.0005, half, half)
        )
    for name in names:
        earned, sold = income[name], final[name]
        found["income"].append((name, baseline, earned, 0.002, 0.0007))
        rest = earned - sold
        parts = [sold, 0.75 * rest, *[0.25 * rest / (2 * layers - 1)] * (2 * layers - 1)]
        found["income_stages"] += [(name, baseline, n + 1, x) for n, x in enumerate(parts)]
        found["value"].append(
            (
                name,
                baseline,
                1.2 * earned,
                0.003,
                64,
                0.0,
                0.001,
                64,
                None,
                None,
                "fixed",
                64.0,
                None,
            )
        )
        found["direct"].append((name, baseline, sold, rest, 0.2 * earned, 0.003, 0.004, 0.005))
    product = sum(income.values())
    found["income_gap"].append((baseline, 17, product, 0.0012, 0.0034, 0.0056, settled, *losses))
    order = sorted(range(len(every)), key=lambda i: -abs(sum(amounts[i])))
    chosen = [(i, "flow") for i in order[:10]] + [(i, "drawn") for i in order[10::7][:10]]
    effects = [(*every[i], baseline, 1.1 * sum(amounts[i]), 0.002, *[sum(amounts[i])] * 3, why)
               for i, why in chosen]  # fmt: skip
    found["edges"] += effects
    found["edge_sampling"].append(
        (baseline, len(every), 10, len(effects) - 10, 0.9, 0.7, sum(row[4] for row in effects),
         0.05, 0.02, 0.3)
    )  # fmt: skip


def _circuits(
    found: dict[str, list[tuple[Any, ...]]],
    every: Sequence[Edge],
    amounts: Sequence[tuple[float, float]],
    step: int,
    baselines: Sequence[str],
) -> None:
    members = MEMBERS.get(step, [])
    belongs = {component: circuit for circuit, _, component in members}
    for edge, amount in zip(every, amounts, strict=True):
        supplier, buyer, port = edge
        if port == "k" and supplier in belongs and belongs.get(buyer) == belongs[supplier]:
            found["counted"].append(
                (*edge, sum(amount), 0.001, 0.0005, 0.0005, *NO_EFFECT, belongs[supplier])
            )
        elif port == "in" and supplier in belongs:
            found["counted"].append((*edge, sum(amount), 0.001, 0.0005, 0.0005, *NO_EFFECT, None))
    found["circuits"] = [(*member, 0.8) for member in members]
    circuits = sorted(set(belongs.values()))
    grown = step / (step + 30)
    found["circuit_values"] = [
        (circuit, baseline, (0.5 + n) * grown, 0.01, 0.3 * grown, (0.2 + n) * grown, 0.012)
        for n, circuit in enumerate(circuits)
        for baseline in baselines
    ]
    half = 1 if circuits else 0
    found["circuit_agreement"] = [(len(circuits), half, half, 2 * half, 0.75 if half else None)]
    found["counting"] = [
        ("mean", 64, len(found["counted"]), 0, *every[0], 0.01, 0.002, 0.0003, 0.0005, 2000, None)
    ]
    found["circuit_events"] = [event[1:] for event in EVENTS if event[0] == step]

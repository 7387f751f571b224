"""Ledgers of small economies that are written down, for the tests of the composition graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from circuit_econ.ledger import Ledger, LedgerWriter, open_ledger
from circuit_econ.tables import SCHEMA_VERSION, TABLES, make_table

NAME = "Ökonomie → 経済"
STEPS = (10, 100)
COMPONENTS = [
    ("embed", "embed", None, None),
    ("a0.h0", "head", 0, 0),
    ("a0.h1", "head", 0, 1),
    ("m0", "mlp", 0, None),
    ("a1.h0", "head", 1, 0),
    ("logits", "logits", None, None),
]
Row = tuple[str, str, str, float, float]
# Supplier, buyer, port, signal, crowding; nothing here rounds.
ROWS: list[Row] = [
    ("a0.h0", "a1.h0", "k", 1.0, -0.25),
    ("a0.h0", "a1.h0", "v", 0.0, -0.125),
    ("a0.h0", "logits", "in", 0.25, 0.0),
    ("a1.h0", "logits", "in", 1.0, 0.0),
]
ALL = (
    "flows", "edges", "composition", "value", "income", "income_stages", "income_gap", "capacity",
    "direct", "counted", "circuits",
)  # fmt: skip


def flows(
    rows: Sequence[Row], step: int = 10, baseline: str = "mean", scale: float = 1.0
) -> pl.DataFrame:
    amounts = ((ends, signal * scale, crowding * scale) for *ends, signal, crowding in rows)
    return _table(
        "flows",
        step,
        [(*ends, baseline, s, c, 0.01, 0.125, s + c, s + c) for ends, s, c in amounts],
    )


def _table(name: str, step: int, rows: Sequence[Sequence[object]]) -> pl.DataFrame:
    names = [column for column in TABLES[name] if column != "step"]
    columns = {column: [row[at] for row in rows] for at, column in enumerate(names)}
    return make_table(name, {"step": [step] * len(rows), **columns})


def trading(
    path: Path,
    rows: Sequence[Row] = ROWS,
    tables: Sequence[str] = ALL,
    baselines: Sequence[str] = ("mean",),
    steps: Sequence[int] = STEPS,
    name: str = NAME,
) -> Ledger:
    """Flows are twice as large under the second baseline by name, and grow with the step."""
    content = {
        "study": name,
        "schema_version": SCHEMA_VERSION,
        "configuration": {"baselines": list(baselines)},
    }
    with LedgerWriter.open(path, content) as writer:
        columns = dict(
            zip(TABLES["components"], map(list, zip(*COMPONENTS, strict=True)), strict=True)
        )
        writer.write("components", make_table("components", columns), None)
        for step in steps:
            head = ("measured", "", 3.0, 0.02, "ab", 1.0, 0.0, "cpu", "float32")
            names = [c for c in TABLES["checkpoints"] if c not in ("step", "tokens_seen")]
            row = {"step": step, "tokens_seen": 512 * step, **dict(zip(names, head, strict=True))}
            writer.write("checkpoints", make_table("checkpoints", row), step)
            found = {
                "edges": [
                    ("a0.h0", "a1.h0", "k", b, 0.6, 0.02, 0.5, 0.7, 0.75, "flow") for b in baselines
                ],
                "composition": [("a0.h0", "a1.h0", "k", 0.4), ("embed", "a0.h0", "q", 0.1)],
                "value": [
                    (name, b, value, se, 8, None, None, 8, None, None, "fixed", 8.0, None)
                    for name, b, value, se in (
                        ("a0.h0", "mean", 2.0, 0.5),
                        ("a0.h0", "zero", 3.0, None),
                        ("a0.h0+a0.h1", "mean", 9.0, None),
                    )
                ],
                "income": [("a0.h0", b, 0.75, 0.03, 0.0625) for b in baselines],
                "income_stages": [
                    row
                    for b in baselines
                    for row in [
                        ("a0.h0", b, 1, 0.25), ("m0", b, 1, 0.0),
                        ("a0.h0", b, 2, 0.5), ("m0", b, 2, 0.0),
                    ]
                ],
                "income_gap": [
                    (b, 9, 2.0, 0.001, 0.002, 0.003, True, 5.0, 6.0, 0.1) for b in baselines
                ],
                "capacity": [
                    ("a0.h0", "stream_share", "final", 0.3),
                    ("a0.h0", "stream_share", "block.1", 0.5),
                    ("a0.h0", "parameters", "weights", 64.0),
                    ("a0.b_O", "parameters", "weights", 8.0),
                ],
                "direct": [("a0.h0", b, 0.2, 0.5, 0.1, 0.01, 0.02, 0.03) for b in baselines],
                "counted": [
                    ("a0.h0", "a1.h0", "k", 0.75, 0.01, 0.125, 0.125, 0.6, 0.02, 0.1, "both", "c1"),
                    ("a1.h0", "logits", "in", 1.0, 0.01, 0.125, 0.125, *[None] * 3, "flow", None),
                ],
                "circuits": [("c1", "r1", "a0.h0", 0.5), ("c1", "r2", "a1.h0", 1.0)],
            }  # fmt: skip
            for table in tables:
                if table == "flows":
                    scales = {b: (1 + (b == "zero")) * step / steps[0] for b in baselines}
                    parts = [flows(rows, step, b, scale) for b, scale in scales.items()]
                    writer.write("flows", pl.concat(parts), step)
                else:
                    writer.write(table, _table(table, step, found[table]), step)
    return open_ledger(path)

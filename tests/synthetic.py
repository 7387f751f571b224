"""Ledgers of runs that never happened, small and exactly known, for the tests of the report."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuit_econ.ledger import Ledger, LedgerWriter, open_ledger
from circuit_econ.tables import SCHEMA_VERSION, component_key, head_name, make_table, mlp_name

STEPS = (0, 1, 10, 100, 1000)


def components(layers: int, heads: int, mlp: bool = True) -> list[str]:
    return [
        name
        for layer in range(layers)
        for name in [head_name(layer, h) for h in range(heads)] + [mlp_name(layer)] * mlp
    ]


def value_of(component: str, step: int, baseline: str) -> float:
    """MLPs earn most, later heads more; every component grows with the step; zero is harsher."""
    layer, is_mlp, head, _ = component_key(component)
    size = (1.0 + layer if is_mlp else 0.01 * (1 + head + 5 * layer)) * step / (step + 30)
    return size * (1.5 if baseline == "zero" else 1.0)


def capacity_of(component: str, currency: str, step: int) -> float:
    layer, is_mlp, head, _ = component_key(component)
    if currency == "parameters":
        return 4096.0 if is_mlp else 1024.0
    if currency == "stream_share":
        return 0.05 * (head - 1) + 0.01 * layer
    return 10.0 + head + step / 100


def ledger(
    path: Path,
    *,
    layers: int = 2,
    heads: int = 3,
    steps: Sequence[int] = STEPS,
    baselines: Sequence[str] = ("mean", "zero", "resample"),
    tables: Sequence[str] = ("value", "capacity", "attention"),
    failed: Mapping[int, str] | None = None,
    audit: Mapping[int, str] | None = None,
    se: float | None = 0.001,
    overrides: Mapping[tuple[str, str], float] | None = None,
    extra: Mapping[tuple[str, str], float] | None = None,
    outcomes: Mapping[tuple[str, str], str] | None = None,
    run: Mapping[str, Any] | None = None,
    mlp: bool = True,
    others: bool = True,
) -> Ledger:
    """Write and open a ledger.

    ``failed`` and ``audit`` map steps to reasons and details; ``overrides`` maps (component,
    baseline) to a value that holds at every step; ``extra`` does so for sets of components.
    ``outcomes`` maps (component, baseline) to an outcome; the others are as asked for.
    """
    outcomes = outcomes or {}
    failed, audit, overrides, extra = failed or {}, audit or {}, overrides or {}, extra or {}
    names = components(layers, heads, mlp)
    content = {
        "study": "synthetic",
        "schema_version": SCHEMA_VERSION,
        "configuration": {"baselines": list(baselines), "seed": 0, "measures": {"value": {"n": 8}}},
        "versions": {"python": "3.11"},
        "digests": {"evaluation": "ab" * 32},
        "notes": [],
        **(run or {}),
    }
    with LedgerWriter.open(path, content) as writer:
        for step in steps:
            checkpoint = {
                "step": step, "tokens_seen": 512 * step, "digest": f"{step:016x}",
                "seconds": 2.0, "waited": 0.1, "device": "cpu", "dtype": "float32",
            }  # fmt: skip
            if step in failed:
                row = {"status": "failed", "reason": failed[step], "loss": None, "loss_se": None}
                writer.write("checkpoints", make_table("checkpoints", checkpoint | row), step)
                continue
            loss = 1.0 + 4.0 / (1 + step / 30)
            row = {"status": "measured", "reason": "", "loss": loss, "loss_se": se and 0.02}
            writer.write("checkpoints", make_table("checkpoints", checkpoint | row), step)
            if step in audit:
                row = {"step": step, "finding": "identical", "tensor": "", "detail": audit[step]}
                writer.write("audit", make_table("audit", row), step)
            if "value" in tables:
                keys = [(c, b) for c in names for b in baselines] + list(extra)
                known = {**overrides, **extra}
                values = [known[k] if k in known else value_of(k[0], step, k[1]) for k in keys]
                columns = {
                    "step": [step] * len(keys), "component": [c for c, _ in keys],
                    "baseline": [b for _, b in keys], "value": values,
                    "se": [se] * len(keys), "sequences": [1 if se is None else 64] * len(keys),
                    "placebo": [v / 4 for v in values], "placebo_se": [se] * len(keys),
                    "affected": [64] * len(keys),
                    "outcome": [outcomes.get(k, "few" if se is None else "fixed") for k in keys],
                    "effective": [1.0 if se is None else 64.0] * len(keys),
                    "needed": [
                        900 if outcomes.get(k) == "heavy tail" else None for k in keys
                    ],
                    "low": [None if se is None else v - 2 * se for v in values],
                    "high": [None if se is None else v + 2 * se for v in values],
                }  # fmt: skip
                writer.write("value", make_table("value", columns), step)
            if "capacity" in tables:
                writer.write("capacity", _capacity(names, step, layers, others), step)
            if "attention" in tables:
                keys = [
                    (c, q)
                    for c in names
                    for q in ("prefix_matching", "previous_token")
                    if c.startswith("a")
                ]
                columns = {
                    "step": [step] * len(keys), "component": [c for c, _ in keys],
                    "quantity": [q for _, q in keys],
                    "amount": [step / (step + 30) / (1 + component_key(c)[2]) for c, _ in keys],
                }  # fmt: skip
                writer.write("attention", make_table("attention", columns), step)
    return open_ledger(path)


def _capacity(names: Sequence[str], step: int, layers: int, others: bool) -> Any:
    rows = []
    for name in names:
        rows.append((name, "parameters", "weights", capacity_of(name, "parameters", step)))
        rows.append((name, "squared_norm", "weights", capacity_of(name, "squared_norm", step)))
        rows += [(name, "stream_share", f"block.{layer}", 0.5) for layer in range(1, layers)]
        rows.append((name, "stream_share", "final", capacity_of(name, "stream_share", step)))
    if others:
        rows += [
            ("a0.b_O", "parameters", "weights", 64.0),
            ("ln_final", "parameters", "weights", 128.0),
        ]
        rows += [
            ("unembed", "parameters", "weights", 8192.0),
            ("embed", "parameters", "weights", 4096.0),
        ]
    columns = list(zip(*rows, strict=True))
    return make_table(
        "capacity",
        {
            "step": [step] * len(rows),
            **dict(
                zip(("component", "currency", "place", "amount"), map(list, columns), strict=True)
            ),
        },
    )


def unpacked(column: dict[str, Any]) -> list[Any]:
    """What page.js does, in Python."""
    kind = {"text": "<u4", "integer": "<f8", "float": "<f4"}[column["type"]]
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(column["data"])), kind)
    if column["type"] == "text":
        return [column["words"][c] if c < len(column["words"]) else None for c in numbers]
    return [None if np.isnan(x) else float(x) for x in numbers]

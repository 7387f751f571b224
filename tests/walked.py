"""A small run that is walked once; tests take copies of its ledger, or walk anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from commands import CASE, STEPS

import circuit_econ as ce

SETTINGS: dict[str, Any] = {"value": ce.ValueSettings(placebo_draws=0)}


def save(folder: Path) -> Path:
    """Three checkpoints."""
    for step in STEPS:
        CASE.save(folder, step, seed=step)
    return folder


def data(seed: int = 0) -> ce.Evaluation:
    """Five sequences of twelve bytes."""
    generator = torch.Generator().manual_seed(seed)
    return ce.Evaluation(torch.randint(97, 123, (5, 12), generator=generator))


def walk(saved: Path, out: Path, **named: Any) -> ce.Ledger:
    """Measure values under one baseline."""
    run = ce.open_trajectory(saved, steps=named.pop("steps", None))
    options = {"measures": ["value"], "baselines": ["zero"], "device": "cpu", "settings": SETTINGS}
    return ce.walk(run, named.pop("evaluation", None) or data(), out=out, **{**options, **named})


def part(out: Path, table: str, step: int) -> Path:
    """Where a part lies."""
    return out / "ledger" / table / f"step={step:010d}" / "part-0.parquet"


def rows(ledger: ce.Ledger, table: str = "value") -> list[tuple[Any, ...]]:
    """All rows of a table, but for seconds."""
    return ledger.table(table).drop("seconds", "waited", strict=False).collect().rows()

"""One plan: what is free at the moment decides no number of any measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from commands import CASE

import circuit_econ as ce
from circuit_econ.measures import MEASURES
from circuit_econ.measures import plan as cutting
from circuit_econ.measures.circuits import CircuitSettings
from circuit_econ.measures.edges import EdgeSettings
from circuit_econ.measures.income import IncomeSettings

SETTINGS: dict[str, Any] = {
    "value": ce.ValueSettings(placebo_draws=1),
    "income": IncomeSettings(nodes=5, most_nodes=5, reference_groups=2),
    "edges": EdgeSettings(largest=3, drawn=2),
    "circuits": CircuitSettings(untrained=5),
}
TIGHT = 0.003
"""GB with which panels, chunks of flows and of logits are all smaller than they would be."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-plan") / "saved"
    CASE.save(folder, 0, seed=0)
    return folder


def data() -> ce.Evaluation:
    generator = torch.Generator().manual_seed(0)
    return ce.Evaluation(torch.randint(97, 123, (24, 16), generator=generator))


def walk(
    saved: Path, out: Path, measures: Sequence[str] = tuple(MEASURES), **named: Any
) -> ce.Ledger:
    return ce.walk(
        ce.open_trajectory(saved), data(), measures, ("mean", "zero"), out, "cpu",
        settings=SETTINGS, **named,
    )  # fmt: skip


def numbers(ledger: ce.Ledger) -> dict[str, pl.DataFrame]:
    """Every table, but for the clock's part."""
    tables = {
        name: ledger.table(name).drop("seconds", "waited", strict=False).collect()
        for name in ledger.tables
    }
    assert {table for one in MEASURES.values() for table in one.tables} <= set(tables)
    return {name: frame.sort(frame.columns) for name, frame in tables.items()}


def same(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> None:
    assert one.keys() == other.keys()
    for table, frame in one.items():
        assert frame.height or table in {"audit", "circuits", "circuit_values", "circuit_pairs",
                                         "circuit_events", "counted"}, table  # fmt: skip
        assert frame.equals(other[table]), table


@pytest.fixture(scope="module")
def tight(saved: Path) -> ce.Ledger:
    return walk(saved, saved.parent / "tight" / "run", memory=TIGHT)


def test_what_is_free_decides_nothing(
    saved: Path, tight: ce.Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "free_memory", lambda _: 64)
    # In another folder, so that untrained models are measured anew.
    same(numbers(tight), numbers(walk(saved, tmp_path / "run", memory=TIGHT)))


def test_a_run_that_goes_on_elsewhere_keeps_its_plan(
    saved: Path, tight: ce.Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "free_memory", lambda _: 2 * TIGHT * 1e9)
    # Without two that need little, so that the plan is that of all of them.
    most = [name for name in MEASURES if name not in {"attention", "composition"}]
    part = walk(saved, tmp_path / "run", most)
    monkeypatch.setattr(cutting, "free_memory", lambda _: 1 << 40)
    rest = walk(saved, tmp_path / "run")
    assert part.run["plan"] == rest.run["plan"]
    assert rest.run["plan"]["memory"] == TIGHT * 1e9
    assert part.run["plan"] == tight.run["plan"]
    same(numbers(tight), numbers(rest))


def test_untrained_models_that_were_cut_otherwise_are_not_taken_for_ours(
    saved: Path, tight: ce.Ledger, tmp_path: Path
) -> None:
    walk(saved, tmp_path / "other", ["circuits"], memory=1.0)
    trade = [name for name in MEASURES if name not in {"value", "attention", "capacity"}]
    found = walk(saved, tmp_path / "run", trade, memory=TIGHT)
    assert found.table("counted").collect().equals(tight.table("counted").collect())
    kept, ours = (
        {file.name for file in (folder / ".untrained").glob("*.json")}
        for folder in (tmp_path, saved.parent / "tight")
    )
    assert ours < kept

"""The end of a walk in the terminal, of ledgers that are known exactly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import synthetic
from rich.console import Console

from circuit_econ.report import summary


def printed(ledger: Any, width: int) -> list[str]:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(summary(ledger, width))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_summary_shows_the_largest_first(tmp_path: Path) -> None:
    lines = printed(synthetic.ledger(tmp_path / "run"), 100)
    assert lines[0] == "Largest values at step 1,000 (mean baseline, nats per position)"
    rows = [line.split() for line in lines if re.match(r"\s+(a\d\.h\d|m\d) ", line)]
    assert [row[0] for row in rows][:4] == ["m1", "m0", "a1.h2", "a1.h1"]
    assert " ".join(rows[0]) == ("m1 1.9417 ± 0.0010 0.4854 ± 0.0010 4,096 (4.7406 ± 0.0024)×10⁻⁴")
    assert lines[-1] == f"page: {tmp_path / 'run' / 'report.html'}"
    assert not any(line.startswith("!") for line in lines)


def test_summary_of_a_narrow_terminal_leaves_out_the_placebo(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run")
    assert any("placebo" in line for line in printed(ledger, 90))
    narrow = printed(ledger, 72)
    assert not any("placebo" in line for line in narrow)
    assert any("1.9417 ± 0.0010" in line for line in narrow)
    assert "".join(narrow).endswith(f"page:{tmp_path / 'run' / 'report.html'}")


def test_summary_warns_and_counts_the_rest(tmp_path: Path) -> None:
    failed = {step: f"[bold]broken[/bold] {step}" for step in (0, 1, 10, 100)}
    lines = printed(synthetic.ledger(tmp_path / "run", failed=failed), 100)
    start = lines.index("! 4 checkpoints could not be measured.")
    assert lines[start + 1 : start + 5] == [
        "  step 0: [bold]broken[/bold] 0",
        "  step 1: [bold]broken[/bold] 1",
        "  step 10: [bold]broken[/bold] 10",
        "  and 1 more",
    ]


def test_summary_without_values_or_capacity(tmp_path: Path) -> None:
    lines = printed(synthetic.ledger(tmp_path / "a", tables=["capacity"]), 100)
    assert lines[0] == "5 of 5 checkpoints were measured, but not for value."
    lines = printed(synthetic.ledger(tmp_path / "b", tables=["value"]), 100)
    assert any("1.9417 ± 0.0010" in line for line in lines)
    assert not any("return" in line for line in lines)

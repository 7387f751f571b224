"""A walk killed at any moment continues, and its ledger is the uninterrupted one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import zoo


def test_thirty_kills_leave_the_same_ledger(tmp_path: Path) -> None:
    case = zoo.case_named("tl-ln-gelu")
    for step in (0, 1, 2, 4):
        case.save(tmp_path / "run", step, seed=step)
    script = Path(__file__).with_name("kill_walks.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run"), str(tmp_path)],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) >= 30

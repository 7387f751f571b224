"""A few cases of every generator, and proof that the machinery sees what it is there to see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fuzz.catalogue import CASES

TESTS = Path(__file__).parent
SEED, EACH = 7, 8


def fuzz(*arguments: object, code: int = 0) -> list[str]:
    """What a run in a process of its own prints: workers are forked, which wants one thread."""
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", *map(str, arguments)], capture_output=True, text=True,
        timeout=500, env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()


def test_some_cases_of_every_generator() -> None:
    lines = fuzz("--cases", EACH * len(CASES), "--seed", SEED, "--workers", 1)
    head, *rows = lines[: len(CASES) + 2]
    assert head.split()[:4] == ["cases", "refused", "right", "unchecked"]
    assert [row.split()[-len(head.split())] for row in rows[:-1]] == [str(EACH)] * len(CASES)
    total = [int(n) for n in rows[-1].split()[1:]]
    # Most of what is hostile is refused, and much of the rest is compared with an oracle.
    assert total[1] > 30 and total[2] > 12 and sum(total[4:]) == 0


BAD = {
    "raises": "traceback", "hangs": "hang", "eats": "memory", "runs": "foreign",
    "writes": "foreign", "lies": "silent", "dies": "other", "mumbles": "unforeseen",
    "chatters": "other",
}  # fmt: skip


def test_what_goes_wrong_is_counted(tmp_path: Path) -> None:
    listed = tmp_path / "failures.json"
    lines = fuzz("--planted", "--cases", len(BAD), "--failures", listed, code=1)
    failures = json.loads(listed.read_text())
    assert {f["generator"]: f["verdict"] for f in failures} == BAD
    # A worker that was lost is replaced: every case had its turn.
    assert len(failures) == len(BAD)
    assert lines[0].split()[0] == "cases"
    assert {note for f in failures for note in f["notes"]} == {"about to"}

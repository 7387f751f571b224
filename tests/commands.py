"""What the tests of the command line share: a small saved run, a text, and a way to call it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from zoo_case import Case

from circuit_econ.cli import main
from circuit_econ.model import Format

CASE = Case(
    "bytes",
    Format.TRANSFORMER_LENS,
    {
        "n_layers": 1,
        "n_heads": 2,
        "d_model": 8,
        "d_head": 4,
        "d_mlp": 12,
        "act_fn": "gelu",
        "n_ctx": 16,
        "d_vocab": 256,
    },
    exact=True,
)
STEPS = (0, 1, 4)

# The files that `prepare` writes, and little of everything.
SAVED = ("trajectory=folder", "trajectory.path=saved")
TEXT = ("evaluation=file", "evaluation.path=text.txt", "evaluation.tokenizer=bytes")
SMALL = ("evaluation.length=12", "evaluation.sequences=5", "evaluation.reference_sequences=3")
CHEAP = ("measure=[value]", "measures.value.placebo_draws=0", "device=cpu")
WALK = (*SAVED, *TEXT, *SMALL, *CHEAP)


def prepare(folder: Path) -> None:
    """Write a run of three checkpoints and a text."""
    for step in STEPS:
        CASE.save(folder / "saved", step, seed=step)
    lines = (f"Sentence {i} has {i * i % 97} words, and none of them.\n\n" for i in range(200))
    (folder / "text.txt").write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The one line of a refusal."""
        assert self.out == "", self.out
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("circuit-econ: "), self.err
        return lines[0].removeprefix("circuit-econ: ")


@dataclass(frozen=True, slots=True)
class Terminal:
    """Calls the command line in this process, in a folder of its own."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Answer:
        """The answer to a command."""
        code = main(arguments)
        printed = self.capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return Answer(code, printed.out, printed.err)


@contextmanager
def terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    """A terminal in a folder that holds a run and a text; logging is put back afterwards."""
    prepare(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "160")
    own = logging.getLogger("circuit_econ")
    before = own.handlers[:], own.level, own.propagate
    try:
        yield Terminal(folder, capsys)
    finally:
        own.handlers[:], own.level, own.propagate = before


def contents(folder: Path) -> dict[str, int]:
    """Every file and when it was written."""
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()
    }


def shown(answer: Answer) -> str:
    """What was printed, in one line of single spaces."""
    return re.sub(r"[\s│]+", " ", answer.out)

"""Kills walks at random moments and compares what they leave; run by test_kills.py.

A process of its own: walks are forked from here, warm, with one thread, so that a kill comes at any
moment of the walk and not in its imports. Everything that reads tables is forked too: a thread pool
that this process had started would not survive in its children.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch

import circuit_econ as ce
from circuit_econ.model import Model
from circuit_econ.pipeline import walk as walk_checkpoints
from circuit_econ.tables import TABLES

KILLS = 30


def walk(run: Path, out: Path) -> None:
    """A small walk of every measure; the same each time."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(13, (16, 12), generator=generator)
    evaluation = ce.Evaluation(tokens[:10], reference=tokens[10:])
    walk_checkpoints(
        ce.open_trajectory(run), evaluation, ["value", "attention", "capacity"],
        ["mean", "resample"], out, "cpu",
    )  # fmt: skip


def start(work: Callable[[], None]) -> int:
    """Fork some work; returns its process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(work: Callable[[], None], what: str) -> None:
    """Fork some work and wait for it to succeed."""
    _, status = os.waitpid(start(work), 0)
    assert status == 0, f"{what} failed"


def contents(out: Path) -> dict[str, list[tuple]]:
    """Every table but what may differ: the seconds."""
    ledger = ce.open_ledger(out)
    return {
        name: ledger.table(name).collect().drop("seconds", "waited", strict=False).rows()
        for name in TABLES
    }


def compare(whole: Path, killed: Path) -> None:
    """The continued ledger is the uninterrupted one."""
    expected = contents(whole)
    assert all(expected[name] for name in ("value", "attention", "capacity", "checkpoints"))
    assert contents(killed) == expected, "a continued ledger differs"
    assert not list((killed / ".partial").iterdir())


def readable(out: Path) -> None:
    """Whatever is in place is whole."""
    for part in (out / "ledger").glob("**/*.parquet"):
        pl.read_parquet(part)


def main(run: Path, work: Path) -> None:
    """Kill thirty times; compare each finished ledger with the uninterrupted one."""
    torch.set_num_threads(1)
    Model.initialise({"d_model": 4, "d_head": 2, "n_layers": 1, "n_ctx": 4, "d_vocab": 3})
    began = time.perf_counter()
    finish(lambda: walk(run, work / "whole"), "the uninterrupted walk")
    duration = time.perf_counter() - began
    moments, kills, finished, out = random.Random(0), 0, 0, work / "killed"
    while kills < KILLS or finished < 3:
        child = start(lambda: walk(run, out))
        # Up to the length of a whole walk: late kills fall on the last checkpoints or just miss.
        time.sleep(moments.uniform(0, 0.6) * duration)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            assert os.WEXITSTATUS(status) == 0, "a continued walk failed"
        if not os.WIFSIGNALED(status) or kills % 10 == 0:
            finish(lambda: readable(out), "reading what a kill left")
            finish(lambda: walk(run, out), "the last walk")
            finish(lambda: compare(work / "whole", out), "the comparison")
            shutil.rmtree(out)
            finished += 1
    print(f"{kills} kills, {finished} ledgers equal, {duration:.1f} s for a whole walk")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

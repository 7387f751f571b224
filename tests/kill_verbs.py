"""Kills and ends every verb at random moments, and compares what the same command then makes.

``make kills`` runs it whole; :mod:`kill_walks`, on which it stands, is part of ``make test``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from commands import SAVED, SMALL, TEXT, prepare
from kill_walks import finish, start

import circuit_econ as ce
from circuit_econ.cli import main as command
from circuit_econ.model import Model
from circuit_econ.tables import TABLES

# Imported once, so that signals come while verbs work.
for _name in ("graph", "hydra_runs", "planning", "report", "training", "report.page"):
    import_module(f"circuit_econ.{_name}")
for _name in ("altair", "networkx", "scipy.stats", "scipy.sparse", "rich.table", "rich.progress"):
    import_module(_name)
for _name in ("config", "model_bridge", "model_bridge.sources.native", "model_bridge.bridge"):
    import_module(f"transformer_lens.{_name}")

MESSAGE = "circuit-econ: interrupted; what was measured is kept, and the same command goes on"
TOO_SOON, FAILED = 77, 78

WALK = (*SAVED, *TEXT, *SMALL, "measures.value.placebo_draws=0", "device=cpu")
EVERY = "measure=[value,attention,capacity,composition,income,edges,circuits]"
TRAINED = (
    "trajectory=trained", "trajectory.training.n_layers=1", "trajectory.training.n_heads=2",
    "trajectory.training.d_model=16", "trajectory.training.steps=24",
    "trajectory.training.batch=4", "trajectory.training.warmup=3",
    "trajectory.training.checkpoints=6", "trajectory.cache=trained", "evaluation=embedded",
    "evaluation.length=16", "evaluation.sequences=4", "evaluation.reference_sequences=2",
    "measure=[value]", "device=cpu",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verb:
    """A command that is killed, and the one that makes what it needs."""

    name: str
    arguments: tuple[str, ...]
    before: tuple[str, ...] = ()


VERBS = (
    Verb("walk", ("walk", *WALK, EVERY, "out=out")),
    Verb("training", ("walk", *TRAINED, "out=out")),
    Verb("multirun", ("walk", "-m", *WALK, "measure=[value]", "seed=0,1,2", "out=out")),
    Verb(
        "remeasure",
        ("walk", *WALK, "measure=[value,income]", "out=out", "--remeasure", "1"),
        ("walk", *WALK, "measure=[value,income]", "out=out"),
    ),
    Verb(
        "report",
        ("report", "out", "--output", "page.html"),
        ("walk", *WALK, "measure=[value,income]", "out=out"),
    ),
    Verb(
        "export",
        ("export", "out", "--step", "all", "--output", "graph.gexf"),
        ("walk", *WALK, "measure=[income]", "out=out"),
    ),
    Verb(
        "audit", ("audit", "out"), ("walk", *WALK, "measure=[value]", "out=out"),
    ),
)  # fmt: skip


def run(place: Path, arguments: tuple[str, ...], said: Path | None = None) -> None:
    """A command in a folder; leaves the process with its exit code."""

    def too_soon(_number: int, _frame: object) -> None:
        os._exit(TOO_SOON)  # before the verb began or after it was done: of no interest

    signal.signal(signal.SIGTERM, too_soon)
    os.chdir(place)
    with (said or Path(os.devnull)).open("w") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                code = command(arguments)
            except BaseException as error:
                print(f"raised {error!r}", file=file)
                code = FAILED
        file.flush()
        os._exit(code)


def prepared(place: Path, verb: Verb) -> None:
    """A folder in which a verb can do its work."""
    place.mkdir()
    finish(partial(prepare, place), "preparing")
    if verb.before:
        finish(lambda: run(place, verb.before), f"what {verb.name} needs")


def left(place: Path) -> dict[str, Any]:
    """All that a verb made, but for what may differ: seconds, and the moment on a page."""
    found: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.name == "run.yaml":
            ledger = ce.open_ledger(path.parent)
            for table in TABLES:
                frame = ledger.table(table).collect().drop("seconds", "waited", strict=False)
                found[f"{name} {table}"] = frame.rows()
            assert not list((path.parent / ".partial").iterdir()), "something half-written is left"
        elif path.suffix == ".html":
            found[name] = whole(path)
        elif path.suffix in (".safetensors", ".gexf", ".json"):
            found[name] = path.read_bytes()
    return found


def whole(path: Path) -> bool:
    """Whether a page is all there."""
    text = path.read_text()
    assert len(text) > 100_000 and text.rstrip().endswith("</html>"), f"{path} is torn"
    return True


def sound(place: Path) -> None:
    """What a kill left is whole, or not there."""
    for path in place.rglob("*"):
        if ".partial" in path.parts or not path.is_file():
            continue
        if path.suffix == ".html":
            whole(path)
        elif path.suffix == ".gexf":
            assert path.read_text().rstrip().endswith("</gexf>"), f"{path} is torn"
        elif path.name == "run.yaml":
            ledger = ce.open_ledger(path.parent)
            for table in ledger.tables:
                ledger.table(table).collect()
        elif path.name == "training.json":
            json.loads(path.read_text())


def compare(expected: Path, place: Path) -> None:
    """What was continued is what was never broken off."""
    one, other = left(expected), left(place)
    assert one, "nothing to compare"
    assert set(one) == set(other), set(one) ^ set(other)
    for name, value in one.items():
        assert other[name] == value, f"{name} differs"


@dataclass
class Trial:
    """One verb, killed again and again."""

    verb: Verb
    root: Path
    rng: random.Random
    duration: float = 0.0
    signals: int = 0

    def __post_init__(self) -> None:
        self.good = self.root / f"{self.verb.name}-fresh"
        self.expected = self.root / f"{self.verb.name}-whole"
        # Always in one place: a run of the same name elsewhere is another run.
        self.place = self.root / self.verb.name
        prepared(self.place, self.verb)
        shutil.copytree(self.place, self.good)
        began = time.perf_counter()
        finish(lambda: run(self.place, self.verb.arguments), f"{self.verb.name}, whole")
        self.duration = time.perf_counter() - began
        self.place.rename(self.expected)

    def hit(self, number: signal.Signals) -> str:
        """Start the verb, send a signal, look at what is left; says what came of it."""
        if not self.place.exists():
            shutil.copytree(self.good, self.place)
        said = self.root / "said"
        child = start(lambda: run(self.place, self.verb.arguments, said))
        time.sleep(self.rng.uniform(0, 0.9) * self.duration)
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
        ended = os.WIFSIGNALED(status)
        code = None if ended else os.WEXITSTATUS(status)
        text = said.read_text() if said.exists() else ""
        if number == signal.SIGTERM and code == 1:
            assert MESSAGE in text and "Traceback" not in text, f"{self.verb.name}: {text[-800:]}"
        else:
            assert not ended or number == signal.SIGKILL, f"{self.verb.name}: {status}"
            assert ended or code in (0, TOO_SOON), f"{self.verb.name}: code {code}: {text[-800:]}"
        hit = ended or code == 1
        self.signals += hit
        finish(partial(sound, self.place), f"looking at what {self.verb.name} left")
        if not hit or self.rng.random() < 0.12:
            self.settle()
        return "hit" if hit else "missed"

    def settle(self) -> None:
        """The same command goes on, and leaves what it would have left."""
        if self.place.exists():
            finish(lambda: run(self.place, self.verb.arguments), f"{self.verb.name}, again")
            finish(partial(compare, self.expected, self.place), f"comparing {self.verb.name}")
            shutil.rmtree(self.place)


def main() -> None:
    """So many kills, so many SIGTERMs, over every verb by turns; any failure ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--terminations", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    Model.initialise({"d_model": 4, "d_head": 2, "n_layers": 1, "n_ctx": 4, "d_vocab": 3})
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as root:
        trials = [Trial(verb, Path(root), random.Random(given.seed)) for verb in VERBS]
        for number, wanted in (
            (signal.SIGTERM, given.terminations), (signal.SIGKILL, given.kills),
        ):  # fmt: skip
            turn = 0
            while sum(counts[v.name, number.name] for v in VERBS) < wanted:
                trial = trials[turn % len(trials)]
                turn += 1
                assert turn < 20 * wanted + 100, "signals miss"
                counts[trial.verb.name, number.name] += trial.hit(number) == "hit"
                if turn % (4 * len(trials)) == 0:
                    print(_table(counts), flush=True)
            for trial in trials:
                trial.settle()
    print(_table(counts))
    print("no failure")


def _table(counts: Counter[tuple[str, str]]) -> str:
    rows = [f"{'':10}{'SIGKILL':>9}{'SIGTERM':>9}"]
    for verb in VERBS:
        figures = [counts[verb.name, name] for name in ("SIGKILL", "SIGTERM")]
        rows.append(f"{verb.name:10}{figures[0]:>9}{figures[1]:>9}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())

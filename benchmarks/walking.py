"""How much of a walk is waiting for weights, and how well `plan` foretells its time.

A folder of checkpoints of one published shape (random weights) is walked with few components, so
that loading has little to hide behind. Run by `make bench`, which appends to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from shapes import SHAPES

import circuit_econ as ce
from circuit_econ.composing import Request, compose
from circuit_econ.planning import predict
from circuit_econ.runs import run as walk

RESULTS = Path(__file__).with_name("RESULTS.md")


class Heard(logging.Handler):
    """Keeps the last line."""

    line = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.line = self.format(record)


def folder_of(name: str, checkpoints: int, where: Path) -> Path:
    """Checkpoints that differ in one tensor."""
    shape = next(s for s in SHAPES if s.name == name)
    source = shape.source()
    for step in range(checkpoints):
        target = where / f"step{step}"
        target.mkdir(parents=True)
        (target / "config.json").write_text(json.dumps(source.config))
        tensors = {k: t.clone().contiguous() for k, t in source.tensors.items()}
        first = next(k for k, t in tensors.items() if t.is_floating_point())
        tensors[first] += 1e-3 * step
        save_file(tensors, target / "model.safetensors")
    return where


def main() -> None:
    """Plan, walk, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="pythia-160m")
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--components", default="a0.h0,m0,a4.h3,m6,a8.h1,m9,a11.h5,m11")
    given = parser.parse_args()
    from circuit_econ.progress import Lines

    heard = Heard()
    logger = logging.getLogger("circuit_econ.walk")
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder_of(given.shape, given.checkpoints, Path(scratch) / "run")
        overrides = (
            "study=own", "trajectory=folder", f"trajectory.path={folder}", "measure=[value]",
            "evaluation.length=128", "evaluation.sequences=8", "evaluation.reference_sequences=8",
            f"measures.value.components=[{given.components}]", "measures.value.placebo_draws=0",
            f"out={scratch}/out",
        )  # fmt: skip
        (config,) = compose(Request(overrides))
        torch.manual_seed(0)
        foretold = predict(config).seconds
        began = time.perf_counter()
        ledger = walk(config, Lines())
        seconds = time.perf_counter() - began
        checkpoints = ledger.table("checkpoints").collect()
        rows: list[Any] = checkpoints["waited"].to_list()
        text = (
            "\n## A walk\n\n"
            f"{given.checkpoints} checkpoints of {given.shape}, {len(given.components.split(','))} "
            f"components, 8 × 128 tokens: {heard.line}. Of the waiting, {rows[0]:.1f} s were for "
            f"the first checkpoint. `plan` said {foretold:.0f} s; it took {seconds:.0f} s "
            f"({foretold / seconds:.2f} of it).\n"
        )
        shutil.rmtree(folder)
    print(text)
    with RESULTS.open("a", encoding="utf-8") as results:
        results.write(text)
    assert isinstance(ledger, ce.Ledger)


if __name__ == "__main__":
    main()

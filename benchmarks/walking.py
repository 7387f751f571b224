"""How much of a walk is waiting for weights, how well `plan` foretells its time, how it grows.

A folder of checkpoints of one published shape (random weights) is walked with few components, so
that loading has little to hide behind. Run by `make bench`, which appends to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from shapes import SHAPES

from circuit_econ.composing import Request, compose
from circuit_econ.planning import predict
from circuit_econ.progress import Lines
from circuit_econ.runs import run as walk

RESULTS = Path(__file__).with_name("RESULTS.md")


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


@dataclass(frozen=True, slots=True)
class Walked:
    """A walk: what `plan` said, what it took, and seconds of waiting by checkpoint."""

    foretold: float
    seconds: float
    waited: list[float]


def walked(shape: str, checkpoints: int, components: str) -> Walked:
    """Plan and walk."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder_of(shape, checkpoints, Path(scratch) / "run")
        overrides = (
            "study=own", "trajectory=folder", f"trajectory.path={folder}", "measure=[value]",
            "evaluation.length=128", "evaluation.sequences=8", "evaluation.reference_sequences=8",
            f"measures.value.components=[{components}]", "measures.value.placebo_draws=0",
            f"out={scratch}/out",
        )  # fmt: skip
        (config,) = compose(Request(overrides))
        foretold = predict(config).seconds
        began = time.perf_counter()
        ledger = walk(config, Lines())
        seconds = time.perf_counter() - began
        rows = ledger.table("checkpoints").collect()
    return Walked(foretold, seconds, rows["waited"].to_list())


def main() -> None:
    """Plan, walk, compare; then shorter and longer walks of a small shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="pythia-160m")
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--components", default="a0.h0,m0,a4.h3,m6,a8.h1,m9,a11.h5,m11")
    given = parser.parse_args()
    one = walked(given.shape, given.checkpoints, given.components)
    small = {n: walked("pythia-14m", n, "a0.h0,m0,a2.h1,m5") for n in (5, 10, 20, 40)}
    unit = small[10].seconds
    text = (
        "\n## A walk\n\n"
        f"{given.checkpoints} checkpoints of {given.shape}, {len(given.components.split(','))} "
        f"components, 8 × 128 tokens: {one.seconds:.0f} s, {sum(one.waited):.1f} s "
        f"({sum(one.waited) / one.seconds:.1%}) of it waiting for weights to be read, "
        f"{one.waited[0]:.1f} s for the first checkpoint alone. `plan` said {one.foretold:.0f} s "
        f"({one.foretold / one.seconds:.2f} of what it took).\n\n"
        f"Growth with checkpoints (pythia-14m, 4 components; seconds in units of 10 checkpoints, "
        f"{unit:.1f} s; `plan` in brackets):\n\n"
        f"| | {' | '.join(str(n) for n in small)} |\n|---|{'---|' * len(small)}\n| checkpoints | "
        + " | ".join(f"{w.seconds / unit:.2f} ({w.foretold / unit:.2f})" for w in small.values())
        + " |\n"
    )
    print(text)
    with RESULTS.open("a", encoding="utf-8") as results:
        results.write(text)


if __name__ == "__main__":
    main()

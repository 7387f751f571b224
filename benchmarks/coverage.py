"""How often the 95 % intervals of values hold the truth, on effects of trained models.

``python benchmarks/coverage.py`` writes COVERAGE.md. Nothing is timed, so other things may run.

A population is the effects of every component and baseline of a checkpoint on several thousand
sequences. A draw takes some of its sequences, all effects on the same ones, with replacement, so
that the truth is the population's mean. What a walk would print is then judged: both ends or one.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from machine import processor, version
from scipy import special

from circuit_econ.evaluation import Evaluation, training_data
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.precision import judge, tail
from circuit_econ.measures.statistics import estimate
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.model import Model
from circuit_econ.model.intervene import components
from circuit_econ.tables import FEW
from circuit_econ.training import TrainingConfig, train
from circuit_econ.trajectory import open_trajectory

RESULTS = Path(__file__).with_name("COVERAGE.md")
DRAWS = 2000
SIZES = (16, 32, 48, 64, 128, 256)
LARGE = (1024, 2048)
DOCUMENTS = (6, 12, 16, 24, 36)
WINDOWS = (8, 40, 10**6)
STEPS = (60, 120, 150, 200, 300)
SEEDS = (0, 1, 11)
CHECKED = 5
"""Draws of every cell on which the batched formulas below are compared with the package's own."""


@dataclass(frozen=True)
class Population:
    """Effects of a checkpoint: sums ``[variants, units]`` over the scored positions of units."""

    name: str
    sums: np.ndarray
    counts: np.ndarray
    single: np.ndarray
    documents: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        return self.sums.sum(1) / self.counts.sum()

    @property
    def skewness(self) -> np.ndarray:
        x = self.sums / self.counts
        x = x - x.mean(1, keepdims=True)
        return (x**3).mean(1) / (x**2).mean(1) ** 1.5


@dataclass(frozen=True)
class Drawn:
    """What draws of one size say, ``[variants, draws]``; ``tail`` and ``effective`` ``[draws]``."""

    mean: np.ndarray
    se: np.ndarray
    student: np.ndarray
    low: np.ndarray
    high: np.ndarray
    skewness: np.ndarray
    tail: np.ndarray
    effective: np.ndarray
    units: int

    @property
    def heavy(self) -> np.ndarray:
        squared = np.maximum(self.tail, self.skewness**2 / 4)
        return (squared > 2) & (np.ceil(15 * squared * self.units / self.effective) > self.units)


def measure(
    kept: Path,
    trajectory: Path,
    step: int,
    evaluation: Evaluation,
    baselines: tuple[str, ...],
    sets: bool,
) -> Population:
    """All effects of a checkpoint; kept for the next time."""
    if not kept.exists():
        model = Model.from_source(open_trajectory(trajectory, steps=[step]).read(step))
        parts = components(model.config, embeddings=False)
        chosen = [(part,) for part in parts]
        if sets:
            layers = range(model.config.n_layers)
            chosen += [tuple(p for p in parts if p.layer == layer) for layer in layers]
        keys = [(one, b) for one in chosen for b in baselines]
        context = Context(model, evaluation, 0, baselines, Plan(32, 256))
        found = sweep(context, [Variant(*key) for key in keys])
        documents = found.order if found.clusters is None else found.clusters
        np.savez(
            kept,
            sums=found.difference.numpy(),
            counts=found.counts.numpy().astype(float),
            single=np.array([len(one) == 1 for one, _ in keys]),
            documents=documents.numpy(),
        )
    return Population(kept.stem, **np.load(kept))


def induction(cache: Path) -> Iterator[Population]:
    """Checkpoints of the induction study, from its phase change to a saturated model."""
    evaluation = Evaluation.from_task("induction", sequences=8192, reference_sequences=128)
    for seed in SEEDS:
        config = TrainingConfig(
            n_layers=2, n_heads=4, d_model=64, attn_only=True, steps=300, batch=64,
            learning_rate=0.003, checkpoint_steps=[0, *STEPS], seed=seed,
        )  # fmt: skip
        folder = cache / f"induction-{seed}"
        train(config, training_data("task", {"name": "induction"}, 64, seed), folder)
        for step in STEPS:
            kept = cache / f"induction-{seed}-{step}.npz"
            baselines = ("mean", "mean-position", "resample")
            yield measure(kept, folder, step, evaluation, baselines, True)


def text(cache: Path) -> Iterator[Population]:
    """Two checkpoints of the quickstart study on windows of Python's documentation."""
    config = TrainingConfig(steps=400, batch=32, checkpoint_steps=[0, 100, 400])
    train(config, training_data("embedded", {"length": 96}, 32, 0), cache / "text")
    evaluation = Evaluation.embedded(
        length=32, sequences=9000, reference_sequences=64, part="train"
    )
    for step in (100, 400):
        kept = cache / f"text-{step}.npz"
        yield measure(kept, cache / "text", step, evaluation, ("mean", "zero"), False)


def of_documents(population: Population, most: int) -> Population:
    """Sums over at most so many windows of each document."""
    _, index = np.unique(population.documents, return_inverse=True)
    order = np.argsort(index, kind="stable")
    first = np.searchsorted(index[order], index[order])
    kept = order[np.arange(len(order)) - first < most]
    rows = [np.bincount(index[kept], row[kept]) for row in population.sums]
    return replace(
        population, sums=np.stack(rows), counts=np.bincount(index[kept], population.counts[kept])
    )


def draw(population: Population, size: int, seed: int) -> Drawn:
    """Many samples of one size, in batches."""
    rng = np.random.default_rng([size, seed])
    batches = [_batch(population, size, rng, 250) for _ in range(DRAWS // 250)]
    joined = {name: np.concatenate([b[name] for b in batches], axis=-1) for name in batches[0]}
    return Drawn(**joined, units=size)


def _batch(
    population: Population, size: int, rng: np.random.Generator, draws: int
) -> dict[str, np.ndarray]:
    chosen = rng.integers(population.sums.shape[1], size=(draws, size))
    sums, counts = population.sums[:, chosen], population.counts[chosen]
    total = counts.sum(1)
    mean = sums.sum(2) / total
    residuals = sums - mean[..., None] * counts
    se = np.sqrt((residuals**2).sum(2) * size / (size - 1)) / total
    effective = (counts**2).sum(1) ** 2 / (counts**4).sum(1)
    student = special.stdtrit(np.maximum(effective - 1, 1), 0.975) + 0 * mean
    up = down = student
    skewness = _skewness(residuals / counts)
    for g in (_skewness(residuals), skewness):
        a = g / np.sqrt(size)
        up, down = np.maximum(up, _hall(student, a)), np.maximum(down, -_hall(-student, a))
    affected = np.abs(sums).max(2) > 0
    squares = np.where(affected, skewness**2, np.nan)[population.single]
    found = {
        "mean": mean, "se": se, "student": student, "low": mean - se * up,
        "high": mean + se * down, "skewness": skewness, "tail": np.nanmean(squares, 0),
        "effective": effective,
    }  # fmt: skip
    _compare(found, sums, counts, population.single)
    return found


def _compare(
    found: dict[str, np.ndarray], sums: np.ndarray, counts: np.ndarray, single: np.ndarray
) -> None:
    """The package says the same of the first draws."""
    for at in range(CHECKED):
        size = torch.from_numpy(counts[at])
        one = [estimate(torch.from_numpy(row[at]), size) for row in sums]
        spread = tail(e for e, alone in zip(one, single, strict=True) if alone)
        heavy = Drawn(**found, units=len(size)).heavy[:, at]
        for variant, e in enumerate(one):
            for name in ("mean", "se", "low", "high", "skewness"):
                close = np.isclose(found[name][variant, at], getattr(e, name), rtol=1e-6)
                assert close, (name, found[name][variant, at], e)
            assert (judge(e, None, spread).outcome == "heavy tail") == heavy[variant]


def _skewness(parts: np.ndarray) -> np.ndarray:
    spread = np.sqrt((parts**2).mean(-1))
    return ((parts / np.where(spread > 0, spread, 1)[..., None]) ** 3).mean(-1)


def _hall(t: np.ndarray, a: np.ndarray) -> np.ndarray:
    safe = np.where(np.abs(a) < 1e-6, 1.0, a)
    x = 1 + safe * (t - safe / 6)
    return np.where(np.abs(a) < 1e-6, t, 3 / safe * (np.sign(x) * np.abs(x) ** (1 / 3) - 1))


def row(populations: list[Population], size: int) -> str:
    """A line of a table: all effects of some populations, drawn at one size."""
    covered, open_, plain, sides, wide, worst, worst_open = [], [], [], [], [], [], []
    total = closed = 0
    for seed, population in enumerate(populations):
        found = draw(population, size, seed)
        truth = population.truth[:, None]
        heavy, right = found.heavy, found.skewness > 0
        low, high = found.low > truth, found.high < truth
        plain.append(np.abs(found.mean - truth) <= found.student * found.se)
        total, closed = total + heavy.size, closed + int((~heavy).sum())
        covered.append((~(low | high))[~heavy])
        holds = np.where(right, ~low, ~high)
        open_.append(holds[heavy])
        sides.append((low[~heavy].sum(), high[~heavy].sum()))
        wide.append(((found.high - found.low) / (2 * found.student * found.se))[~heavy])
        share = (~heavy).mean(1)
        rate = ((~(low | high)) & ~heavy).sum(1) / np.maximum((~heavy).sum(1), 1)
        worst += list(rate[share >= 0.05])
        rate = (holds & heavy).sum(1) / np.maximum(heavy.sum(1), 1)
        worst_open += list(rate[share <= 0.95])
    below, above = np.sum(sides, 0) / max(closed, 1)
    every = np.concatenate([p.mean(1) for p in plain])
    cells = [
        f"{np.concatenate([p.ravel() for p in plain]).mean():.1%}", f"{every.min():.1%}",
        f"{closed / total:.0%}",
        *((f"{np.concatenate(covered).mean():.1%}", f"{min(worst):.1%}",
           f"{below:.1%} / {above:.1%}", f"{np.median(np.concatenate(wide)):.2f}")
          if worst else ("–",) * 4),
        *((f"{np.concatenate(open_).mean():.1%}", f"{min(worst_open):.1%}")
          if worst_open else ("–",) * 2),
    ]  # fmt: skip
    return " | ".join(cells)


HEAD = (
    "Student's | worst effect | two ends given | of these cover | worst effect "
    "| miss below / above | width | one end covers | worst effect |\n"
)


def main() -> None:
    """Measure the populations, draw from them, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/coverage"),
        help="where models and effects are kept",
    )
    cache: Path = parser.parse_args().cache
    cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tasks = list(induction(cache))
    lines = ["| effects | sequences | " + HEAD + "|---|" + "---|" * 10]
    for title, steps in (("learning, steps 60 to 150", STEPS[:3]), ("step 200", STEPS[3:4]),
                         ("saturated, step 300", STEPS[4:])):  # fmt: skip
        some = [p for p in tasks if any(p.name.endswith(f"-{s}") for s in steps)]
        steep = np.abs(np.concatenate([p.skewness for p in some]))
        title += f" (skewness: half beyond {np.median(steep):.1f}, largest {steep.max():.0f})"
        for size in (*SIZES, *(LARGE if steps == STEPS[4:] else ())):
            lines.append(f"| {title} | {size} | {row(some, size)} |")
            print(lines[-1], flush=True)
    lines += ["", "| windows a document | documents (effective) | " + HEAD + "|---|" + "---|" * 10]
    documents = list(text(cache))
    for most in WINDOWS:
        some = [of_documents(p, most) for p in documents]
        for size in DOCUMENTS:
            effective = np.median(draw(some[0], size, 0).effective)
            few = ", `few`" if effective < FEW else ""
            shown = "all" if most == max(WINDOWS) else f"at most {most}"
            lines.append(f"| {shown} | {size} ({effective:.1f}{few}) | {row(some, size)} |")
            print(lines[-1], flush=True)
    RESULTS.write_text(
        TEXT.format(
            date=datetime.date.today().isoformat(),
            where=processor(torch.device("cpu")),
            python=platform.python_version(),
            torch=version("torch"),
            draws=f"{DRAWS:,}",
            seeds=", ".join(map(str, SEEDS)),
            table="\n".join(lines),
        )
    )


TEXT = """\
# How often 95 % intervals of values hold the truth

{date}; {where}; Python {python}, torch {torch}. Written by `python benchmarks/coverage.py`.

{draws} draws of each population and size; every effect of a checkpoint (all components, baselines
and, in the first table, both layers as sets) is judged beside the others, as in a walk.
*Student's*: the plain interval (with `effective` − 1 degrees of freedom), never withheld: over all
effects, and for the one it covers worst. *Two ends given*: not called a heavy tail. *Worst effect*:
of those given two ends in at least one draw of twenty. *Width*: median beside Student's. *One end*:
how often the one end that is given under a heavy tail holds, over all and for the worst of those
that have a heavy tail in one draw of twenty.

First table: the induction study's model (seeds {seeds}), 8,192 sequences to draw from. Second: the
quickstart study's model on windows of Python's documentation; documents drawn as a whole, at most
so many windows of each.

{table}
"""

if __name__ == "__main__":
    main()

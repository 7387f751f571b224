"""The sweep beside a plain TransformerLens hook loop, in one process: `make bench`.

The contestants take turns on the same weights and tokens, several rounds; medians and ranges are
reported. Tables go to benchmarks/RESULTS.md after each contest, so that a run that is stopped keeps
what it measured. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from contestants import Timed, hook_loop, matrix_rate, ours, sweep_operations, timed
from machine import processor, version
from shapes import SHAPES, Shape
from words import EQUAL, PRECISE

from circuit_econ.evaluation import Evaluation
from circuit_econ.loading import numbers
from circuit_econ.measures import Context, Plan, Precision
from circuit_econ.measures.plan import GROUP
from circuit_econ.measures.statistics import estimate
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.measures.value import VALUE, ValueSettings
from circuit_econ.model import Model, Rounding
from circuit_econ.model.bridge import boot
from circuit_econ.model.intervene import Component, components
from circuit_econ.settings import resolve_device

RESULTS = Path(__file__).with_name("RESULTS.md")


class Contest:
    """One shape: weights, tokens, both contestants."""

    def __init__(self, shape: Shape, device: torch.device, rounding: Rounding) -> None:
        """Draw weights and tokens."""
        self.shape, self.device = shape, device
        source = shape.source()
        self.model = Model.from_source(source, torch.float32, device, rounding)
        self.bridge = boot(source)
        if device.type == "cuda":
            self.bridge.to(device)
        everything = components(self.model.config, embeddings=False)
        self.parts = everything[:: shape.every]
        self.all = len(everything)
        self.pool = shape.evaluation(shape.pool)
        self.plan = Plan.choose(self.model.config, shape.length, device)

    def data(self, sequences: int) -> Evaluation:
        """The first sequences of the pool."""
        e = self.pool
        return Evaluation(e.tokens[:sequences], e.targets[:sequences], e.tokens[-8:])

    def context(self, sequences: int, precision: Precision | None = None) -> Context:
        """What a sweep is given."""
        data = self.data(sequences)
        return Context(self.model, data, 0, ("zero",), self.plan, 0, precision)

    def best_batch(self) -> int:
        """The batch size at which the hook loop is fastest, each tried warm.

        Up to 128 sequences, or as many as 16,384 tokens are; a GPU is given more.
        """
        gpu = self.device.type == "cuda"
        most = min(self.shape.pool, 512 if gpu else min(128, max(1, 16384 // self.shape.length)))
        sizes = [b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if b <= most]
        part = self.parts[len(self.parts) // 2 :][:1]

        def rate(batch: int) -> float:
            data = self.data(batch)
            work = lambda: hook_loop(self.bridge, data, part, batch)  # noqa: E731
            timed(work)
            return min(timed(work).seconds for _ in range(2)) / batch

        return min(sizes, key=rate)


def equal_sequences(contest: Contest) -> tuple[list[Timed], list[Timed], list[float], int]:
    """(a) and (b): the loop, the sweep and the machine's own rate, by turns."""
    shape, batch = contest.shape, contest.best_batch()
    data, context = contest.data(shape.sequences), contest.context(shape.sequences)
    hook_loop(contest.bridge, contest.data(batch), contest.parts[:1], batch)  # warm, both
    ours(contest.context(GROUP), contest.parts[:1])
    loops, sweeps, rates = [], [], []
    for _ in range(shape.rounds):
        loops.append(timed(lambda: hook_loop(contest.bridge, data, contest.parts, batch)))
        sweeps.append(timed(lambda: ours(context, contest.parts)))
        rates.append(matrix_rate(contest.device))
    return loops, sweeps, rates, batch


def equal_precision(contest: Contest, seconds_per_sequence: float) -> str:
    """(c): ours to a precision, beside the loop with what its worst component needs.

    The error asked for is that which the worst component reaches with half of the pool. The loop's
    time is that of (a), taken in proportion.
    """
    parts, shape = contest.parts, contest.shape
    probe = sweep(contest.context(32), [Variant((part,), "zero") for part in parts])
    errors = [estimate(row, probe.counts).se for row in probe.difference]
    target = max(errors) * (2 * 32 / shape.pool) ** 0.5
    # The probe told the sizes; what ours costs is measured with a pilot of its own.
    precision = Precision(absolute=target, relative=0.0)
    settings = ValueSettings([part.name for part in parts], placebo_draws=0)
    context = contest.context(shape.pool, precision)
    began = time.perf_counter()
    table = VALUE.run(context, settings)["value"]
    if contest.device.type == "cuda":
        torch.cuda.synchronize()
    mine = time.perf_counter() - began
    told = table.filter(table["se"].is_not_null())
    worst = max(told["sequences"] * (told["se"] / target) ** 2)
    missed = table.height - (told["se"] <= target).sum()
    theirs = seconds_per_sequence * worst
    used = table["sequences"]
    return (
        f"| {shape.name} | {shape.pool} | {min(errors) / max(errors):.2f} | {worst:.0f} | "
        f"{used.median():.0f} ({used.min()}–{used.max()}) | {theirs:.1f} | {mine:.1f} | "
        f"{theirs / mine:.1f} | {missed} of {table.height} |"
    )


def row(contest: Contest, device: torch.device) -> tuple[str, float]:
    """One row of the first table, and the loop's seconds per sequence."""
    shape = contest.shape
    loops, sweeps, rates, batch = equal_sequences(contest)
    ratios = [a.seconds / b.seconds for a, b in zip(loops, sweeps, strict=True)]
    work = sweep_operations(contest.model.config, contest.parts, shape.sequences, shape.length)
    shares = [work / b.seconds / rate for b, rate in zip(sweeps, rates, strict=True)]
    error = max(abs(a - b) for a, b in zip(loops[-1].values, sweeps[-1].values, strict=True))
    loop, mine = (statistics.median(t.seconds for t in ts) for ts in (loops, sweeps))
    memory = [max(t.memory for t in ts) / 1e6 for ts in (loops, sweeps)]
    budget = contest.plan.bytes(contest.model.config, shape.length, device, torch.float32) / 1e6
    text = (
        f"| {shape.name} | {len(contest.parts)} of {contest.all} | {shape.sequences} × "
        f"{shape.length} | {loop:.2f} (batch {batch}) | {mine:.2f} | "
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f}) | "
        f"{statistics.median(shares):.0%} | {memory[0]:.0f} | {memory[1]:.0f} of {budget:.0f} | "
        f"{error:.0e} |"
    )
    return text, loop / shape.sequences


def growth(device: torch.device) -> list[str]:
    """How the cost of a sweep grows, on a small shape with a small vocabulary."""
    fields = {
        "n_ctx": 1024, "d_vocab": 512, "normalization_type": "LN", "d_model": 128, "d_head": 32,
        "d_mlp": 512, "act_fn": "gelu",
    }  # fmt: skip

    def seconds(layers: int, share: float, sequences: int, length: int) -> float:
        model = Model.initialise({**fields, "n_layers": layers}, device=device)
        parts: list[Component] = components(model.config, embeddings=False)
        parts = parts[:: round(1 / share)]
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(512, (sequences, length), generator=generator)
        plan = Plan.choose(model.config, length, device)
        context = Context(model, Evaluation(tokens, reference=tokens[:8]), 0, ("zero",), plan)
        return statistics.median(timed(lambda: ours(context, parts)).seconds for _ in range(3))

    base = seconds(4, 1.0, 32, 128)
    lines = ["| | ×½ | ×1 | ×2 | ×4 |", "|---|---|---|---|---|"]
    for name, arguments in {
        "components": [(4, 0.5, 32, 128), (4, 1.0, 32, 128), None, None],
        "layers (components with them)": [
            (2, 1.0, 32, 128), (4, 1.0, 32, 128), (8, 1.0, 32, 128), (16, 1.0, 32, 128),
        ],
        "sequences": [(4, 1.0, n, 128) for n in (16, 32, 64, 128)],
        "length": [(4, 1.0, 32, n) for n in (64, 128, 256, 512)],
    }.items():  # fmt: skip
        cells = ["–" if a is None else f"{seconds(*a) / base:.2f}" for a in arguments]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [f"Seconds in units of 4 layers, 20 components, 32 × 128 tokens ({base:.2f} s).", "",
            *lines]  # fmt: skip


def write(sections: Sequence[Sequence[str]]) -> None:
    """The page so far."""
    text = "\n\n".join("\n".join(lines) for lines in sections)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Run every contest and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=[s.name for s in SHAPES])
    parser.add_argument("--rounding", type=Rounding, default=Rounding.EXACT)
    given = parser.parse_args()
    device = resolve_device(None)
    head = [
        "# The sweep beside a plain TransformerLens hook loop",
        "",
        f"{datetime.date.today()}; {processor(device)}, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformer-lens "
        f"{version('transformer-lens')}; products: {given.rounding}. Written by `make bench`.",
    ]
    equal, precise = [EQUAL], [PRECISE]
    with numbers(given.rounding):
        for shape in SHAPES:
            if shape.name not in given.shapes:
                continue
            contest = Contest(shape, device, given.rounding)
            text, per_sequence = row(contest, device)
            equal.append(text)
            print(text, flush=True)
            precise.append(equal_precision(contest, per_sequence))
            print(precise[-1], flush=True)
            write([head, equal, precise])
        write([head, equal, precise, ["## How the cost grows", "", *growth(device)]])


if __name__ == "__main__":
    main()

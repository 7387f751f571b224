"""The ablation sweep: one clean pass, then every variant from the place where it first differs.

A *variant* takes a set of components out under one baseline, or moves the stream by a component's
shuffled differences (the placebo). Variants that start at the same place ride in one batch; no
block below the start is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_econ.measures.base import Context
from circuit_econ.model import Edit, Model, Trace
from circuit_econ.model.intervene import Baselines, Component, draw_donors
from circuit_econ.tables import Baseline

__all__ = ["Sweep", "Variant", "sweep"]

# Seeds of independent draws are kept apart by a constant each.
_DONORS, _PANELS, _SHUFFLE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Variant:
    """A set of components under one baseline; with ``placebo``, a single one shuffled.

    ``draw`` numbers independent shuffles.
    """

    parts: tuple[Component, ...]
    baseline: str
    placebo: bool = False
    draw: int = 0


@dataclass(slots=True)
class Sweep:
    """Losses of every sequence, clean and under every variant.

    Attributes:
        clean: Nats per sequence, summed over scored positions, ``[S]``.
        difference: Ablated minus clean, per variant and sequence, ``[variants, S]``. Exactly 0
            where the stream did not change.
        counts: Scored positions per sequence, ``[S]``.
    """

    clean: Float[Tensor, " S"]
    difference: Float[Tensor, "variants S"]
    counts: Int[Tensor, " S"]


@dataclass(slots=True)
class _Panel:
    """A clean pass over some sequences, and over their donors."""

    index: Tensor
    tokens: Tensor
    targets: Tensor
    clean: Tensor
    trace: Trace
    donors: tuple[Trace, Tensor] | None


@torch.no_grad()
def sweep(context: Context, variants: Sequence[Variant]) -> Sweep:
    """Run every variant on every evaluation sequence.

    Returns:
        Per-sequence losses in float64 on the CPU.
    """
    model, evaluation = context.model, context.evaluation
    wanted = {v.baseline for v in variants}
    parts = {p.name: p for v in variants for p in v.parts}
    same_set = evaluation.reference is None
    pool = evaluation.tokens if evaluation.reference is None else evaluation.reference
    reference = pool.to(model.device)
    donor_of = draw_donors(
        len(evaluation.tokens), len(pool), same_set=same_set, seed=context.seed + _DONORS
    )
    baselines = Baselines(
        model, reference, sorted(wanted), parts.values(), panel=context.plan.panel
    )
    count = len(evaluation.tokens)
    clean = torch.zeros(count, dtype=torch.float64)
    difference = torch.zeros(len(variants), count, dtype=torch.float64)
    order = sorted(range(len(variants)), key=lambda v: (_start(model, variants[v]), v))
    panels = _panels(count, context)
    for number, index in enumerate(panels):
        tokens = evaluation.tokens[index].to(model.device)
        trace = model.trace(tokens)
        targets = evaluation.targets[index].to(model.device)
        losses = model.sequence_losses(trace.streams[model.last_place], targets)
        donors = None
        if Baseline.RESAMPLE in wanted:
            theirs = reference[donor_of[index]]
            donors = model.trace(theirs), theirs
        panel = _Panel(index, tokens, targets, losses, trace, donors)
        clean[index] = losses.cpu()
        for done, rows, found in _run(context, panel, baselines, variants, order):
            difference[rows[:, 0], index[rows[:, 1]]] = found.cpu()
            context.progress((number + done / len(order)) / len(panels))
    context.progress(1.0)
    return Sweep(clean, difference, (evaluation.targets >= 0).sum(1))


def _panels(count: int, context: Context) -> list[Tensor]:
    """Sequences in panels of nearly equal size, assigned at random: shuffles stay within them."""
    generator = torch.Generator().manual_seed(context.seed + _PANELS)
    order = torch.randperm(count, generator=generator)
    return [p.sort().values for p in order.tensor_split(-(-count // context.plan.panel))]


def _start(model: Model, variant: Variant) -> int:
    return min(part.place(model) for part in variant.parts)


def _run(
    context: Context,
    panel: _Panel,
    baselines: Baselines,
    variants: Sequence[Variant],
    order: Sequence[int],
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Variants done so far, (variant, sequence) rows, and how much more each loses than clean."""
    model, limit = context.model, context.plan.rows
    batch = _Batch(model, panel)
    for done, number in enumerate(order):
        start = _start(model, variants[number])
        if batch.rows and batch.start != start:
            yield done, *batch.finish()
        batch.start = start
        moved, edits = _intervene(context, panel, baselines, variants[number], start)
        # Where nothing moves and nothing is edited the loss is the clean one, bit for bit: the row
        # need not run, and its difference is exactly zero.
        affected = (moved != 0).flatten(1).any(1)
        if edits:
            affected = torch.ones_like(affected)
        for row in affected.nonzero()[:, 0].tolist():
            batch.add(number, row, moved[row], edits)
            if len(batch.rows) == limit:
                yield done, *batch.finish()
    if batch.rows:
        yield len(order), *batch.finish()


def _intervene(
    context: Context, panel: _Panel, baselines: Baselines, variant: Variant, start: int
) -> tuple[Tensor, list[tuple[Component, Tensor]]]:
    """How a variant moves the stream where it starts, and what it replaces further on."""
    model = context.model
    moved = torch.zeros_like(panel.trace.streams[0])
    edits = []
    for part in variant.parts:
        output = part.output(model, panel.trace, panel.tokens)
        instead = baselines.replacement(part, variant.baseline, output, panel.donors)
        if part.place(model) > start:
            edits.append((part, instead.expand_as(output)))
            continue
        change = instead - output
        if variant.placebo:
            change = _shuffle(change, panel, context.seed, variant.draw)
        moved = moved + part.write(model, change)
    return moved, edits


def _shuffle(change: Float[Tensor, "S T W"], panel: _Panel, seed: int, draw: int) -> Tensor:
    """The same differences at other sequences and positions of the panel, drawn once per run."""
    number = int(panel.index[0]) * 1009 + draw
    generator = torch.Generator().manual_seed((seed + _SHUFFLE) * 1_000_003 + number)
    order = torch.randperm(change.shape[0] * change.shape[1], generator=generator)
    return change.flatten(0, 1)[order.to(change.device)].view_as(change)


class _Batch:
    """Rows that start at one place, collected until they run together."""

    def __init__(self, model: Model, panel: _Panel) -> None:
        self.model, self.panel = model, panel
        self.start = 0
        self.rows: list[tuple[int, int]] = []
        self.streams: list[Tensor] = []
        self.edits: list[Edit] = []

    def add(
        self, variant: int, row: int, moved: Tensor, edits: Sequence[tuple[Component, Tensor]]
    ) -> None:
        self.streams.append(self.panel.trace.streams[self.start][row] + moved)
        at = slice(len(self.rows), len(self.rows) + 1)
        self.edits += [part.edit(at, instead[row : row + 1]) for part, instead in edits]
        self.rows.append((variant, row))

    def finish(self) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(self.rows)
        own = rows[:, 1].to(self.model.device)
        final = self.model.run(torch.stack(self.streams), self.start, self.edits)
        losses = self.model.sequence_losses(final, self.panel.targets[own])
        self.rows, self.streams, self.edits = [], [], []
        return rows, losses - self.panel.clean[own]

"""The ablation sweep: one clean pass, and every variant from the place where it first differs.

What a *variant* does is its own affair (:mod:`circuit_econ.measures.variants`). The clean pass goes
up layer by layer; at each place the variants that begin there join a chunk, and only the layers
above are computed for them. Nothing of a layer is kept once its variants are under way, so memory
does not grow with depth; only where edges are cut, outputs of a supplier's layer wait for its last
reader (:meth:`circuit_econ.measures.plan.Plan.bytes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_econ.measures.base import Context
from circuit_econ.measures.plan import GROUP
from circuit_econ.measures.scoring import Scoring, sample_positions
from circuit_econ.measures.statistics import known, ratio_estimate
from circuit_econ.measures.variants import Layer, Piece, Sequences, Variant
from circuit_econ.measures.workers import Workers
from circuit_econ.model import Edit, Model, Trace
from circuit_econ.model.draws import drawing
from circuit_econ.model.intervene import Baselines, draw_donors
from circuit_econ.model.transfer import send
from circuit_econ.tables import Baseline

__all__ = ["Draw", "Sweep", "Variant", "sweep"]

# Seeds of independent draws are kept apart by a constant each.
_DONORS, _ORDER, _POSITIONS = 1, 2, 4


class Draw:
    """In which order evaluation sequences are measured, and which of them go together.

    At random, the same at every checkpoint, windows of one document together.

    Attributes:
        order: Which sequence each column is, ``[S]``.
        panels: First and last column of each panel.
        groups: How many groups of sequences placebos are shuffled within.
        clusters: Which document each column comes from, ``[S]``; None if each is its own.
    """

    def __init__(self, context: Context) -> None:
        """Draw for the evaluation set and plan of a context."""
        evaluation = context.evaluation
        sequences = len(evaluation.tokens)
        self.order = _order(evaluation.clusters, sequences, context.seed)
        self.clusters = None if evaluation.clusters is None else evaluation.clusters[self.order]
        self.groups = -(-sequences // GROUP)
        self.together = -(-context.plan.panel // GROUP)
        cuts = [self._bounds(g)[0] for g in range(0, self.groups, self.together)]
        self.panels = list(zip(cuts, [*cuts[1:], sequences], strict=True))

    def groups_of(self, panel: int) -> dict[int, slice]:
        """First and last row, within a panel, of each of its groups."""
        first = panel * self.together
        start = self.panels[panel][0]
        return {
            group: slice(*(bound - start for bound in self._bounds(group)))
            for group in range(first, min(self.groups, first + self.together))
        }

    def _bounds(self, group: int) -> tuple[int, int]:
        """First and last column of a group; sizes differ by at most one."""
        sequences = len(self.order)
        return group * sequences // self.groups, (group + 1) * sequences // self.groups


class Sweep(Draw):
    """Losses of sequences, clean and under variants, panel by panel.

    Columns are the evaluation sequences in the order in which they are drawn.

    Attributes:
        clean: Nats per sequence, summed over scored positions, ``[S]``; NaN where not measured.
        difference: Ablated minus clean, ``[variants, S]``, float64; exactly 0 where the stream did
            not change, NaN where not measured.
        counts: Scored positions per sequence, ``[S]``.
    """

    def __init__(
        self, context: Context, variants: Sequence[Variant], positions: int | None = None
    ) -> None:
        """Draw what is random and measure the baselines.

        Args:
            context: Model, evaluation set, plan.
            variants: What to take out.
            positions: Score so many positions of each sequence, drawn at random, each standing for
                several: unbiased. All by default.
        """
        super().__init__(context)
        self.context, self.variants = context, variants
        evaluation, device = context.evaluation, context.model.device
        self.tokens = evaluation.tokens[self.order]
        targets = evaluation.targets[self.order]
        self.counts = (targets >= 0).sum(1)
        self.targets, self.weights = sample_positions(targets, positions, context.seed + _POSITIONS)
        self.clean = torch.full((len(self.order),), torch.nan, dtype=torch.float64)
        self.difference = self.clean.repeat(len(variants), 1)
        self._clean = self.clean.to(device, copy=True)
        self._losses = self.difference.to(device, copy=True)
        self._moved = torch.ones(self.difference.shape, dtype=torch.bool, device=device)
        self._baselines(context)

    def mean(self, sums: Float[Tensor, " S"]) -> tuple[float, float | None]:
        """Nats per scored position of some differences by column, and the standard error."""
        mean, se = (float(x) for x in ratio_estimate(sums, self.counts, self.clusters))
        return mean, known(se)

    def _baselines(self, context: Context) -> None:
        model, evaluation = context.model, context.evaluation
        wanted = {v.baseline for v in self.variants}
        parts = {p.name: p for v in self.variants for p in v.parts}
        same_set = evaluation.reference is None
        pool = evaluation.tokens if evaluation.reference is None else evaluation.reference
        self.reference = pool.to(model.device)
        donor_of = draw_donors(
            len(evaluation.tokens), len(pool), same_set=same_set, seed=context.seed + _DONORS
        )
        self.donor_of = donor_of[self.order] if Baseline.RESAMPLE in wanted else None
        self.baselines = Baselines(
            model, self.reference, sorted(wanted), parts.values(), panel=context.plan.panel
        )

    @torch.no_grad()
    def run(self, panels: range, numbers: Sequence[int]) -> None:
        """Measure some variants, by number, on some panels."""
        model, limit = self.context.model, self.context.plan.rows
        ordered = sorted(numbers, key=lambda v: (self.variants[v].start(model), v))
        with Workers(model.device) as workers:
            for panel in panels:
                # The clean pass of the next panel goes on while chunks of this one still run.
                self._run_panel(_Panel(self, panel), ordered, workers, limit)
            workers.finish()
        if len(panels):
            self._settle(slice(self.panels[panels[0]][0], self.panels[panels[-1]][1]), ordered)

    def _run_panel(
        self, panel: _Panel, numbers: Sequence[int], workers: Workers, limit: int
    ) -> None:
        waiting: list[Piece] = []
        rows, done = 0, 0
        for piece in panel.pieces(numbers, limit):
            if rows + piece.length > limit:
                workers.submit(panel.run, waiting)
                done, rows, waiting = done + rows, 0, []
                self.context.progress(panel.done(done, len(numbers)))
            waiting.append(piece)
            rows += piece.length
        if waiting:
            workers.submit(panel.run, waiting)
        self.context.progress(panel.done(0, 1, after=True))

    def _settle(self, columns: slice, numbers: Sequence[int]) -> None:
        """From losses to differences."""
        which = torch.tensor(numbers, dtype=torch.int64, device=self._losses.device)
        losses, moved = self._losses[which, columns], self._moved[which, columns]
        clean = self._clean[columns]
        # Where nothing moved the loss is the clean one, whatever rounding made of it.
        found = torch.where(moved, losses - clean, 0.0)
        self.difference[which.cpu(), columns] = found.cpu()
        self.clean[columns] = clean.cpu()


class _Panel:
    """Sequences whose clean pass runs together, and the variants on them."""

    def __init__(self, sweep: Sweep, number: int) -> None:
        self.sweep, self.number = sweep, number
        self.model: Model = sweep.context.model
        first, last = sweep.panels[number]
        self.columns = slice(first, last)
        self.tokens = send(sweep.tokens[self.columns], self.model.device)
        self.scoring = Scoring(
            sweep.targets[self.columns], sweep.weights[self.columns], self.model.device
        )
        donors = None
        if sweep.donor_of is not None:
            donors = sweep.reference[send(sweep.donor_of[self.columns], self.model.device)]
        self.sequences = Sequences(
            self.model, sweep.baselines, self.tokens, donors,
            sweep.groups_of(number), sweep.context.seed,
        )  # fmt: skip

    def pieces(self, numbers: Sequence[int], limit: int) -> Iterator[Piece]:
        """The clean pass upward; at each place the variants that start there, cut into rows."""
        starting: dict[int, list[int]] = {}
        for number in numbers:
            starting.setdefault(self.sweep.variants[number].start(self.model), []).append(number)
        self._foresee(numbers)
        size, last = len(self.tokens), self._last_readers(numbers)
        kept: dict[int, Layer] = {}
        for at, (places, layer) in enumerate(self._layers(), -1):
            if at in last:
                kept[at] = layer.outputs()
            for place in places:
                for number in starting.get(place, ()):
                    supplier = self.sweep.variants[number].supplier
                    source = layer if supplier is None else kept[supplier]
                    for row in range(0, size, limit):
                        rows = slice(row, min(size, row + limit))
                        yield Piece(number, place, rows, layer, source, self.sequences)
            kept = {supplier: found for supplier, found in kept.items() if last[supplier] > at}

    def _last_readers(self, numbers: Sequence[int]) -> dict[int, int]:
        """By layer of suppliers, that of their last reader."""
        last: dict[int, int] = {}
        for number in numbers:
            variant = self.sweep.variants[number]
            if (supplier := variant.supplier) is not None:
                layer = (variant.start(self.model) - 1) // 2
                last[supplier] = max(last.get(supplier, layer), layer)
        return last

    def _layers(self) -> Iterator[tuple[tuple[int, ...], Layer]]:
        model = self.model
        stream = model.embed(self.tokens)
        donor_tokens = self.sequences.donor_tokens
        theirs = None if donor_tokens is None else model.embed(donor_tokens)
        embedded = Trace({0: stream})
        yield (0,), Layer(embedded, None if theirs is None else Trace({0: theirs}))
        for number in range(model.config.n_layers):
            trace, donors = Trace(), None
            stream = model.run(stream, 2 * number, trace=trace, until=2 * number + 2)
            if theirs is not None:
                donors = Trace()
                theirs = model.run(theirs, 2 * number, trace=donors, until=2 * number + 2)
            yield (2 * number + 1, 2 * number + 2), Layer(trace, donors)
        everyone = [slice(0, len(self.tokens))]
        self.sweep._clean[self.columns] = self.scoring.losses(model, stream, everyone)

    def _foresee(self, numbers: Sequence[int]) -> None:
        """Donors' outputs that sets will need at layers the pass has not reached."""
        variants = [self.sweep.variants[n] for n in numbers]
        wanted = {
            part.layer
            for v in variants
            if v.baseline == Baseline.RESAMPLE
            for part in v.ahead(self.model)
        }
        if wanted and self.sequences.donor_tokens is not None:
            whole = self.model.trace(self.sequences.donor_tokens)
            self.sequences.later = Trace(
                heads={k: v for k, v in whole.heads.items() if k in wanted},
                mlps={k: v for k, v in whole.mlps.items() if k in wanted},
            )

    @torch.no_grad()
    def run(self, pieces: Sequence[Piece]) -> None:
        """Take a chunk to the top: pieces join at the places where they start."""
        model, sweep = self.model, self.sweep
        stream: Tensor | None = None
        edits: list[Edit] = []
        restored: list[tuple[slice, Tensor]] = []
        at = 0
        for place, joining in groupby(pieces, key=lambda p: p.place):
            if stream is not None:
                stream = model.run(stream, at, edits, until=place)
            streams = [] if stream is None else [stream]
            for piece in joining:
                begin = sum(map(len, streams))
                variant = sweep.variants[piece.number]
                moved, later = variant.move(piece)
                rows = slice(begin, begin + piece.length)
                edits += [part.edit(rows, instead) for part, instead in later]
                streams.append(piece.stream() + moved)
                if variant.restored:
                    restored.append((rows, moved))
                if not later:
                    different = (moved != 0).flatten(1).any(1)
                    if sweep.variants[piece.number].restored and place == model.last_place:
                        different = torch.zeros_like(different)  # nobody has read it
                    sweep._moved[piece.number, self._columns(piece)] = different
            stream, at = torch.cat(streams), place
        assert stream is not None
        final = model.run(stream, at, edits)
        for rows, moved in restored:
            final[rows] -= moved
        losses = self.scoring.losses(model, final, [p.rows for p in pieces])
        for piece, found in zip(pieces, losses.split([p.length for p in pieces]), strict=True):
            sweep._losses[piece.number, self._columns(piece)] = found

    def done(self, rows: int, variants: int, *, after: bool = False) -> float:
        """Share of the panels that is done."""
        share = 1.0 if after else rows / (variants * len(self.tokens))
        return (self.number + share) / len(self.sweep.panels)

    def _columns(self, piece: Piece) -> slice:
        first = self.columns.start
        return slice(first + piece.rows.start, first + piece.rows.stop)


def sweep(context: Context, variants: Sequence[Variant], positions: int | None = None) -> Sweep:
    """Run every variant on every evaluation sequence."""
    whole = Sweep(context, variants, positions)
    whole.run(range(len(whole.panels)), range(len(variants)))
    return whole


def _order(clusters: Int[Tensor, " S"] | None, count: int, seed: int) -> Int[Tensor, " S"]:
    """Sequences at random; those of one document, in their order, one after the other."""
    generator = drawing(seed + _ORDER)
    if clusters is None:
        return torch.randperm(count, generator=generator)
    _, index = clusters.unique(return_inverse=True)
    place = torch.randperm(int(index.max()) + 1, generator=generator)
    return torch.argsort(place[index], stable=True)

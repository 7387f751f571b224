"""The ablation sweep: one clean pass, and every variant from the place where it first differs.

A *variant* takes a set of components out under one baseline, or moves the stream by a component's
shuffled differences (the placebo), or takes a component out of what a single reader sees (an edge).
The clean pass goes up layer by layer; at each place the variants that begin there join a chunk, and
only the layers above are computed for them. Nothing of a layer is kept once its variants are under
way, so memory does not grow with depth; only where edges are cut, what a supplier's layer wrote
waits for its last reader.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from jaxtyping import Int
from torch import Tensor

from circuit_econ.measures.base import Context
from circuit_econ.measures.plan import GROUP
from circuit_econ.measures.scoring import Scoring, sample_positions
from circuit_econ.measures.workers import Workers
from circuit_econ.model import Edit, Model, Trace
from circuit_econ.model.intervene import Baselines, Component, draw_donors
from circuit_econ.model.records import Ports
from circuit_econ.model.transfer import send
from circuit_econ.tables import Baseline, Kind

__all__ = ["Reader", "Sweep", "Variant", "sweep"]

# Seeds of independent draws are kept apart by a constant each.
_DONORS, _ORDER, _SHUFFLE, _POSITIONS = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Reader:
    """Where a component, or the logits, reads the stream.

    Attributes:
        component: Who reads; None for the logits.
        port: ``q``, ``k`` or ``v`` of a head, ``in`` of an MLP and of the logits.
    """

    component: Component | None
    port: str

    def place(self, model: Model) -> int:
        """The first place of the stream that holds what comes of the reading."""
        return model.last_place if self.component is None else self.component.place(model)


@dataclass(frozen=True, slots=True)
class Variant:
    """A set of components under one baseline.

    Attributes:
        parts: What is taken out.
        baseline: What stands in its place.
        placebo: Whether a single one is shuffled instead.
        draw: Numbers independent shuffles.
        reader: A single one is taken out of what this reader sees, everything else follows from
            that: an edge is cut. None takes it out of the stream.
        restored: Whether what is taken out is put back before the logits read: the mediated value.
    """

    parts: tuple[Component, ...]
    baseline: str
    placebo: bool = False
    draw: int = 0
    reader: Reader | None = None
    restored: bool = False

    def start(self, model: Model) -> int:
        """The first place of the stream that differs."""
        if self.reader is not None:
            return self.reader.place(model)
        return min(part.place(model) for part in self.parts)


@dataclass(slots=True)
class _Layer:
    """What the clean pass, and that of the donors, left behind at a layer."""

    trace: Trace
    donors: Trace | None
    ports: Ports | None = None

    def ports_at(self, model: Model, layer: int) -> Ports:
        """What the layer's heads read in the clean pass; computed once, where an edge is cut."""
        if self.ports is None:
            self.ports = model.ports(layer, self.trace.streams[2 * layer])
        return self.ports

    def outputs(self) -> _Layer:
        """What its components wrote, without the streams."""
        donors = None if self.donors is None else Trace({}, self.donors.heads, self.donors.mlps)
        return _Layer(Trace({}, self.trace.heads, self.trace.mlps), donors)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of a panel under one variant, with what they start from.

    ``source`` is the layer of what is taken out: a lower one than ``layer`` where an edge is cut.
    """

    number: int
    place: int
    rows: slice
    layer: _Layer
    source: _Layer

    @property
    def length(self) -> int:
        return self.rows.stop - self.rows.start


class Sweep:
    """Losses of sequences, clean and under variants, panel by panel.

    Columns are the evaluation sequences in the order in which they are drawn: at random, the same
    at every checkpoint, windows of one document together.

    Attributes:
        order: Which sequence each column is, ``[S]``.
        panels: First and last column of each panel.
        groups: How many groups of sequences placebos are shuffled within.
        clean: Nats per sequence, summed over scored positions, ``[S]``; NaN where not measured.
        difference: Ablated minus clean, ``[variants, S]``, float64; exactly 0 where the stream did
            not change, NaN where not measured.
        counts: Scored positions per sequence, ``[S]``.
        clusters: Which document each column comes from, ``[S]``; None if each is its own.
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
        self.context, self.variants = context, variants
        evaluation = context.evaluation
        self.order = _order(evaluation.clusters, len(evaluation.tokens), context.seed)
        self.tokens = evaluation.tokens[self.order]
        targets = evaluation.targets[self.order]
        self.counts = (targets >= 0).sum(1)
        self.targets, self.weights = sample_positions(targets, positions, context.seed + _POSITIONS)
        self.clusters = None if evaluation.clusters is None else evaluation.clusters[self.order]
        sequences = len(self.tokens)
        self.groups = -(-sequences // GROUP)
        self.panels = _panels(sequences, self.groups, context.plan.panel)
        self._forget()
        self._baselines(context)

    def joined_by(self, variants: Sequence[Variant]) -> Sweep:
        """The same draws and baselines, with more variants; nothing measured yet."""
        other = copy.copy(self)
        other.variants = [*self.variants, *variants]
        other._forget()
        return other

    def _forget(self) -> None:
        """Nothing is measured yet."""
        device = self.context.model.device
        self.clean = torch.full((len(self.order),), torch.nan, dtype=torch.float64)
        self.difference = self.clean.repeat(len(self.variants), 1)
        self._clean = self.clean.to(device, copy=True)
        self._losses = self.difference.to(device, copy=True)
        self._moved = torch.ones(self.difference.shape, dtype=torch.bool, device=device)

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
        waiting: list[_Piece] = []
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
        self.donor_tokens: Tensor | None = None
        if sweep.donor_of is not None:
            self.donor_tokens = sweep.reference[
                send(sweep.donor_of[self.columns], self.model.device)
            ]
        self.later: Trace | None = None

    def pieces(self, numbers: Sequence[int], limit: int) -> Iterator[_Piece]:
        """The clean pass upward; at each place the variants that start there, cut into rows."""
        starting: dict[int, list[int]] = {}
        for number in numbers:
            starting.setdefault(self.sweep.variants[number].start(self.model), []).append(number)
        self._foresee(numbers)
        size, last = len(self.tokens), self._last_readers(numbers)
        kept: dict[int, _Layer] = {}
        for at, (places, layer) in enumerate(self._layers(), -1):
            if at in last:
                kept[at] = layer.outputs()
            for place in places:
                for number in starting.get(place, ()):
                    source, supplier = layer, self._supplier(number)
                    if supplier is not None:
                        source = kept[supplier]
                    for row in range(0, size, limit):
                        rows = slice(row, min(size, row + limit))
                        yield _Piece(number, place, rows, layer, source)
            kept = {supplier: found for supplier, found in kept.items() if last[supplier] > at}

    def _supplier(self, number: int) -> int | None:
        """The layer of the component that a reader shall not see; None for other variants."""
        variant = self.sweep.variants[number]
        return None if variant.reader is None else variant.parts[0].layer

    def _last_readers(self, numbers: Sequence[int]) -> dict[int, int]:
        """By layer of suppliers, that of their last reader."""
        last: dict[int, int] = {}
        for number in numbers:
            if (supplier := self._supplier(number)) is not None:
                layer = (self.sweep.variants[number].start(self.model) - 1) // 2
                last[supplier] = max(last.get(supplier, layer), layer)
        return last

    def _layers(self) -> Iterator[tuple[tuple[int, ...], _Layer]]:
        model = self.model
        stream = model.embed(self.tokens)
        theirs = None if self.donor_tokens is None else model.embed(self.donor_tokens)
        embedded = Trace({0: stream})
        yield (0,), _Layer(embedded, None if theirs is None else Trace({0: theirs}))
        for number in range(model.config.n_layers):
            trace, donors = Trace(), None
            stream = model.run(stream, 2 * number, trace=trace, until=2 * number + 2)
            if theirs is not None:
                donors = Trace()
                theirs = model.run(theirs, 2 * number, trace=donors, until=2 * number + 2)
            yield (2 * number + 1, 2 * number + 2), _Layer(trace, donors)
        everyone = [slice(0, len(self.tokens))]
        self.sweep._clean[self.columns] = self.scoring.losses(model, stream, everyone)

    def _foresee(self, numbers: Sequence[int]) -> None:
        """Donors' outputs that sets will need at layers the pass has not reached."""
        variants = [self.sweep.variants[n] for n in numbers]
        wanted = {
            part.layer
            for v in variants
            if v.baseline == Baseline.RESAMPLE and len(v.parts) > 1
            for part in v.parts
            if part.place(self.model) > v.start(self.model)
        }
        if wanted and self.donor_tokens is not None:
            whole = self.model.trace(self.donor_tokens)
            self.later = Trace(
                heads={k: v for k, v in whole.heads.items() if k in wanted},
                mlps={k: v for k, v in whole.mlps.items() if k in wanted},
            )

    @torch.no_grad()
    def run(self, pieces: Sequence[_Piece]) -> None:
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
                moved, later = self._intervene(piece)
                rows = slice(begin, begin + piece.length)
                edits += [part.edit(rows, instead) for part, instead in later]
                streams.append(piece.layer.trace.streams[place][piece.rows] + moved)
                if sweep.variants[piece.number].restored:
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

    def _columns(self, piece: _Piece) -> slice:
        first = self.columns.start
        return slice(first + piece.rows.start, first + piece.rows.stop)

    def _intervene(self, piece: _Piece) -> tuple[Tensor, list[tuple[Component, Tensor]]]:
        """How a variant moves the stream where it starts, and what it replaces further on."""
        variant = self.sweep.variants[piece.number]
        if variant.reader is not None:
            return self._at_reader(variant.parts[0], variant, variant.reader, piece), []
        moved = torch.zeros((), dtype=self.model.dtype, device=self.model.device)
        later = []
        for part in variant.parts:
            if part.place(self.model) > piece.place:
                instead = self._later(part, variant.baseline)
                instead = instead[piece.rows] if len(instead) == len(self.tokens) else instead
                later.append((part, instead))
            elif variant.placebo:
                moved = moved + part.write(self.model, self._shuffled(part, variant, piece))
            else:
                moved = moved + part.write(self.model, self._change(part, variant, piece))
        shape = piece.layer.trace.streams[piece.place][piece.rows].shape
        return moved.expand(shape), later

    def _at_reader(
        self, part: Component, variant: Variant, reader: Reader, piece: _Piece
    ) -> Tensor:
        """What a reader writes without a component in its input, less what it writes with it."""
        model, rows, trace = self.model, piece.rows, piece.layer.trace
        change = part.write(model, self._change(part, variant, piece))
        if reader.component is None:
            return change
        layer, head = reader.component.layer, reader.component.head
        assert layer is not None
        if head is None:
            entering = trace.streams[2 * layer if model.config.parallel else 2 * layer + 1]
            moved = model.mlp(layer, entering[rows] + change) - trace.mlps[layer][rows]
        else:
            clean = piece.layer.ports_at(model, layer)
            seen = model.ports(layer, trace.streams[2 * layer][rows] + change)
            shared = head // model.config.group
            q, k, v = (
                getattr(seen, port) if port == reader.port else getattr(clean, port)[rows]
                for port in ("q", "k", "v")
            )
            alone = (x[:, at : at + 1] for x, at in ((q, head), (k, shared), (v, shared)))
            output = model.mix(layer, *alone)[:, :, 0]
            moved = model.write_head(layer, head, output - trace.heads[layer][rows][:, :, head])
        # What is computed again differs by rounding where nothing was taken out.
        return moved * (change != 0).flatten(1).any(1)[:, None, None]

    def _later(self, part: Component, baseline: str) -> Tensor:
        """What stands in a component's place at a layer that the clean pass has not reached."""
        width = self.model.config.d_head if part.kind is Kind.HEAD else self.model.config.d_model
        like = torch.empty(1, 1, width, dtype=self.model.dtype, device=self.model.device)
        donors = None
        if self.later is not None and self.donor_tokens is not None:
            donors = self.later, self.donor_tokens
        instead = self.sweep.baselines.replacement(part, baseline, like, donors)
        return instead if instead.ndim == 3 else instead[None]

    def _change(self, part: Component, variant: Variant, piece: _Piece) -> Tensor:
        """Baseline minus output of a component, for the rows of a piece: ``[rows, T, width]``."""
        output = part.output(self.model, piece.source.trace, self.tokens)[piece.rows]
        donors = None
        if piece.source.donors is not None and self.donor_tokens is not None:
            donors = piece.source.donors, self.donor_tokens
        instead = self.sweep.baselines.replacement(part, variant.baseline, output, donors)
        if variant.baseline == Baseline.RESAMPLE:
            instead = instead[piece.rows]
        return instead - output

    def _shuffled(self, part: Component, variant: Variant, piece: _Piece) -> Tensor:
        """The same differences at other sequences and positions of the group, drawn once a run."""
        found, sweep = [], self.sweep
        length = self.tokens.shape[1]
        for group in range(sweep.groups):
            first, last = _bounds(len(sweep.tokens), sweep.groups, group)
            whole = slice(first - self.columns.start, last - self.columns.start)
            rows = slice(max(piece.rows.start, whole.start), min(piece.rows.stop, whole.stop))
            if rows.start >= rows.stop:
                continue
            entire = replace(piece, rows=whole)
            change = self._change(part, variant, entire)
            order = _permutation(len(change) * length, sweep.context.seed, group, variant.draw)
            here = slice((rows.start - whole.start) * length, (rows.stop - whole.start) * length)
            taken = change.flatten(0, 1)[send(order[here], change.device)]
            found.append(taken.view(-1, length, change.shape[-1]))
        return torch.cat(found)


def sweep(context: Context, variants: Sequence[Variant], positions: int | None = None) -> Sweep:
    """Run every variant on every evaluation sequence."""
    whole = Sweep(context, variants, positions)
    whole.run(range(len(whole.panels)), range(len(variants)))
    return whole


def _order(clusters: Int[Tensor, " S"] | None, count: int, seed: int) -> Int[Tensor, " S"]:
    """Sequences at random; those of one document, in their order, one after the other."""
    generator = torch.Generator().manual_seed(seed + _ORDER)
    if clusters is None:
        return torch.randperm(count, generator=generator)
    _, index = clusters.unique(return_inverse=True)
    place = torch.randperm(int(index.max()) + 1, generator=generator)
    return torch.argsort(place[index], stable=True)


def _bounds(sequences: int, groups: int, group: int) -> tuple[int, int]:
    """First and last sequence of a group; sizes differ by at most one."""
    return group * sequences // groups, (group + 1) * sequences // groups


def _panels(sequences: int, groups: int, panel: int) -> list[tuple[int, int]]:
    """Columns of each panel, which holds whole groups."""
    together = -(-panel // GROUP)
    cuts = [_bounds(sequences, groups, g)[0] for g in range(0, groups, together)]
    return list(zip(cuts, [*cuts[1:], sequences], strict=True))


def _permutation(count: int, seed: int, group: int, draw: int) -> Int[Tensor, " N"]:
    generator = torch.Generator().manual_seed((seed + _SHUFFLE) * 1_000_003 + group * 1009 + draw)
    return torch.randperm(count, generator=generator)

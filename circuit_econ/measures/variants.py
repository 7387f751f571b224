"""What a sweep can do to a model: where it begins, and how the stream moves there.

Every variant replaces what components write by a baseline, in the stream (:class:`Variant`), in all
that is read but by the logits (:class:`Mediated`), or in what a single reader sees (:class:`Cut`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from circuit_econ.model import Model, Trace
from circuit_econ.model.draws import drawing
from circuit_econ.model.intervene import Baselines, Component
from circuit_econ.model.records import Ports
from circuit_econ.model.transfer import send
from circuit_econ.tables import Baseline, Kind

__all__ = ["Cut", "Layer", "Mediated", "Piece", "Reader", "Sequences", "Variant"]

_SHUFFLE = 3
"""Keeps the placebo's draws apart from others of the seed."""

Later = list[tuple[Component, Tensor]]
"""Components above the place where a variant starts, and what stands there instead."""


@dataclass(slots=True)
class Layer:
    """What the clean pass, and that of the donors, left behind at a layer."""

    trace: Trace
    donors: Trace | None
    _ports: Ports | None = None

    def ports(self, model: Model, layer: int) -> Ports:
        """What the layer's heads read in the clean pass; computed once, where an edge is cut."""
        if self._ports is None:
            self._ports = model.ports(layer, self.trace.streams[2 * layer])
        return self._ports

    def outputs(self) -> Layer:
        """What its components wrote, without the streams."""
        donors = None if self.donors is None else Trace({}, self.donors.heads, self.donors.mlps)
        return Layer(Trace({}, self.trace.heads, self.trace.mlps), donors)


@dataclass(slots=True)
class Sequences:
    """Sequences of a panel, and what stands in a component's place on them.

    Attributes:
        model: The model.
        baselines: Measured on the reference.
        tokens: ``[S, T]``.
        donor_tokens: Those of each sequence's donor, for ``resample``.
        groups: First and last row of each group that placebos are shuffled within, by its number.
        seed: Of the shuffles.
        later: Donors' outputs at layers that the pass has not reached.
    """

    model: Model
    baselines: Baselines
    tokens: Tensor
    donor_tokens: Tensor | None
    groups: dict[int, slice]
    seed: int
    later: Trace | None = None

    def ahead(self, part: Component, baseline: str, rows: slice) -> Tensor:
        """What stands in a component's place at a layer that the clean pass has not reached."""
        width = self.model.config.d_head if part.kind is Kind.HEAD else self.model.config.d_model
        like = torch.empty(1, 1, width, dtype=self.model.dtype, device=self.model.device)
        donors = None
        if self.later is not None and self.donor_tokens is not None:
            donors = self.later, self.donor_tokens
        instead = self.baselines.replacement(part, baseline, like, donors)
        instead = instead if instead.ndim == 3 else instead[None]
        return instead[rows] if len(instead) == len(self.tokens) else instead


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a panel under one variant, with what they start from.

    Attributes:
        number: Of the variant.
        place: Where it starts.
        rows: Which rows of the panel.
        layer: Below that place.
        source: Where the clean outputs of what is taken out are: a lower layer if an edge is cut.
        sequences: The panel's.
    """

    number: int
    place: int
    rows: slice
    layer: Layer
    source: Layer
    sequences: Sequences

    @property
    def length(self) -> int:
        """How many rows."""
        return self.rows.stop - self.rows.start

    def stream(self) -> Tensor:
        """The clean stream at the place, ``[rows, T, D]``."""
        return self.layer.trace.streams[self.place][self.rows]

    def change(self, part: Component, baseline: str) -> Tensor:
        """Baseline minus output of a component, ``[rows, T, width]``."""
        at = self.sequences
        output = part.output(at.model, self.source.trace, at.tokens)[self.rows]
        donors = None
        if self.source.donors is not None and at.donor_tokens is not None:
            donors = self.source.donors, at.donor_tokens
        instead = at.baselines.replacement(part, baseline, output, donors)
        return (instead[self.rows] if baseline == Baseline.RESAMPLE else instead) - output

    def shuffled(self, part: Component, baseline: str, draw: int) -> Tensor:
        """The same changes at other sequences and positions of the group, drawn once a run."""
        found, at = [], self.sequences
        length = at.tokens.shape[1]
        for group, whole in at.groups.items():
            rows = slice(max(self.rows.start, whole.start), min(self.rows.stop, whole.stop))
            if rows.start >= rows.stop:
                continue
            change = replace(self, rows=whole).change(part, baseline)
            order = _permutation(len(change) * length, at.seed, group, draw)
            here = slice((rows.start - whole.start) * length, (rows.stop - whole.start) * length)
            taken = change.flatten(0, 1)[send(order[here], change.device)]
            found.append(taken.view(-1, length, change.shape[-1]))
        return torch.cat(found)


@dataclass(frozen=True, slots=True)
class Variant:
    """A set of components taken out of the stream under one baseline.

    Attributes:
        parts: What is taken out.
        baseline: What stands in its place.
        placebo: Whether its changes are shuffled, so that they are the same amounts of the same
            directions without their meaning.
        draw: Numbers independent shuffles.
    """

    parts: tuple[Component, ...]
    baseline: str
    placebo: bool = False
    draw: int = 0

    def start(self, model: Model) -> int:
        """The first place of the stream that differs."""
        return min(part.place(model) for part in self.parts)

    @property
    def supplier(self) -> int | None:
        """Layer whose outputs wait until the variant starts; None if it starts there."""
        return None

    @property
    def restored(self) -> bool:
        """Whether the stream is moved back before the logits read."""
        return False

    def ahead(self, model: Model) -> Iterator[Component]:
        """Its components above the place where it starts."""
        return (part for part in self.parts if part.place(model) > self.start(model))

    def move(self, piece: Piece) -> tuple[Tensor, Later]:
        """How the stream moves where the variant starts, and what it replaces further on."""
        model = piece.sequences.model
        moved = torch.zeros((), dtype=model.dtype, device=model.device)
        later: Later = []
        for part in self.parts:
            if part.place(model) > piece.place:
                later.append((part, piece.sequences.ahead(part, self.baseline, piece.rows)))
            elif self.placebo:
                moved = moved + part.write(model, piece.shuffled(part, self.baseline, self.draw))
            else:
                moved = moved + part.write(model, piece.change(part, self.baseline))
        return moved.expand(piece.stream().shape), later


@dataclass(frozen=True, slots=True)
class Mediated(Variant):
    """A component taken out of the stream and put back before the logits read it."""

    @property
    def restored(self) -> bool:
        """Yes."""
        return True


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

    def respond(self, change: Tensor, piece: Piece) -> Tensor:
        """What it writes if the stream it reads is changed, less what it writes otherwise.

        For the logits, which write nothing, the change itself.
        """
        if self.component is None:
            return change
        model, rows, trace = piece.sequences.model, piece.rows, piece.layer.trace
        layer, head = self.component.layer, self.component.head
        assert layer is not None, "embeddings read nothing"
        if head is None:
            entering = trace.streams[2 * layer if model.config.parallel else 2 * layer + 1]
            return model.mlp(layer, entering[rows] + change) - trace.mlps[layer][rows]
        clean = piece.layer.ports(model, layer)
        seen = model.ports(layer, trace.streams[2 * layer][rows] + change)
        shared = head // model.config.group
        q, k, v = (
            (getattr(seen, port) if port == self.port else getattr(clean, port)[rows])[:, at, None]
            for port, at in (("q", head), ("k", shared), ("v", shared))
        )
        output = model.mix(layer, q, k, v)[:, :, 0]
        return model.write_head(layer, head, output - trace.heads[layer][rows][:, :, head])


@dataclass(frozen=True, slots=True)
class Cut(Variant):
    """A component taken out of what a reader sees, everything else following: an edge is cut.

    With several components all their edges to the reader are cut at once; they are of one layer.

    Attributes:
        reader: Who sees the baseline in their place.
    """

    reader: Reader = Reader(None, "in")

    def start(self, model: Model) -> int:
        """The first place that holds what the reader wrote."""
        return self.reader.place(model)

    @property
    def supplier(self) -> int | None:
        """The layer of what is taken out."""
        return self.parts[0].layer

    def move(self, piece: Piece) -> tuple[Tensor, Later]:
        """How the stream moves by what the reader writes instead."""
        model = piece.sequences.model
        change = torch.zeros((), dtype=model.dtype, device=model.device)
        for part in self.parts:
            change = change + part.write(model, piece.change(part, self.baseline))
        moved = self.reader.respond(change, piece)
        # What is computed again differs by rounding where nothing was taken out.
        return moved * (change != 0).flatten(1).any(1)[:, None, None], []


def _permutation(count: int, seed: int, group: int, draw: int) -> Tensor:
    generator = drawing((seed + _SHUFFLE) * 1_000_003 + group * 1009 + draw)
    return torch.randperm(count, generator=generator)

"""One baseline's economy: incomes, flows and prices integrated along the dial, and their errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_econ.measures.base import Context
from circuit_econ.measures.flows import pairs, trade
from circuit_econ.measures.income_pass import Dialled
from circuit_econ.measures.plan import FREE_SHARE, free_memory
from circuit_econ.measures.statistics import ratio_estimate
from circuit_econ.model.intervene import Baselines, Component, components, draw_donors
from circuit_econ.tables import Baseline, Kind

__all__ = ["WITHOUT_REFERENCE", "Economy", "Sums", "nodes_of"]

WITHOUT_REFERENCE = (Baseline.ZERO, Baseline.RESAMPLE)
"""Baselines that no mean over the reference enters."""

_DONORS = 1
"""Keeps the draw of donors apart from others of the seed; they are the donors of ``value``."""

_GROUPS = 64
"""Most groups of documents that flows are kept apart for."""


def nodes_of(count: int) -> list[tuple[float, float]]:
    """Gauss–Legendre nodes on [0, 1], each with its weight."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return list(zip((0.5 + 0.5 * nodes).tolist(), (0.5 * weights).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Sums:
    """Integrals over the dial, in nats summed over scored positions; float64.

    Attributes:
        income: By stage, component and group of sequences, ``[stages, C, G]``.
        signal: By supplier and port, over all sequences, ``[F]``.
        crowding: Likewise.
        flow: Signal and crowding together, by group, ``[F, G]``.
        price: By node (not integrated) and port, ``[nodes, R]``.
    """

    income: Float[Tensor, "stages C G"]
    signal: Float[Tensor, " F"]
    crowding: Float[Tensor, " F"]
    flow: Float[Tensor, "F G"]
    price: Float[Tensor, "nodes R"]


class Economy:
    """A model under one baseline.

    Attributes:
        suppliers: Components with a dial, in the order of the forward pass.
        pairs: Supplier and port of every flow.
        ports: Who reads.
        counts: Scored positions of each group of sequences, ``[G]``.
    """

    def __init__(self, context: Context, baseline: str) -> None:
        """Measure the baseline."""
        model, evaluation = context.model, context.evaluation
        self.context, self.baseline = context, baseline
        self.dialled = Dialled(model)
        self.suppliers, self.pairs = self.dialled.suppliers, pairs(self.dialled)
        self.ports = [port for _, ports in self.dialled.readers for port in ports]
        parts = components(model.config, embeddings=False)
        self._sublayers = [list(p) for _, p in groupby(parts, lambda p: (p.layer, p.kind))]
        same_set = evaluation.reference is None
        pool = evaluation.tokens if evaluation.reference is None else evaluation.reference
        self._pool = pool.to(model.device)
        self._donor_of = draw_donors(
            len(evaluation.tokens), len(pool), same_set=same_set, seed=context.seed + _DONORS
        )
        self._baselines = self._measured_on(self._pool)
        self._group = _groups(evaluation.clusters, len(evaluation.tokens))
        scored = (evaluation.targets >= 0).sum(1).double()
        self.counts = scored.new_zeros(int(self._group.max()) + 1)
        self.counts.index_add_(0, self._group, scored)

    def losses(self) -> tuple[float, float]:
        """Nats per scored position of the model, and with everything at the baseline."""
        total = torch.zeros(2, dtype=torch.float64)
        for tokens, targets, _, bases in self._panels(None, self._baselines, 1):
            for which, alpha in enumerate((1.0, 0.0)):
                total[which] += self.dialled.losses(tokens, targets, bases, alpha).sum().cpu()
        clean, ablated = (total / self.counts.sum()).tolist()
        return clean, ablated

    def integrate(self, nodes: int) -> Sums:
        """Incomes, in one stage, and all flows, by Gauss–Legendre quadrature."""
        return self._integrate(nodes, None, self._baselines)

    def by_stage(self, nodes: int) -> Float[Tensor, "stages C G"]:
        """Incomes by stage."""
        income = _zeros(self.dialled.stages, len(self.suppliers), len(self.counts))
        for tokens, targets, groups, bases in self._panels(
            None, self._baselines, self.dialled.stages
        ):
            for alpha, weight in nodes_of(nodes):
                found = self.dialled.run(tokens, targets, bases, alpha, self.dialled.stages)
                income.index_add_(2, groups, weight * found.income.cpu())
        return income

    def mean(self, sums: Float[Tensor, "*rows G"]) -> Float[Tensor, "*rows"]:
        """Nats per scored position."""
        return sums.sum(-1) / self.counts.sum()

    def half(self, sums: Float[Tensor, "*rows G"], which: int) -> Float[Tensor, "*rows"]:
        """Nats per scored position of every other group; NaN where there is none."""
        return sums[..., which::2].sum(-1) / self.counts[which::2].sum()

    def errors(
        self, fine: Sums, rough: Sums, nodes: int, groups: int
    ) -> tuple[Float[Tensor, " C"], Float[Tensor, " F"]]:
        """Standard errors of incomes and flows, over evaluation and reference sequences.

        Args:
            fine: What is reported.
            rough: The same with fewer nodes, which leaving out is compared with.
            nodes: How many.
            groups: Of the reference; 0 for errors given this baseline.
        """
        found = [ratio_estimate(x, self.counts)[1] for x in (fine.income[0], fine.flow)]
        if groups and self.baseline not in WITHOUT_REFERENCE:
            parts = self._leave_out(rough, nodes, groups)
            found = [(se.square() + v).sqrt() for se, v in zip(found, parts, strict=True)]
        return found[0], found[1]

    def _leave_out(self, rough: Sums, nodes: int, groups: int) -> list[Tensor]:
        """Jackknife variances of incomes and flows over groups of reference sequences.

        Each group's effect is seen on its own share of the evaluation sequences.
        """
        groups = min(groups, len(self._pool), len(self.counts))
        if groups < 2:
            return [torch.full_like(x[:, 0], math.nan) for x in (rough.income[0], rough.flow)]
        number = torch.arange(len(self._pool)) % groups
        effects: list[list[Tensor]] = [[], []]
        for group in range(groups):
            baselines = self._measured_on(self._pool[(number != group).to(self._pool.device)])
            mine = (self._group % groups == group).nonzero()[:, 0]
            moved = self._integrate(nodes, mine, baselines)
            share = slice(group, None, groups)
            scored = self.counts[share].sum()
            for kept, new, old in zip(
                effects, (moved.income[0], moved.flow), (rough.income[0], rough.flow), strict=True
            ):
                kept.append((new - old)[:, share].sum(1) / scored)
        return [torch.stack(e).var(0) * (groups - 1) ** 2 / groups for e in effects]

    def _integrate(self, nodes: int, index: Tensor | None, baselines: Baselines) -> Sums:
        """Over some sequences (all by default) with a baseline measured somewhere."""
        flows, groups = len(self.pairs), len(self.counts)
        sums = Sums(
            _zeros(1, len(self.suppliers), groups),
            _zeros(flows),
            _zeros(flows),
            _zeros(flows, groups),
            _zeros(nodes, len(self.ports)),
        )
        for tokens, targets, group, bases in self._panels(index, baselines, 1):
            for node, (alpha, weight) in enumerate(nodes_of(nodes)):
                found = self.dialled.run(tokens, targets, bases, alpha)
                sold = trade(found)
                signal, crowding = weight * sold.signal.cpu(), weight * sold.crowding.cpu()
                sums.income.index_add_(2, group, weight * found.income.cpu())
                sums.flow.index_add_(1, group, signal + crowding)
                sums.signal.add_(signal.sum(1))
                sums.crowding.add_(crowding.sum(1))
                sums.price[node] += sold.price.sum(1).cpu()
        return sums

    def _panels(
        self, index: Int[Tensor, " S"] | None, baselines: Baselines, stages: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, list[Tensor]]]:
        """Tokens, targets, groups and what the components of each sublayer fall back to."""
        model, evaluation = self.context.model, self.context.evaluation
        chosen = torch.arange(len(evaluation.tokens)) if index is None else index
        budget = FREE_SHARE * free_memory(model.device) / model.dtype.itemsize
        fit = int(budget / self.dialled.numbers(evaluation.length, stages))
        for at in chosen.split(max(1, min(self.context.plan.panel, fit))):
            tokens, targets = (
                x[at].to(model.device) for x in (evaluation.tokens, evaluation.targets)
            )
            donors = None
            if self.baseline == Baseline.RESAMPLE:
                theirs = self._pool[self._donor_of[at].to(model.device)]
                with torch.no_grad():
                    donors = model.trace(theirs), theirs
            bases = []
            for parts in self._sublayers:
                like = model.weights.embed.new_zeros(1, evaluation.length, self._width(parts[0]))
                found = [baselines.replacement(p, self.baseline, like, donors) for p in parts]
                bases.append(torch.stack(found, -2))
            del donors  # while nodes run, memory is for their passes
            yield tokens, targets, self._group[at], bases

    def _width(self, part: Component) -> int:
        c = self.context.model.config
        return c.d_head if part.kind is Kind.HEAD else c.d_model

    def _measured_on(self, reference: Tensor) -> Baselines:
        parts: Sequence[Component] = [p for sublayer in self._sublayers for p in sublayer]
        model, panel = self.context.model, self.context.plan.panel
        return Baselines(model, reference, [self.baseline], parts, panel=panel)


def _groups(clusters: Tensor | None, sequences: int) -> Int[Tensor, " S"]:
    """Which group of documents each sequence is in: a document of its own while there are few."""
    number = torch.arange(sequences)
    if clusters is not None:
        number = clusters.unique(return_inverse=True)[1]
    return number % _GROUPS


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)

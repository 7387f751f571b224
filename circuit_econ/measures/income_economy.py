"""One baseline's economy: incomes, flows and prices integrated along the dial, and their errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_econ.measures.base import Context
from circuit_econ.measures.flows import pairs, trade
from circuit_econ.measures.income_memory import GROUPS, Cut
from circuit_econ.measures.income_pass import Dialled
from circuit_econ.measures.quadrature import Rule, rule
from circuit_econ.measures.statistics import ratio_estimate
from circuit_econ.model.intervene import Baselines, Component, components, draw_donors
from circuit_econ.tables import Baseline, Kind

__all__ = ["WITHOUT_REFERENCE", "Economy", "Found", "Path", "Sums"]

WITHOUT_REFERENCE = (Baseline.ZERO, Baseline.RESAMPLE)
"""Baselines that no mean over the reference enters."""

_DONORS = 1
"""Keeps the draw of donors apart from others of the seed; they are the donors of ``value``."""

_SAFETY = 10.0
"""How much worse than by its own convergence an integral may be."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Integrals over the dial by one rule, in nats summed over scored positions; float64.

    Attributes:
        rule: The rule.
        income: By stage, component and group of sequences, ``[stages, C, G]``.
        signal: By supplier and port, over all sequences, ``[F]``.
        crowding: Likewise.
        flow: Signal and crowding together, by group, ``[F, G]``.
    """

    rule: Rule
    income: Float[Tensor, "stages C G"]
    signal: Float[Tensor, " F"]
    crowding: Float[Tensor, " F"]
    flow: Float[Tensor, "F G"]

    @property
    def earned(self) -> Float[Tensor, "C G"]:
        """Incomes of all stages together."""
        return self.income.sum(0)


@dataclass(frozen=True, slots=True)
class Path:
    """What is known along the dial: at every node of a rule, in nats per scored position.

    Attributes:
        alphas: The nodes.
        losses: Of the model as dialled, ``[n]``.
        earned: By each component, −∂L/∂α_c, ``[n, C]``.
        flows: By supplier and port, ``[n, F]``.
        prices: By port, ``[n, R]``.
    """

    alphas: list[float]
    losses: Float[Tensor, " n"]
    earned: Float[Tensor, "n C"]
    flows: Float[Tensor, "n F"]
    prices: Float[Tensor, "n R"]

    @property
    def slopes(self) -> Float[Tensor, " n"]:
        """What all components together earn, −dL/dα."""
        return self.earned.sum(1)


@dataclass(frozen=True, slots=True)
class Found:
    """What is known once a rule is done.

    Attributes:
        fine: Its sums.
        rough: Those of the rule with half the intervals.
        path: Losses, slopes and prices at its nodes.
    """

    fine: Sums
    rough: Sums
    path: Path

    @property
    def product(self) -> float:
        """L(all at baseline) − L(model), in nats per scored position."""
        return float(self.path.losses[0] - self.path.losses[-1])

    @property
    def missed(self) -> float:
        """How far incomes are from what is known between any two nodes, in nats per position.

        From one node to another all incomes together are the fall of the loss, exactly. What the
        rule makes of it misses this much of it at most, over all pairs of nodes: at least the gap,
        which may cancel where this does not. A step between two nodes, which no rule sees, is seen
        here.
        """
        between = torch.from_numpy(self.fine.rule.between)
        off = (-self.path.losses.diff() - between @ self.path.slopes).cumsum(0)
        return float(off.max().clamp(min=0.0) - off.min().clamp(max=0.0))


class Economy:
    """A model under one baseline.

    Attributes:
        suppliers: Components with a dial, in the order of the forward pass.
        pairs: Supplier and port of every flow.
        ports: Who reads.
        counts: Scored positions of each group of sequences, ``[G]``.
    """

    def __init__(self, context: Context, baseline: str, cut: Cut) -> None:
        """Measure the baseline; the work is cut as told."""
        model, evaluation = context.model, context.evaluation
        self._cut = cut
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
        # A document of its own while there are few.
        self._group = evaluation.document_of % GROUPS
        scored = (evaluation.targets >= 0).sum(1).double()
        self.counts = scored.new_zeros(int(self._group.max()) + 1)
        self.counts.index_add_(0, self._group, scored)

    def refine(self, first: int, last: int, stages: int) -> Iterator[Found]:
        """Incomes and all flows by ever finer rules, from one level to another.

        Nothing is measured twice: nodes of a rule are nodes of the next. What a node adds to a rule
        is added when the node is measured, for all rules to come, so that a flow is kept once per
        level and group of sequences and not once per node.

        Args:
            first: Level of the first rule, at least 2.
            last: Level of the last.
            stages: How many stages to keep incomes of apart.
        """
        levels = range(first - 1, last + 1)
        sums = [self._sums(level, stages) for level in levels]
        known: dict[float, list[Any]] = {}
        for level in levels[1:]:
            new = [a for a in rule(level).nodes.tolist() if a not in known]
            self._add(sums, new, None, self._baselines, stages, known)
            rough, *sums = sums  # nodes of finer rules have no part in it
            alphas = sorted(known)
            told = (
                torch.stack(x) / self.counts.sum()
                for x in zip(*(known[a] for a in alphas), strict=True)
            )
            yield Found(sums[0], rough, Path(alphas, *told))

    def integrate(self, level: int) -> Sums:
        """Incomes, in one stage, and all flows by one rule."""
        found = self._sums(level, 1)
        self._add([found], found.rule.nodes.tolist(), None, self._baselines, 1)
        return found

    def mean(self, sums: Float[Tensor, "*rows G"]) -> Float[Tensor, "*rows"]:
        """Nats per scored position."""
        return sums.sum(-1) / self.counts.sum()

    def half(self, sums: Float[Tensor, "*rows G"], which: int) -> Float[Tensor, "*rows"]:
        """Nats per scored position of every other group; NaN where there is none."""
        return sums[..., which::2].sum(-1) / self.counts[which::2].sum()

    def integration_errors(
        self, found: Found, tolerance: float
    ) -> tuple[Float[Tensor, " C"], Float[Tensor, " F"]]:
        """How far incomes and flows may be from their integrals, in nats per scored position.

        The larger of two:

        - how far the amount moved when intervals were halved, which is the error of the rule
          before. Where amounts settle (the largest move falls by a factor r), a rule is that much
          better than the one before; ten times as much is allowed for, and as r is that of all
          amounts together, no amount that happened to hold still is taken to be exact.
        - its part of what the rule misses of the known losses (:attr:`Found.missed`). Within the
          tolerance that is its share, by size, of the gap. Beyond it something is there that the
          nodes do not see, and whose it is is not known: it may be anybody's. What some gain and
          others lose at a step between two nodes, so that the loss does not show it, stays unseen.
        """
        weights = [rule(found.fine.rule.level - n).weights for n in range(3)]
        fine, rough, rougher = (torch.from_numpy(w) for w in weights)
        slopes, missed = found.path.slopes, found.missed
        gap, slope = abs(float(fine @ slopes) - found.product), float(fine @ slopes.abs())
        errors = []
        for amounts in (found.path.earned, found.path.flows):
            now, before = fine @ amounts, rough @ amounts[::2]
            moved, moved_before = (now - before).abs(), (before - rougher @ amounts[::4]).abs()
            most = float(moved_before.max())
            fall = min(1.0, float(moved.max()) / most) if most else 1.0
            settled = min(1.0, _SAFETY * fall)
            size = fine @ amounts.abs()
            share = size / slope if slope else torch.ones_like(size)
            if missed > tolerance:
                theirs = missed * share.clamp(min=1.0)
            else:
                theirs = max(gap, settled * missed) * share
            errors.append(
                torch.maximum(settled * torch.maximum(moved, fall * moved_before), theirs)
            )
        return errors[0], errors[1]

    def evaluation_errors(self, sums: Sums) -> tuple[Float[Tensor, " C"], Float[Tensor, " F"]]:
        """Standard errors of incomes and flows over evaluation sequences; NaN where unknown."""
        income, flow = (ratio_estimate(x, self.counts)[1] for x in (sums.earned, sums.flow))
        return income, flow

    def sampling_errors(
        self, found: Found, groups: int
    ) -> tuple[Float[Tensor, " C"], Float[Tensor, " F"]]:
        """Standard errors of incomes and flows, over evaluation and reference sequences.

        Args:
            found: What is reported; leaving out is done by the rule with half the intervals.
            groups: Of the reference; 0 for errors given this baseline.
        """
        income, flow = self.evaluation_errors(found.fine)
        if groups and self.baseline not in WITHOUT_REFERENCE:
            parts = self._leave_out(found.rough, groups)
            income, flow = (
                (se.square() + v).sqrt() for se, v in zip((income, flow), parts, strict=True)
            )
        return income, flow

    def _leave_out(self, rough: Sums, groups: int) -> list[Tensor]:
        """Jackknife variances of incomes and flows over groups of reference sequences.

        Each group's effect is seen on its own share of the evaluation sequences.
        """
        groups = min(groups, len(self._pool), len(self.counts))
        if groups < 2:
            return [torch.full_like(x[:, 0], math.nan) for x in (rough.earned, rough.flow)]
        number = torch.arange(len(self._pool)) % groups
        effects: list[list[Tensor]] = [[], []]
        for group in range(groups):
            baselines = self._measured_on(self._pool[(number != group).to(self._pool.device)])
            mine = (self._group % groups == group).nonzero()[:, 0]
            moved = self._sums(rough.rule.level, 1)
            self._add([moved], rough.rule.nodes.tolist(), mine, baselines, 1)
            share = slice(group, None, groups)
            scored = self.counts[share].sum()
            for kept, new, old in zip(
                effects, (moved.earned, moved.flow), (rough.earned, rough.flow), strict=True
            ):
                kept.append((new - old)[:, share].sum(1) / scored)
        return [torch.stack(e).var(0) * (groups - 1) ** 2 / groups for e in effects]

    def _sums(self, level: int, stages: int) -> Sums:
        """Nothing yet."""
        flows, groups, suppliers = len(self.pairs), len(self.counts), len(self.suppliers)
        return Sums(
            rule(level),
            _zeros(stages, suppliers, groups),
            _zeros(flows),
            _zeros(flows),
            _zeros(flows, groups),
        )

    def _add(
        self,
        sums: Sequence[Sums],
        alphas: Sequence[float],
        index: Tensor | None,
        baselines: Baselines,
        stages: int,
        known: dict[float, list[Any]] | None = None,
    ) -> None:
        """Measure nodes and add them to what several rules make of them.

        Args:
            sums: Of those rules.
            alphas: The nodes.
            index: Which sequences; all by default.
            baselines: What components fall back to.
            stages: How many stages to keep incomes of apart.
            known: Is told at each node, summed over sequences, what a :class:`Path` has.
        """
        for tokens, targets, group, bases in self._panels(index, baselines):
            for alpha in alphas:
                found = self.dialled.run(tokens, targets, bases, alpha, stages, self._cut.logits)
                sold = trade(found, self._cut.held)
                income, signal, crowding = (
                    x.cpu() for x in (found.income, sold.signal, sold.crowding)
                )
                flow = signal + crowding
                for kept in sums:
                    if not (weight := kept.rule.weight(alpha)):
                        continue
                    kept.income.index_add_(2, group, income, alpha=weight)
                    kept.flow.index_add_(1, group, flow, alpha=weight)
                    kept.signal.add_(signal.sum(1), alpha=weight)
                    kept.crowding.add_(crowding.sum(1), alpha=weight)
                if known is not None:
                    told = found.losses.sum(), income.sum((0, 2)), flow.sum(1), sold.price.sum(1)
                    before = known.get(alpha, [0.0] * len(told))
                    known[alpha] = [x + y.cpu() for x, y in zip(before, told, strict=True)]

    def _panels(
        self, index: Int[Tensor, " S"] | None, baselines: Baselines
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, list[Tensor]]]:
        """Tokens, targets, groups and what the components of each sublayer fall back to."""
        model, evaluation = self.context.model, self.context.evaluation
        chosen = torch.arange(len(evaluation.tokens)) if index is None else index
        for at in chosen.split(self._cut.panel):
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
        model = self.context.model
        return Baselines(model, reference, [self.baseline], parts, panel=self._cut.panel)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)

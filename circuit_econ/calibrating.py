"""How long measuring would take here: a rehearsal on two layers of the model's own widths.

What is timed is what a walk runs: the sweep and the other measures on a few of the run's own
sequences, with weights that cost nothing to make. Rates per sequence and layer carry over to the
whole model; numbers in the weights do not matter to a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Measure
from circuit_econ.measures.plan import GROUP
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.model import Model, ModelConfig
from circuit_econ.model.intervene import components
from circuit_econ.model.weights import blank
from circuit_econ.settings import Settings
from circuit_econ.tables import Baseline

__all__ = ["loading_seconds", "rehearse", "training_seconds"]

_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds that parts of a sweep take.

    Attributes:
        clean: Of a clean sequence, per layer.
        layer: Of an ablated sequence, per layer it runs through.
        row: Of a sequence besides: making and scoring it.
    """

    clean: float
    layer: float
    row: float


class Rehearsal:
    """Two layers of a model, and a few sequences of its evaluation set."""

    def __init__(self, config: ModelConfig, evaluation: Evaluation, settings: Settings) -> None:
        """Make the weights."""
        layers = min(_LAYERS, config.n_layers)
        self.small = replace(
            config,
            n_layers=layers,
            attention_scales=config.attention_scales[:layers],
            windows=config.windows[:layers],
        )
        self.config, self.evaluation, self.settings = config, evaluation, settings
        weights = blank(self.small, settings.dtype, settings.device)
        self.model = Model(self.small, weights, settings.rounding)
        self.plan = settings.plan(config, evaluation)

    def context(self, sequences: int) -> Context:
        """What a measure is given: the first sequences, with as many for reference."""
        e = self.evaluation
        few = min(sequences, len(e.tokens))
        reference = (e.tokens if e.reference is None else e.reference)[:few]
        data = Evaluation(e.tokens[:few], e.targets[:few], reference)
        return replace(self.settings.context(self.model, data, 0, self.plan), precision=None)

    def rates(self, variants: int) -> Rates:
        """Rates of a sweep that has so many variants: a small one never fills its chunks."""
        context = self.context(GROUP)
        context.baselines = (Baseline.ZERO,)
        rows = len(context.evaluation.tokens)
        parts = components(self.small, embeddings=False)
        first, last = parts[0], parts[-1]
        enough = max(1, min(variants, -(-4 * max(1, self.plan.rows) // rows)))

        def run(part: object, count: int) -> float:
            same = [Variant((part,), Baseline.ZERO)] * count  # type: ignore[arg-type]
            return _seconds(lambda: sweep(context, same), self.settings.device)

        nothing = run(last, 0)
        low, high = run(first, enough), run(last, enough)
        apart = (last.place(self.model) - first.place(self.model)) / 2
        layer = max(0.0, (low - high) / (enough * rows * apart)) if apart else 0.0
        row = max(0.0, (high - nothing) / (enough * rows))
        # Scoring does not grow with layers, and in small models it is most of a clean pass.
        clean = (nothing / rows - row) / self.small.n_layers
        return Rates(clean if clean > 0 else layer, layer, row)

    def measure(self, one: Measure) -> float:
        """Seconds of a measure that is no sweep: a part of the weights', one of each sequence."""
        options = self.settings.options[one.name]
        few, more = GROUP, 3 * GROUP

        def run(sequences: int) -> float:
            context = self.context(sequences)
            return _seconds(lambda: one.run(context, options), self.settings.device, 1)

        count = len(self.evaluation.tokens)
        short = run(few)
        if count <= few:
            total = short
        else:
            slope = max(0.0, (run(more) - short) / (min(more, count) - few))
            total = short + slope * (count - few)
        return total * one.growth(self.config, options) / one.growth(self.small, options)


def rehearse(config: ModelConfig, evaluation: Evaluation, settings: Settings) -> dict[str, float]:
    """Seconds of every measure at one checkpoint.

    Where a precision is asked for, a value takes as many sequences as it needs, which nobody knows
    before: the whole set is assumed, so that the time is the most it can take.
    """
    stage = Rehearsal(config, evaluation, settings)
    depths = {
        one.name: one.depths(config, evaluation, settings.baselines, settings.options[one.name])
        for one in settings.measures
        if one.depths is not None
    }
    rates = stage.rates(max(map(len, depths.values()))) if depths else None
    found: dict[str, float] = {}
    for one in settings.measures:
        if rates is not None and one.name in depths:
            found[one.name] = _sweep(config, evaluation, settings, depths[one.name], rates)
        else:
            found[one.name] = stage.measure(one)
    return found


def _sweep(
    config: ModelConfig,
    evaluation: Evaluation,
    settings: Settings,
    depths: Sequence[float],
    rates: Rates,
) -> float:
    sequences = len(evaluation.tokens)
    reference = sequences if evaluation.reference is None else len(evaluation.reference)
    clean = sequences + (reference if set(settings.baselines) - {Baseline.ZERO} else 0)
    clean += sequences * (Baseline.RESAMPLE in settings.baselines)
    total = rates.clean * clean * config.n_layers + rates.row * sequences
    for layers in depths:
        total += sequences * (rates.row + rates.layer * layers)
    return total


def training_seconds(
    config: ModelConfig, batch: int, length: int, steps: int, device: torch.device
) -> float:
    """Seconds of so many optimiser steps: a forward and a backward pass each, and the update."""
    weights = blank(config, torch.float32, device).map(lambda t: t.requires_grad_())
    model = Model(config, weights)
    tokens = torch.zeros(batch, length, dtype=torch.int64, device=device)
    optimiser = torch.optim.AdamW(model.parameters().values())

    def step() -> None:
        optimiser.zero_grad()
        model.loss(tokens, tokens).backward()
        optimiser.step()

    return steps * _seconds(step, device)


def loading_seconds(parameters: int) -> float:
    """Seconds until the first checkpoint is proven against its bridge.

    Importing transformer-lens is done here and timed. Building a bridge draws random weights before
    it is given those of the checkpoint, which takes 0.1 µs per parameter and 0.6 s besides
    (measured on two cores, 0.1 to 70 million parameters).
    """
    began = time.perf_counter()
    import transformer_lens  # noqa: F401

    return time.perf_counter() - began + 0.6 + 1e-7 * parameters


def _seconds(work: Callable[[], object], device: torch.device, warm: int = 2) -> float:
    """Of a run that is warm."""
    best = float("inf")
    for turn in range(warm + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
        if turn and best > 0.5:  # the first is cold
            break
    return best

"""What a measure is, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures.plan import Plan, Sizes
from circuit_econ.measures.precision import Precision
from circuit_econ.model import Model, ModelConfig
from circuit_econ.model.untrained import Untrained
from circuit_econ.tables import Baseline

__all__ = ["Context", "Measure", "Plan", "Progress", "Sizes"]

Progress = Callable[[float], None]
"""Told the fraction of a measure that is done."""


@dataclass(slots=True)
class Context:
    """One model under one evaluation set, for measures to look at.

    Attributes:
        model: The model, on its device.
        evaluation: Sequences, targets, reference, clusters.
        step: Optimiser step of the checkpoint.
        baselines: Which baselines to ablate with.
        plan: How to cut the work.
        seed: Root seed of the run.
        precision: Standard errors asked for; None measures every sequence.
        progress: Told the fraction done, by measures that take long.
        tables: What measures before this one wrote of the same checkpoint.
        untrained: Models of the same shape that were never trained, by seed.
        cache: Folder for what other runs of the same shape need again; None keeps nothing.
        reached: What untrained models reached, kept for all contexts of a run; None keeps nothing.
        bounds: From a baseline to what a flow must exceed to count, by class of edges; None where
            nobody asked which count, there or under any baseline.
    """

    model: Model
    evaluation: Evaluation
    step: int = 0
    baselines: tuple[str, ...] = (Baseline.MEAN,)
    plan: Plan = field(default_factory=Plan)
    seed: int = 0
    precision: Precision | None = None
    progress: Progress = lambda _: None
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    untrained: Untrained | None = None
    cache: Path | None = None
    reached: dict[str, pl.DataFrame] | None = None
    bounds: Callable[[str], Mapping[str, float] | None] | None = None

    @property
    def sizes(self) -> Sizes:
        """What decides how much memory a measure takes."""
        model = self.model
        return Sizes.of(model.config, self.evaluation, self.baselines, model.dtype, model.device)


@dataclass(frozen=True)
class Measure:
    """A measure.

    Attributes:
        name: As in ``measure=[…]``.
        settings: The dataclass of its settings, with defaults.
        tables: Tables it writes, all of them at every checkpoint.
        run: From a context and settings to those tables.
        passes: How many forward passes over the evaluation set it takes: for planning.
        memory: Bytes that it takes beside the weights, under a plan. It cuts its work so that these
            are no more than the plan allows, where it can.
        growth: What its seconds at a checkpoint are proportional to, in the size of the model; its
            number of layers by default. For planning.
        depths: For a measure that is a sweep: of every variant, how many layers run above the place
            where it starts. For planning.
        check: Raises a :class:`~circuit_econ.errors.ConfigurationError` if the settings do not go
            with a model.
        needs: Measures whose tables it reads: they are measured with it.
        across: Tables that are made of its own tables of all checkpoints, after the walk: from
            those, by name, to rows of all steps.
        bounds: For a measure that counts flows: what they must exceed, from a context, settings and
            a baseline (:attr:`Context.bounds`).
        version: Of its numbers: raised when the same checkpoint gives others than before. A ledger
            holds numbers of one version.
    """

    name: str
    settings: type
    tables: tuple[str, ...]
    run: Callable[[Context, Any], Mapping[str, pl.DataFrame]]
    passes: Callable[[ModelConfig, Evaluation, tuple[str, ...], Any], float]
    memory: Callable[[Sizes, Any, Plan], int]
    growth: Callable[[ModelConfig, Any], float] = lambda config, _settings: config.n_layers
    depths: Callable[[ModelConfig, Evaluation, tuple[str, ...], Any], list[float]] | None = None
    check: Callable[[ModelConfig, Any], None] = lambda _config, _settings: None
    needs: tuple[str, ...] = ()
    across: Callable[[Mapping[str, pl.DataFrame], Any], Mapping[str, pl.DataFrame]] | None = None
    bounds: Callable[[Context, Any, str], Mapping[str, float] | None] | None = None
    version: int = 1

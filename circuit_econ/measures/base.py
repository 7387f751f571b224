"""What a measure is, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import torch

from circuit_econ.evaluation import Evaluation
from circuit_econ.model import Model, ModelConfig
from circuit_econ.tables import Baseline

__all__ = ["Context", "Measure", "Plan", "Progress"]

Progress = Callable[[float], None]
"""Told the fraction of a measure that is done."""

_ACTIVATIONS = {"cpu": 4 << 20, "cuda": 2 << 30}


@dataclass(frozen=True, slots=True)
class Plan:
    """How the work is cut; part of ``run.yaml``, since sums depend on their order in the last bit.

    Attributes:
        panel: Sequences that are traced together.
        rows: Ablated sequences (variant × sequence) that run together.
    """

    panel: int = 8
    rows: int = 8

    def __post_init__(self) -> None:
        if self.panel < 1 or self.rows < 1:
            raise ValueError("a plan needs at least one sequence per panel and one row per chunk")

    @classmethod
    def choose(cls, config: ModelConfig, length: int, device: torch.device) -> Plan:
        """Rows such that a block's activations stay in cache on a CPU, and fill a GPU.

        On a CPU 4 MiB of activations per chunk; on a GPU at most 2 GiB and an eighth of what is
        free.
        """
        width = 4 * config.d_model + 3 * (config.d_mlp or 0)
        width += 2 * (config.n_heads + 2 * config.n_kv_heads) * config.d_head
        budget = _ACTIVATIONS.get(device.type, _ACTIVATIONS["cpu"])
        if device.type == "cuda":
            budget = min(budget, torch.cuda.mem_get_info(device)[0] // 8)
        return cls(panel=8, rows=max(1, budget // (4 * width * length)))


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
        progress: Told the fraction done, by measures that take long.
    """

    model: Model
    evaluation: Evaluation
    step: int = 0
    baselines: tuple[str, ...] = (Baseline.MEAN,)
    plan: Plan = field(default_factory=Plan)
    seed: int = 0
    progress: Progress = lambda _: None


@dataclass(frozen=True)
class Measure:
    """A measure.

    Attributes:
        name: As in ``measure=[…]``.
        settings: The dataclass of its settings, with defaults.
        tables: Tables it writes, all of them at every checkpoint.
        run: From a context and settings to those tables.
        passes: How many forward passes over the evaluation set it takes: for planning.
        check: Raises a :class:`~circuit_econ.errors.ConfigurationError` if the settings do not go
            with a model.
    """

    name: str
    settings: type
    tables: tuple[str, ...]
    run: Callable[[Context, Any], Mapping[str, pl.DataFrame]]
    passes: Callable[[ModelConfig, Evaluation, tuple[str, ...], Any], float]
    check: Callable[[ModelConfig, Any], None] = lambda _config, _settings: None

"""What a walk would do and cost, said before it is done: no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from circuit_econ.calibrating import loading_seconds, rehearse, training_seconds
from circuit_econ.config import RunConfig
from circuit_econ.errors import CheckpointError, ConfigurationError
from circuit_econ.fitting import check_fits
from circuit_econ.measures import Plan
from circuit_econ.measures.circuits import CIRCUITS
from circuit_econ.measures.edges import EDGES
from circuit_econ.measures.income import INCOME
from circuit_econ.measures.statistics import effective_units
from circuit_econ.measures.untrained_flows import PASSES
from circuit_econ.model import Format, ModelConfig, Source, read_config
from circuit_econ.model.weights import blank
from circuit_econ.runs import evaluation_of, training_of, trajectory_of
from circuit_econ.settings import DTYPES, Settings
from circuit_econ.tables import FEW
from circuit_econ.trajectory import open_trajectory

__all__ = ["Forecast", "forecast", "predict"]

_READING = 500e6
"""Bytes a second that checkpoints are read and hashed at, where nothing better is known."""

_NOWHERE = torch.device("meta")

_WRITING = 0.15
"""Seconds a checkpoint takes besides: its tables are on disk before the next one begins."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a walk would do.

    Attributes:
        name: The trajectory.
        parameters: Numbers in the weights.
        steps: Checkpoints it would measure.
        units: Sequences (documents, where several come from one) that errors would rest on.
        effective: How many of one size would tell as much
            (:func:`circuit_econ.measures.statistics.effective_units`).
        config: The model.
        plan: How the work would be cut.
        memory: Most bytes beside the weights, by measure and for the loss of a checkpoint.
        passes: Forward passes over the evaluation set per checkpoint, by measure.
        bytes: Of weights to read; None if not known.
        training_steps: Optimiser steps to take first; 0 if none.
        preparing: Seconds until the first checkpoint is measured, training included.
        measuring: Seconds per checkpoint, by measure, as rehearsed here.
    """

    name: str
    parameters: int
    steps: tuple[int, ...]
    units: int
    effective: float
    config: ModelConfig
    plan: Plan
    memory: dict[str, int]
    passes: dict[str, float]
    bytes: int | None
    training_steps: int
    preparing: float
    measuring: dict[str, float]

    @property
    def seconds(self) -> float:
        """Time it would take; weights are read while others are measured."""
        count = len(self.steps)
        busy = count * (sum(self.measuring.values()) + _WRITING)
        reading = (self.bytes or 0) / _READING
        return self.preparing + max(busy, reading) + reading / max(count, 1)


def forecast(run: RunConfig) -> Group:
    """A table of what a walk would do and cost.

    Raises:
        ConfigurationError: If the configuration names what does not exist.
            Also if the evaluation set does not go with the model.
        CheckpointError: If the first checkpoint's model is not supported.
    """
    found = predict(run)
    table = Table(show_header=False, title=Text(f"plan of study {run.study!r}"))
    rows = [
        ("trajectory", found.name),
        ("checkpoints", f"{len(found.steps)}: {_shown(found.steps)}"),
        ("model", _model(found.config)),
        ("training first", f"{found.training_steps} steps" if found.training_steps else "no"),
        ("errors rest on", _witnesses(found)),
        ("cut", f"{found.plan.panel} sequences traced, {found.plan.rows} ablated rows together"),
        *((f"memory, {k}", f"{_mb(v)} at most") for k, v in found.memory.items()),
        ("memory", _peak(found, run)),
        *((f"passes, {k}", f"{v:.1f} per checkpoint") for k, v in found.passes.items()),
        ("weights to read", "not known" if found.bytes is None else f"{found.bytes / 1e6:.1f} MB"),
        *((f"seconds, {k}", f"{v:.2f} per checkpoint") for k, v in found.measuring.items()),
        ("until the first", _duration(found.preparing)),
        ("time", f"{_most(run)}{_duration(found.seconds)}"),
        ("out", str(run.out)),
    ]
    for row in rows:
        table.add_row(*map(Text, row))  # Text: square brackets in a name are no markup
    note = (
        "Times are those of a rehearsal on two layers. Passes count the blocks that run: what lies "
        "below an ablated component is not repeated."
    )
    return Group(table, Text(note, style="dim"))


def predict(run: RunConfig) -> Forecast:
    """What a walk of a configuration would do; see :func:`forecast` for errors."""
    settings = Settings.make(
        run.measures, run.baselines, run.seed, run.dtype, run.device, run.settings,
        run.precision, run.memory,
    )  # fmt: skip
    evaluation = evaluation_of(run)
    name, steps, source, size, training = _trajectory(run)
    config = read_config(source)
    try:
        check_fits(config, evaluation)
    except CheckpointError as error:  # of any checkpoint: a walk would fail at all of them
        raise ConfigurationError(str(error)) from None
    for measure in settings.measures:
        measure.check(config, settings.options[measure.name])
    passes = {
        m.name: m.passes(config, evaluation, settings.baselines, settings.options[m.name])
        for m in settings.measures
    }
    plan = settings.plan(config, evaluation)
    needs = settings.needs(settings.sizes(config, evaluation))
    memory = {name: need(plan) for name, need in needs.items()}
    parameters = sum(t.numel() for _, t in blank(config, torch.float32, _NOWHERE).named())
    preparing = loading_seconds(parameters)
    if training:
        batch = run.trajectory["training"].batch
        preparing += training_seconds(config, batch, evaluation.length, training, settings.device)
    measuring = rehearse(config, evaluation, settings)
    if CIRCUITS.name in measuring:
        # Untrained models come first, once for the run and for all of its shape and data.
        each = measuring[INCOME.name] * PASSES / passes[INCOME.name]
        if EDGES.name in measuring:  # their effects, too, of the edges that flows choose
            each = 2 * each + measuring[EDGES.name] / len(settings.baselines)
        preparing += settings.options[CIRCUITS.name].untrained * each
    effective = effective_units((evaluation.targets >= 0).sum(1), evaluation.clusters)
    return Forecast(
        name, parameters, steps, evaluation.documents, effective, config, plan, memory, passes,
        size, training, preparing, measuring,
    )  # fmt: skip


def _trajectory(run: RunConfig) -> tuple[str, tuple[int, ...], Source, int | None, int]:
    """Name, steps, the first configuration as a source without tensors, bytes, training steps."""
    settings = run.trajectory
    if settings["kind"] == "trained":
        data, folder = training_of(run)
        training = settings["training"]
        config = training.model_fields(data)
        source = Source(Format.TRANSFORMER_LENS, config, {}, str(folder))
        saved = tuple(training.saved_steps)
        if not (folder / f"step_{saved[-1]}.safetensors").exists():
            return folder.name, saved, source, None, saved[-1]
        trajectory = open_trajectory(folder, steps=settings["steps"])
    else:
        trajectory = trajectory_of(run)
    first = trajectory.checkpoints[0]
    source = Source(trajectory.format(first.step), trajectory.config(first.step), {}, first.origin)
    sizes = [trajectory.bytes(step) for step in trajectory.steps]
    total = None if any(s is None for s in sizes) else sum(s for s in sizes if s is not None)
    return trajectory.name, trajectory.steps, source, total, 0


def _witnesses(found: Forecast) -> str:
    told = f"{found.units:,} sequences or documents"
    if found.effective < 0.9 * found.units:
        told += f", which tell as much as {found.effective:.1f} of one size"
    if found.effective < FEW:
        told += f"; below {FEW} intervals are wide: give more documents, or fewer sequences of each"
    return told


def _peak(found: Forecast, run: RunConfig) -> str:
    """The whole: what measuring takes and the weights that are there meanwhile."""
    itemsize = DTYPES[run.dtype][0].itemsize
    weights = found.parameters * itemsize
    peak = max(found.memory.values())
    return (
        f"{_mb(peak)} at most beside the weights, which are {_mb(weights)}; "
        f"{_mb(found.plan.memory)} may be taken"
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _most(run: RunConfig) -> str:
    return "about " if run.precision is None else "at most "


def _shown(steps: tuple[int, ...]) -> str:
    listed = [str(s) for s in steps]
    return ", ".join(listed if len(listed) <= 8 else [*listed[:4], "…", *listed[-2:]])


def _model(c: ModelConfig) -> str:
    layers = "1 layer" if c.n_layers == 1 else f"{c.n_layers} layers"
    kind = f"{layers} of {c.n_heads} heads" + ("" if c.d_mlp is None else " and an MLP")
    return f"{c.architecture}, {kind}, width {c.d_model}, vocabulary {c.d_vocab}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

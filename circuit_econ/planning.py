"""What a walk would do and cost, said before it is done: no weights are loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from circuit_econ.config import RunConfig
from circuit_econ.errors import CheckpointError, ConfigurationError
from circuit_econ.measures import Plan
from circuit_econ.model import Format, ModelConfig, Source, read_config
from circuit_econ.pipeline import check_fits
from circuit_econ.runs import evaluation_of, training_of, trajectory_of
from circuit_econ.settings import Settings
from circuit_econ.trajectory import open_trajectory

__all__ = ["Forecast", "forecast", "predict"]

_READING = 500e6
"""Bytes a second that checkpoints are read and hashed at, where nothing better is known."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a walk would do.

    Attributes:
        name: The trajectory.
        steps: Checkpoints it would measure.
        config: The model.
        plan: How the work would be cut.
        passes: Forward passes over the evaluation set per checkpoint, by measure.
        bytes: Of weights to read; None if not known.
        training_steps: Optimiser steps to take first; 0 if none.
        rate: Floating-point operations a second that this machine was just seen to do.
        operations: Floating-point operations in all, training included.
    """

    name: str
    steps: tuple[int, ...]
    config: ModelConfig
    plan: Plan
    passes: dict[str, float]
    bytes: int | None
    training_steps: int
    rate: float
    operations: float

    @property
    def seconds(self) -> float:
        """Time it would take, at the rate of plain matrix products."""
        return self.operations / self.rate + (self.bytes or 0) / _READING


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
        ("cut", f"{found.plan.panel} sequences traced, {found.plan.rows} ablated rows together"),
        *((f"passes, {k}", f"{v:.1f} per checkpoint") for k, v in found.passes.items()),
        ("weights to read", "not known" if found.bytes is None else f"{found.bytes / 1e6:.1f} MB"),
        ("operations", f"{found.operations:.2e} at {found.rate:.2e} a second here"),
        ("time", f"about {_duration(found.seconds)}"),
        ("out", str(run.out)),
    ]
    for row in rows:
        table.add_row(*map(Text, row))  # Text: square brackets in a name are no markup
    note = "Passes count the blocks that run: what lies below an ablated component is not repeated."
    return Group(table, Text(note, style="dim"))


def predict(run: RunConfig) -> Forecast:
    """What a walk of a configuration would do; see :func:`forecast` for errors."""
    settings = Settings.make(
        run.measures, run.baselines, run.seed, run.dtype, run.device, run.settings
    )
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
    per_pass = operations(config, evaluation.length) * len(evaluation.tokens)
    # A training step is a forward and a backward pass, which costs two.
    cost = len(steps) * sum(passes.values()) * per_pass
    if training:
        batch = run.trajectory["training"].batch
        cost += 3 * training * batch * operations(config, evaluation.length)
    rate = _calibrate(config, settings)
    plan = Plan.choose(config, evaluation.length, settings.device)
    return Forecast(name, steps, config, plan, passes, size, training, rate, cost)


def operations(config: ModelConfig, length: int) -> float:
    """Floating-point operations of one forward pass over one sequence."""
    c = config
    projections = (2 * c.n_heads + 2 * c.n_kv_heads) * c.d_head * c.d_model
    scores = 2 * c.n_heads * c.d_head * length  # both products, on average half masked
    mlp = (3 if c.gated else 2) * c.d_model * (c.d_mlp or 0)
    per_token = c.n_layers * (projections + scores + mlp) + c.d_model * c.d_vocab_out
    return 2.0 * per_token * length


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


def _calibrate(config: ModelConfig, settings: Settings) -> float:
    """Operations a second of products of the model's own shapes, over about a second."""
    place, dtype = settings.device, settings.dtype
    inner = config.d_mlp or config.n_heads * config.d_head
    rows = torch.randn(1024, config.d_model, device=place, dtype=dtype)
    weight = torch.randn(config.d_model, inner, device=place, dtype=dtype)
    product, done, began = rows, 0, time.perf_counter()
    while time.perf_counter() - began < 0.5:
        for _ in range(8):
            product = rows @ weight
        done += 8
        if place.type == "cuda":
            torch.cuda.synchronize(place)
    del product
    return done * 2.0 * rows.numel() * inner / (time.perf_counter() - began)


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

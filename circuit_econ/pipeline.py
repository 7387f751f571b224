"""The way through the house: open, audit, load ahead, measure, write, go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from circuit_econ.describing import describe, device_name, model_identity, notes
from circuit_econ.errors import (
    ENDING,
    CheckpointError,
    CircuitEconError,
    ConfigurationError,
    LedgerError,
    foreign,
    told,
)
from circuit_econ.evaluation import Evaluation
from circuit_econ.fitting import check_fits, components_table, run_shape
from circuit_econ.ledger import Ledger, LedgerWriter, differences
from circuit_econ.loading import loader, numbers
from circuit_econ.measures import Plan, Precision
from circuit_econ.measures.statistics import ratio_estimate
from circuit_econ.model import Model, Source, inventory, read_config
from circuit_econ.model.bridge import source_of
from circuit_econ.model.check import check_identity, compare
from circuit_econ.noticing import Noticed, check_steps
from circuit_econ.progress import Progress, Silent
from circuit_econ.proving import Prover
from circuit_econ.settings import Settings
from circuit_econ.tables import Status, make_table
from circuit_econ.trajectory import Trajectory, checkpoint_digest, findings, load_ahead
from circuit_econ.trajectory.ahead import Loaded

__all__ = ["measure", "walk"]

logger = logging.getLogger(__name__)

UNTRAINED = ".untrained"
"""Folder beside runs in which what untrained models of a shape measure is kept for all of them."""


def walk(
    trajectory: Trajectory,
    evaluation: Evaluation,
    measures: Sequence[str] = ("value", "capacity"),
    baselines: Sequence[str] = ("mean",),
    out: str | Path = "run",
    device: str | None = None,
    *,
    seed: int = 0,
    dtype: str = "float32",
    precision: Precision | Mapping[str, float] | None = None,
    memory: float | None = None,
    settings: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
    study: str = "walk",
    progress: Progress | None = None,
    remeasure: Sequence[int] = (),
) -> Ledger:
    """Measure every checkpoint of a trajectory and write the ledger.

    A run that was stopped, at whatever moment, continues where it was; more steps or measures
    extend the ledger. A checkpoint that cannot be measured, whatever was raised, is recorded with
    its reason, the rest go on, and the next walk tries it again; the traceback goes to the log, at
    level DEBUG.

    Args:
        trajectory: From :func:`circuit_econ.open_trajectory`.
        evaluation: The sequences, the same at every checkpoint.
        measures: Names of measures.
        baselines: Names of baselines to ablate with.
        out: The run's folder.
        device: ``cpu``, ``cuda``, ``cuda:1`` …; None means CUDA if there is one.
        seed: Root seed.
        dtype: ``float32``, ``float64``, ``tf32`` or ``bfloat16``.
        precision: Standard errors asked for, ``{"absolute": …, "relative": …}``: each component
            gets the sequences it needs. None measures every sequence.
        memory: GB that measuring may take beside the weights; half of what is free by default.
        settings: Settings objects of measures, by name.
        configuration: What ``run.yaml`` shall say of where the run came from.
        study: Name of the study, for the page.
        progress: Told what happens; nothing is shown by default.
        remeasure: Steps of which all is measured again, because the checkpoint changed.

    Returns:
        The ledger, open for reading.

    Raises:
        ConfigurationError: If a name does not exist, or a measure does not go with the model.
        LedgerError: If the folder cannot be written or holds another configuration's ledger, or if
            a checkpoint changed since it was measured.
    """
    chosen = Settings.make(measures, baselines, seed, dtype, device, settings, precision, memory)
    shown = progress or Silent()
    check_steps(trajectory)
    shape, model = run_shape(trajectory, evaluation, chosen)
    plan = chosen.plan(shape, evaluation)
    run = describe(trajectory, evaluation, chosen, plan, model, dict(configuration or {}), study)
    run["notes"] = notes(evaluation, shape)
    with LedgerWriter.open(out, run) as writer:
        for note in run["notes"]:
            logger.warning("%s", note)
        with foreign(LedgerError, f"run.yaml in {str(out)!r}: its plan is none"):
            kept = Plan(**writer.ledger.run["plan"])
            # The cut a run began with is kept, to the last bit, unless this machine has no room.
            plan = chosen.plan(shape, evaluation, kept)
        if not writer.has("components", None):
            writer.write("components", components_table(shape))
        noticed = Noticed(trajectory, writer, remeasure)
        todo = [s for s in trajectory.steps if not noticed.is_finished(s, chosen.measures)]
        shown.begin(len(trajectory.steps), len(todo))
        walker = _Walker(trajectory, evaluation, chosen, plan, writer, shown, noticed, model)
        walker.cache = Path(out).absolute().parent / UNTRAINED
        began = time.perf_counter()
        with shown, numbers(chosen.rounding):
            for loaded in _ahead(trajectory, todo, chosen):
                walker.visit(loaded)
                del loaded  # the next is unpacked when nothing of this one is left
        _audit(writer, shown)
        _across(writer, chosen)
        shown.finished(time.perf_counter() - began, walker.waited)
        return writer.ledger


def measure(
    bridge: Any,
    evaluation: Evaluation,
    measures: Sequence[str] = ("value",),
    baselines: Sequence[str] = ("mean",),
    device: str | None = None,
    *,
    seed: int = 0,
    dtype: str = "float32",
    precision: Precision | Mapping[str, float] | None = None,
    memory: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, pl.DataFrame]:
    """Measure one model in hand, without files; its tables carry step 0.

    Args:
        bridge: A ``TransformerBridge`` as booted (compatibility mode folds weights: refused).
        evaluation: The sequences.
        measures: Names of measures.
        baselines: Names of baselines.
        device: Where to compute.
        seed: Root seed.
        dtype: Of the numbers.
        precision: As for :func:`walk`.
        memory: As for :func:`walk`.
        settings: Settings objects of measures, by name.

    Raises:
        ConfigurationError: If a name does not exist.
        CheckpointError: If the model is not supported or does not go with the evaluation set.
        DisagreementError: If our forward pass is not the bridge's (for instance, a hook was left).
    """
    chosen = Settings.make(measures, baselines, seed, dtype, device, settings, precision, memory)
    missing = [name for name in ("cfg", "original_model") if not hasattr(bridge, name)]
    if missing:
        raise ConfigurationError(
            f"ce.measure takes a TransformerBridge, not {_called(bridge)}; boot one with "
            "TransformerBridge.boot_transformers(name), or walk over the folder of checkpoints"
        )
    with foreign(CheckpointError, f"{_called(bridge)} cannot be taken for a TransformerBridge"):
        source = source_of(bridge)
    model = chosen.load(source)
    check_fits(model.config, evaluation)
    compare(model, bridge, evaluation.tokens, evaluation.targets, "the bridge")
    check_identity(model, evaluation.tokens[:1])
    plan = chosen.plan(model.config, evaluation)
    tables: dict[str, pl.DataFrame] = {}
    reached: dict[str, pl.DataFrame] = {}
    with numbers(chosen.rounding):
        for one in chosen.measures:
            one.check(model.config, chosen.options[one.name])
            context = chosen.context(model, evaluation, 0, plan, source)
            context.tables, context.reached = tables, reached
            found = one.run(context, chosen.options[one.name])
            tables |= found
            if one.across is not None:
                tables |= one.across(found, chosen.options[one.name])
    return tables


class _Walker:
    """Measures checkpoints one by one and remembers what later ones are compared with."""

    def __init__(
        self,
        trajectory: Trajectory,
        evaluation: Evaluation,
        settings: Settings,
        plan: Plan,
        writer: LedgerWriter,
        progress: Progress,
        noticed: Noticed,
        model: Mapping[str, Any],
    ) -> None:
        self.trajectory, self.evaluation, self.settings = trajectory, evaluation, settings
        self.plan, self.writer, self.progress = plan, writer, progress
        self.noticed, self.model = noticed, model
        self.prover = Prover(evaluation, trajectory.steps[-1])
        self.cache: Path | None = None
        self.reached: dict[str, pl.DataFrame] = {}
        self.waited = 0.0

    def visit(self, loaded: Loaded) -> None:
        """Measure one checkpoint, or record why it cannot be: whatever is raised is its failure.

        A ledger that cannot be written, or that is of another checkpoint, ends the walk.
        """
        began = time.perf_counter()
        step = loaded.step
        self.progress.checkpoint(step)
        self.waited += loaded.seconds_waited
        digest = None if loaded.tensors is None else checkpoint_digest(loaded.tensors)
        if digest is not None:
            self.noticed.settle(step, digest)
        try:
            loss = self._visit(loaded, digest)
        except (LedgerError, *ENDING):
            raise
        except BaseException as error:  # compiled code raises what is no Exception
            reason = told(error)
            logger.debug("step %d", step, exc_info=error)
            self._record(loaded, digest, began, Status.FAILED, reason, (None, None))
            self.progress.failed(step, reason)
        else:
            self._record(loaded, digest, began, Status.MEASURED, "", loss)
            self.progress.measured(step)

    def _visit(self, loaded: Loaded, digest: str | None) -> tuple[float | None, float | None]:
        """Clean loss and its error, once every table is written."""
        if loaded.tensors is not None:
            self.writer.write("tensors", loaded.tensors, loaded.step, source=digest)
        if loaded.error is not None:
            raise loaded.error
        assert loaded.source is not None
        if self.noticed.is_complete(loaded.step, self.settings.measures):
            known = self.noticed.rows[loaded.step]  # its files were touched, and it is the same
            return known["loss"], known["loss_se"]
        model = self._prove(loaded, loaded.source)
        return self._measure(model, loaded.source, loaded.step, digest)

    def _prove(self, loaded: Loaded, source: Source) -> Model:
        """The model, if it is of the run and computes what the checkpoint does.

        Afterwards the checkpoint's own tensors are gone, and the next checkpoint is being read.
        """
        self._check_shape(source)
        ready = loaded.model
        model = self.prover.prove(source, loaded.step, lambda: ready or self.settings.load(source))
        source.tensors.clear()
        loaded.go_on()
        return model

    def _check_shape(self, source: Source) -> None:
        config = read_config(source)
        check_fits(config, self.evaluation)
        table = components_table(config)
        known = self.writer.ledger.table("components").collect()
        if not known.equals(table):
            raise CheckpointError(
                f"{source.origin}: its components are not those of the run: {table.height} "
                f"components in {config.n_layers} layers, {known.height} before; a run has one "
                "shape"
            )
        changed = differences(self.model, model_identity(source))
        if changed:
            raise CheckpointError(
                f"{source.origin}: its configuration is not that of the run, so its numbers would "
                f"be another model's: {'; '.join(changed).replace('asked for', 'here')}; walk it "
                "into an out of its own"
            )

    def _measure(
        self, model: Model, source: Source, step: int, digest: str | None
    ) -> tuple[float | None, float | None]:
        tables: dict[str, pl.DataFrame] = {}
        for number, one in enumerate(self.settings.measures):
            if all(self.writer.has(table, step) for table in one.tables):
                for table in one.tables:
                    known = self.writer.ledger.table(table).filter(pl.col("step") == step)
                    tables[table] = known.collect()
                continue
            options = self.settings.options[one.name]
            one.check(model.config, options)
            context = self.settings.context(model, self.evaluation, step, self.plan, source)
            context.tables, context.cache, context.reached = tables, self.cache, self.reached
            share = 1 / len(self.settings.measures)
            context.progress = lambda done, at=number, name=one.name, share=share: (
                self.progress.fraction(name, (at + done) * share)
            )
            for table, frame in one.run(context, options).items():
                self.writer.write(table, frame, step, source=digest)
                tables[table] = frame
        return _clean_loss(model, self.evaluation, self.plan)

    def _record(
        self,
        loaded: Loaded,
        digest: str | None,
        began: float,
        status: Status,
        reason: str,
        loss: tuple[float | None, float | None],
    ) -> None:
        columns = {
            "step": loaded.step,
            "tokens_seen": self.trajectory.checkpoint(loaded.step).tokens_seen,
            "status": str(status),
            "reason": reason,
            "loss": loss[0],
            "loss_se": loss[1],
            "digest": digest,
            "seconds": time.perf_counter() - began,
            "waited": loaded.seconds_waited,
            "device": device_name(self.settings.device),
            "dtype": self.settings.numbers,
        }
        self.writer.write(
            "checkpoints",
            make_table("checkpoints", columns),
            loaded.step,
            source=digest,
            files=self.noticed.stamps[loaded.step],
        )


@torch.no_grad()
def _clean_loss(
    model: Model, evaluation: Evaluation, plan: Plan
) -> tuple[float | None, float | None]:
    losses = []
    for rows in torch.arange(len(evaluation.tokens)).split(plan.panel):
        stream = model.run(model.embed(evaluation.tokens[rows].to(model.device)))
        targets = evaluation.targets[rows].to(model.device)
        losses.append(model.sequence_losses(stream, targets).cpu())
    counts = (evaluation.targets >= 0).sum(1)
    loss, se = ratio_estimate(torch.cat(losses), counts, evaluation.clusters)
    return float(loss), None if se.isnan() else float(se)


def _ahead(trajectory: Trajectory, steps: Sequence[int], settings: Settings) -> Iterator[Loaded]:
    """Checkpoints still to measure; the next is read, and put on a GPU if any, meanwhile."""
    if steps:
        make = loader(settings)
        yield from load_ahead(trajectory, steps, inventory=inventory, make=make, wait=True)


def _called(thing: object) -> str:
    return f"{thing!r}" if isinstance(thing, str | None) else type(thing).__name__


def _across(writer: LedgerWriter, settings: Settings) -> None:
    """Tables that hold what checkpoints say of each other: written anew after every walk."""
    for one in settings.measures:
        if one.across is None:
            continue
        tables = {name: writer.ledger.table(name).collect() for name in one.tables}
        steps = sorted({step for name in one.tables for step in writer.ledger.steps(name)})
        with foreign(
            CircuitEconError,
            f"{one.name}: what checkpoints say of each other cannot be told; all else is kept",
        ):
            found = one.across(tables, settings.options[one.name])
        for name, rows in found.items():
            for step in steps:
                writer.write(name, rows.filter(pl.col("step") == step), step)


def _audit(writer: LedgerWriter, progress: Progress) -> None:
    """The audit of the whole run: what it says of a step depends on the steps after it."""
    found = findings(writer.ledger.table("tensors").collect())
    for step in writer.ledger.steps("tensors"):
        writer.write("audit", found.filter(pl.col("step") == step), step)
    for row in found.iter_rows(named=True):
        progress.finding(row["step"], row["finding"], row["tensor"], row["detail"])

"""Evaluation sets and training batches by kind of source, as the configuration names them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.evaluation.documents import DatasetSource, EmbeddedSource, FileSource, TextSource
from circuit_econ.evaluation.parts import Part
from circuit_econ.evaluation.record import Evaluation
from circuit_econ.evaluation.settings import TaskSettings, TextSettings, check_tokens
from circuit_econ.evaluation.stream import TrainingData
from circuit_econ.evaluation.tasks import Task, make_task
from circuit_econ.evaluation.text import text_evaluation, text_training

__all__ = ["KINDS", "make", "training_data"]

KINDS: Final[dict[str, tuple[type[Any], ...]]] = {
    "embedded": (EmbeddedSource, TextSettings),
    "text": (TextSource, TextSettings),
    "file": (FileSource, TextSettings),
    "dataset": (DatasetSource, TextSettings),
    "task": (TaskSettings,),
}
"""Every kind of source, and the records whose fields are its settings."""

_FRUITLESS: Final = 50
"""Rounds without a new sequence, after which a task is taken to have no more."""
_MANY: Final = 4096
"""Sequences that make a round, however many are drawn in one."""


def make(kind: str, settings: Mapping[str, Any]) -> Evaluation:
    """The evaluation set of a source.

    Args:
        kind: One of :data:`KINDS`.
        settings: The fields of that kind's records, by name; the others keep their defaults.

    Raises:
        ConfigurationError: If a name is unknown or missing, or the source cannot give enough.
    """
    parsed = _parse(kind, settings)
    if kind == "task":
        return _task_evaluation(parsed[0])
    return text_evaluation(parsed[0], parsed[1])


def training_data(kind: str, settings: Mapping[str, Any], batch: int, seed: int) -> TrainingData:
    """Batches of the training part of a source.

    Of the settings only those that say what the data are matter: how many sequences are evaluated,
    and with which seed and part, changes neither the batches nor their digest.

    Args:
        kind: One of :data:`KINDS`.
        settings: As for :func:`make`.
        batch: Sequences per batch.
        seed: What the batches are drawn with.

    Raises:
        ConfigurationError: As :func:`make`.
    """
    parsed = _parse(kind, settings)
    if kind == "task":
        return _task_training(parsed[0], batch, seed)
    return text_training(parsed[0], parsed[1], batch, seed)


def _parse(kind: str, settings: Mapping[str, Any]) -> list[Any]:
    """The records of a kind, filled from settings by name."""
    if kind not in KINDS:
        raise unknown("evaluation source", kind, KINDS)
    known = {f.name: f for record in KINDS[kind] for f in fields(record)}
    for name in settings:
        if name not in known:
            raise unknown(f"setting of evaluation source {kind!r}", name, known)
    for name, f in known.items():
        needed = f.default is MISSING and f.default_factory is MISSING
        if needed and settings.get(name) is None:
            raise ConfigurationError(f"evaluation source {kind!r} needs the setting {name!r}")
    return [
        record(**{f.name: settings[f.name] for f in fields(record) if f.name in settings})
        for record in KINDS[kind]
    ]


def _task(settings: TaskSettings) -> Task:
    return make_task(
        settings.name,
        length=settings.length,
        vocabulary=settings.vocabulary,
        options=settings.options,
    )


def _describe(task: Task, part: Part) -> dict[str, Any]:
    return {"source": "task", "task": task.name, **asdict(task), "bos": False, "part": str(part)}


def _task_evaluation(settings: TaskSettings) -> Evaluation:
    """Different sequences, the reference's among them; every sequence stands alone."""
    task, part = _task(settings), Part(settings.part)
    check_tokens(settings, task.length)
    wanted = settings.sequences + settings.reference_sequences
    rng = np.random.default_rng([settings.seed])
    found: dict[bytes, tuple[Tensor, Tensor]] = {}
    fruitless = 0
    while len(found) < wanted:
        before = len(found)
        for tokens, targets in zip(*task.sample(wanted, rng, part), strict=True):
            found.setdefault(tokens.numpy().tobytes(), (tokens, targets))
        fruitless = 0 if len(found) > before else fruitless + wanted
        if fruitless >= _FRUITLESS * min(wanted, _MANY):
            raise ConfigurationError(
                f"task {task.name!r} has {len(found)} different sequences in the {part} part, and"
                f" {settings.sequences} + {settings.reference_sequences} are asked; lower sequences"
                " or reference_sequences, or raise vocabulary"
            )
    tokens, targets = _stack(list(found.values())[: settings.sequences])
    reference = list(found.values())[settings.sequences : wanted]
    return Evaluation(
        tokens,
        targets,
        reference=_stack(reference)[0] if reference else None,
        name=task.name,
        description=_describe(task, part)
        | {
            "sequences": settings.sequences,
            "reference_sequences": settings.reference_sequences,
            "seed": settings.seed,
            "reference_disjoint_by": "sequences" if reference else None,
        },
    )


def _task_training(settings: TaskSettings, batch: int, seed: int) -> TrainingData:
    task = _task(settings)
    return TrainingData(
        vocabulary=task.vocabulary,
        length=task.length,
        batch_size=batch,
        seed=seed,
        draw=lambda step: task.sample(batch, np.random.default_rng([seed, step]), Part.TRAIN),
        content=json.dumps(_describe(task, Part.TRAIN), sort_keys=True),
        description=_describe(task, Part.TRAIN),
    )


def _stack(rows: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    tokens, targets = zip(*rows, strict=True)
    return torch.stack(tokens), torch.stack(targets)

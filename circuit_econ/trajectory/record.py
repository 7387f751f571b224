"""A trajectory: one training run seen at checkpoints, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from circuit_econ.errors import ConfigurationError
from circuit_econ.model.source import Format, Source
from circuit_econ.trajectory.steps import StepsLike, parse_steps, shortened

__all__ = ["Checkpoint", "Reader", "Trajectory"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One saved state of a run.

    Attributes:
        step: Optimiser step, 0 for the initialisation.
        tokens_seen: Training tokens consumed until then; None where it is not known.
        origin: Where it lies, for messages: a path, or ``name@revision``.
    """

    step: int
    tokens_seen: int | None
    origin: str

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"a checkpoint's step is at least 0, not {self.step}")


@runtime_checkable
class Reader(Protocol):
    """Reads the checkpoints of one kind of source, by step."""

    @property
    def format(self) -> Format:
        """Whose names configurations and tensors use."""
        ...

    def config(self, step: int) -> dict[str, Any]:
        """The configuration alone, without opening weights."""
        ...

    def bytes(self, step: int) -> int | None:
        """Size of the weight files on this machine; None if they are not here."""
        ...

    def read(self, step: int) -> Source:
        """Configuration and tensors."""
        ...


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One training run, opened; nothing is loaded until a checkpoint is read.

    Attributes:
        name: Short name of the run: the folder's, or the repository's on the hub.
        origin: Where the run lies, for messages and records.
        checkpoints: By ascending step, at least one.
        reader: Knows how this kind of source is read.
    """

    name: str
    origin: str
    checkpoints: tuple[Checkpoint, ...]
    reader: Reader = field(repr=False)

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("a trajectory has at least one checkpoint")
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"checkpoints are not in ascending order of steps: {self.steps}")

    @property
    def steps(self) -> tuple[int, ...]:
        """Optimiser steps of the checkpoints, ascending."""
        return tuple(checkpoint.step for checkpoint in self.checkpoints)

    def checkpoint(self, step: int) -> Checkpoint:
        """The checkpoint at ``step``.

        Raises:
            ConfigurationError: If there is none; the message lists the steps that exist.
        """
        for checkpoint in self.checkpoints:
            if checkpoint.step == step:
                return checkpoint
        raise ConfigurationError(
            f"{self.origin} has no checkpoint at step {step}; there is: {shortened(self.steps)}"
        )

    def select(self, spec: StepsLike) -> Trajectory:
        """The same run at some of its checkpoints, see :func:`parse_steps` for ``spec``.

        Raises:
            ConfigurationError: If a step does not exist or nothing is selected.
        """
        chosen = set(parse_steps(spec)(self.steps, self.origin))
        return replace(self, checkpoints=tuple(c for c in self.checkpoints if c.step in chosen))

    def format(self, step: int) -> Format:
        """Whose names configuration and tensors of the checkpoint use."""
        self.checkpoint(step)
        return self.reader.format

    def config(self, step: int) -> dict[str, Any]:
        """The content of the checkpoint's ``config.json``; opens no weights.

        Raises:
            CheckpointError: If it is missing or cannot be read.
        """
        self.checkpoint(step)
        return self.reader.config(step)

    def bytes(self, step: int) -> int | None:
        """Size of the weight files in bytes; None if they are incomplete or not on this machine."""
        self.checkpoint(step)
        return self.reader.bytes(step)

    def read(self, step: int) -> Source:
        """Configuration and CPU tensors as saved. Never runs code that a file contains.

        Raises:
            CheckpointError: If this checkpoint cannot be read; others may still be.
        """
        self.checkpoint(step)
        return self.reader.read(step)

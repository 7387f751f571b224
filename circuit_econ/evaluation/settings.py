"""The settings of evaluation sets: how documents and generated tasks become sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.evaluation.parts import Part

__all__ = [
    "TaskSettings",
    "TextSettings",
    "check_flags",
    "check_number",
    "check_tokens",
    "check_whole",
]

_LARGEST: Final = 2**63 - 1
"""What generators and tables take."""
_LONGEST: Final = 2**20
"""Tokens of a sequence, ids of a vocabulary."""
_MOST_CASES: Final = 2**18
"""Sequences of a task, which are all different."""
_MOST_TOKENS: Final = 2**28
"""Tokens of evaluation and reference sequences together: 2 GB."""


def check_number(name: str, value: object, least: int = 0, most: int = _LARGEST) -> None:
    """Check that a value is a whole number within bounds.

    Raises:
        ConfigurationError: If it is not, by name.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"{name} must be a whole number of at least {least}, not {value!r}"
        )
    if value > most:
        raise ConfigurationError(f"{name} must be at most {most}, not {value}")


def check_whole(record: object, most: int = _LARGEST, **lowest: int) -> None:
    """Check that fields of a record are whole numbers, each at least so much.

    Raises:
        ConfigurationError: If one is not, by name.
    """
    for name, least in lowest.items():
        check_number(name, getattr(record, name), least, most)


def check_flags(record: object, *names: str) -> None:
    """Check that fields of a record are true or false.

    Raises:
        ConfigurationError: If one is not, by name.
    """
    for name in names:
        if not isinstance(value := getattr(record, name), bool):
            raise ConfigurationError(f"{name} must be true or false, not {value!r}")


def check_tokens(record: TextSettings | TaskSettings, length: int) -> None:
    """Check that the sequences asked for fit into memory.

    Raises:
        ConfigurationError: If not, with the numbers.
    """
    tokens = (record.sequences + record.reference_sequences) * length
    if tokens > _MOST_TOKENS:
        raise ConfigurationError(
            f"{record.sequences} + {record.reference_sequences} sequences of {length} tokens are"
            f" {tokens}, and at most {_MOST_TOKENS} are held; lower sequences or"
            " reference_sequences"
        )


def _check_part(name: str) -> None:
    if name not in list(Part):
        raise unknown("part", name, Part)


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How documents become sequences.

    Attributes:
        tokenizer: ``bytes``, ``bpe`` (trained on the training part), or the name or folder of a
            Hugging Face tokenizer.
        vocabulary: Number of ids of ``bpe``, BOS included (default 1024).
        length: Tokens per sequence, BOS included.
        sequences: Number of evaluation sequences.
        reference_sequences: Number of sequences held for baselines; 0 for none.
        bos: Whether each sequence begins with a BOS token.
        control_tokens: Whether text that mentions a control token of a Hugging Face tokenizer, such
            as ``</s>``, holds it. By default it is text like any other.
        seed: Which windows are drawn. Which documents are held out does not depend on it.
        part: ``heldout``; ``train`` to evaluate on what was trained on; ``all`` for models that
            were trained elsewhere.
    """

    tokenizer: str = "bytes"
    vocabulary: int | None = None
    length: int = 128
    sequences: int = 64
    reference_sequences: int = 64
    bos: bool = False
    control_tokens: bool = False
    seed: int = 0
    part: str = Part.HELDOUT

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_flags(self, "bos", "control_tokens")
        check_whole(self, sequences=1, reference_sequences=0, seed=0)
        check_whole(self, _LONGEST, length=2 + self.bos)
        if self.vocabulary is not None:
            check_whole(self, _LONGEST, vocabulary=1)
        check_tokens(self, self.length)
        _check_part(self.part)

    @property
    def body(self) -> int:
        """Tokens of text in a sequence."""
        return self.length - self.bos


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Which task, and how much of it.

    Attributes:
        name: One of ``induction``, ``modular-addition``, ``sorting``, ``two-cues``.
        length: Tokens per sequence (default: the task's own).
        vocabulary: Number of ids (default: the task's own).
        sequences: Number of evaluation sequences, all different.
        reference_sequences: Number of sequences held for baselines, none of them among the
            evaluation sequences; 0 for none.
        seed: Which sequences are drawn. Which cases are held out does not depend on it.
        part: ``heldout``; ``train`` to evaluate on what was trained on; ``all`` for models that
            were trained elsewhere.
        options: The task's other settings, by name.
    """

    name: str
    length: int | None = None
    vocabulary: int | None = None
    sequences: int = 256
    reference_sequences: int = 256
    seed: int = 0
    part: str = Part.HELDOUT
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_whole(self, _MOST_CASES, sequences=1, reference_sequences=0)
        check_whole(self, seed=0)
        for name in ("length", "vocabulary"):
            if getattr(self, name) is not None:
                check_whole(self, _LONGEST, **{name: 1})
        _check_part(self.part)

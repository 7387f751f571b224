"""Generated tasks whose right circuit is known: endless streams, in two parts that never meet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.evaluation.parts import Part, belongs
from circuit_econ.evaluation.record import UNSCORED
from circuit_econ.evaluation.settings import check_number
from circuit_econ.evaluation.stream import Batch

__all__ = ["TASKS", "Induction", "ModularAddition", "Sorting", "Task", "TwoCues", "make_task"]

_FRUITLESS: Final = 50
"""Rounds of draws without a case of the part asked for, after which there is none."""


_MOST_NUMBERS: Final = 2**24
"""Random numbers drawn at once."""


class Draw(NamedTuple):
    """Sequences of a task, before they are told apart by part.

    ``cases`` are equal for sequences that teach each other's answers.
    """

    tokens: Int64[np.ndarray, "sequence position"]
    targets: Int64[np.ndarray, "sequence position"]
    cases: Int64[np.ndarray, "sequence key"]


@dataclass(frozen=True, slots=True)
class Task(ABC):
    """A way to generate sequences.

    The part of a sequence is a hash of its case (:func:`~circuit_econ.evaluation.parts.held_out`),
    so no seed and no number of draws can bring a held-out case into training.

    Attributes:
        vocabulary: Number of ids.
        length: Tokens per sequence.
    """

    name: ClassVar[str]
    vocabulary: int
    length: int

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator) -> Draw:
        """That many sequences of either part."""

    def sample(self, count: int, rng: np.random.Generator, part: Part) -> Batch:
        """Tokens and targets of one part.

        Raises:
            ConfigurationError: If the settings leave the part without cases.
        """
        tokens: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        missing, fruitless = count, 0
        most = max(1, _MOST_NUMBERS // max(self.vocabulary, self.length))
        while missing > 0:
            drawn = self.draw(min(max(64, 2 * missing), most), rng)
            rows = np.flatnonzero(belongs(drawn.cases, part))[:missing]
            tokens.append(drawn.tokens[rows])
            targets.append(drawn.targets[rows])
            missing -= len(rows)
            fruitless = 0 if len(rows) else fruitless + 1
            if fruitless == _FRUITLESS:
                raise ConfigurationError(
                    f"task {self.name!r} has no {part} cases with vocabulary={self.vocabulary} and"
                    f" length={self.length}; raise vocabulary"
                )
        return torch.from_numpy(np.concatenate(tokens)), torch.from_numpy(np.concatenate(targets))

    def require(self, holds: bool, requirement: str) -> None:
        """Raise what the settings violate."""
        if not holds:
            given = ", ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))
            raise ConfigurationError(f"task {self.name!r} needs {requirement}; got {given}")


@dataclass(frozen=True, slots=True)
class Induction(Task):
    """Distinct random tokens, repeated until the context is full; the period differs by sequence.

    With one fixed period positions alone would give the answer. Scored is every position whose own
    token has occurred before: its next token is what followed then. The case is the set of tokens
    that are repeated, so training never shows a held-out set in any order.

    The circuit: a previous-token head, and a head that matches what it wrote (Elhage et al. 2021;
    Olsson et al. 2022).

    Attributes:
        shortest: The smallest period.
        longest: The largest period.
    """

    name: ClassVar[str] = "induction"
    vocabulary: int = 64
    length: int = 48
    shortest: int = 6
    longest: int = 24

    def __post_init__(self) -> None:
        """Check that every sequence can be built and has something to score."""
        self.require(2 <= self.shortest < self.longest, "2 <= shortest < longest")
        self.require(self.longest < self.length, "longest < length")
        self.require(self.longest <= self.vocabulary, "longest <= vocabulary")

    def draw(self, count: int, rng: np.random.Generator) -> Draw:
        """That many sequences of either part."""
        shuffled = rng.random((count, self.vocabulary)).argsort(axis=1)[:, : self.longest]
        period = rng.integers(self.shortest, self.longest + 1, size=(count, 1))
        place = np.arange(self.length + 1)
        text = np.take_along_axis(shuffled, place % period, axis=1)
        targets = np.where(place[:-1] >= period, text[:, 1:], UNSCORED)
        repeated = np.where(np.arange(self.longest) < period, shuffled, self.vocabulary)
        return Draw(text[:, :-1], targets, np.sort(repeated, axis=1))


@dataclass(frozen=True, slots=True)
class ModularAddition(Task):
    """``a b =`` and then (a + b) modulo the modulus, which is the vocabulary less the sign ``=``.

    Scored is the answer alone, at ``=``. The case is the unordered pair: ``b a`` is in the same
    part as ``a b``, or half of the held-out answers could be read off the training set.

    The circuit: sums by trigonometric identities in a few frequencies (Nanda et al. 2023).
    """

    name: ClassVar[str] = "modular-addition"
    vocabulary: int = 60
    length: int = 3

    def __post_init__(self) -> None:
        """Check that there is something to add."""
        self.require(self.length == 3, "length 3 (two numbers and '=')")
        self.require(self.vocabulary >= 3, "vocabulary >= 3 (the modulus and '=')")

    def draw(self, count: int, rng: np.random.Generator) -> Draw:
        """That many sequences of either part."""
        modulus = self.vocabulary - 1
        pair = rng.integers(modulus, size=(count, 2))
        tokens = np.column_stack([pair, np.full(count, modulus)])
        targets = np.full_like(tokens, UNSCORED)
        targets[:, -1] = pair.sum(axis=1) % modulus
        return Draw(tokens, targets, np.sort(pair, axis=1))


@dataclass(frozen=True, slots=True)
class Sorting(Task):
    """A list of distinct numbers, a sign, and the list in rising order.

    A list of n numbers takes 2n tokens: the last number of the answer is a target only. Scored is
    the answer. The case is the set of numbers, so every order of a held-out list is held out.

    The circuit: heads that attend to the next larger number of the list.
    """

    name: ClassVar[str] = "sorting"
    vocabulary: int = 33
    length: int = 12

    def __post_init__(self) -> None:
        """Check that the list fits."""
        self.require(self.length >= 4 and self.length % 2 == 0, "an even length of at least 4")
        self.require(
            self.vocabulary > self.length // 2, "vocabulary > length / 2 (numbers and a sign)"
        )

    def draw(self, count: int, rng: np.random.Generator) -> Draw:
        """That many sequences of either part."""
        sign, size = self.vocabulary - 1, self.length // 2
        numbers = rng.random((count, sign)).argsort(axis=1)[:, :size]
        answer = np.sort(numbers, axis=1)
        tokens = np.column_stack([numbers, np.full(count, sign), answer[:, :-1]])
        targets = np.column_stack([np.full((count, size), UNSCORED), answer])
        return Draw(tokens, targets, answer)


@dataclass(frozen=True, slots=True)
class TwoCues(Task):
    """Two different cues among noise, either of which alone gives the answer.

    The first cue stands at a random place in the first half, the second at a random place in the
    second half, the question at the end; they are different tokens, so that two circuits may supply
    the same good and ablating either costs nothing (an OR). Scored is the answer alone. Ids: the
    answers, the first cues, the second cues, the question, then noise. The case is the whole
    sequence.

    Attributes:
        answers: How many answers there are, each with a cue of either kind.
        one_cue: Share of sequences in which one of the two cues, either alike, is noise instead:
            above 0 no model can do with one circuit alone.
    """

    name: ClassVar[str] = "two-cues"
    vocabulary: int = 64
    length: int = 16
    answers: int = 8
    one_cue: float = 0.0

    def __post_init__(self) -> None:
        """Check that cues and noise fit."""
        self.require(self.length >= 3, "length >= 3 (two cues and the question)")
        self.require(self.answers >= 2, "answers >= 2")
        self.require(
            self.vocabulary >= 3 * self.answers + 3, "vocabulary >= 3 x answers + 3 (some noise)"
        )
        self.require(0 <= self.one_cue <= 1, "one_cue between 0 and 1")

    def draw(self, count: int, rng: np.random.Generator) -> Draw:
        """That many sequences of either part."""
        question, half = 3 * self.answers, (self.length - 1) // 2
        tokens = rng.integers(question + 1, self.vocabulary, size=(count, self.length))
        answer = rng.integers(self.answers, size=count)
        first = rng.integers(half, size=count)
        second = rng.integers(half, self.length - 1, size=count)
        # 0: both cues; 1: the first is missing; 2: the second is.
        missing = np.where(rng.random(count) < self.one_cue, rng.integers(1, 3, size=count), 0)
        for kind, place in ((1, first), (2, second)):
            rows = np.flatnonzero(missing != kind)
            tokens[rows, place[rows]] = kind * self.answers + answer[rows]
        tokens[:, -1] = question
        targets = np.full_like(tokens, UNSCORED)
        targets[:, -1] = answer
        return Draw(tokens, targets, tokens)


TASKS: Final[tuple[type[Task], ...]] = (Induction, ModularAddition, Sorting, TwoCues)
"""Every task; a new one is a class and an entry here."""


def make_task(
    name: str,
    *,
    length: int | None = None,
    vocabulary: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """The task of that name, with its own defaults where nothing is asked.

    Args:
        name: One of :data:`TASKS`.
        length: Tokens per sequence.
        vocabulary: Number of ids.
        options: The task's other fields, by name.

    Raises:
        ConfigurationError: If there is no such task or option, or the numbers do not fit together.
    """
    kinds = {task.name: task for task in TASKS}
    if name not in kinds:
        raise unknown("task", name, kinds)
    sizes = ("length", "vocabulary")
    known = {f.name: f.type for f in fields(kinds[name]) if f.name not in sizes}
    given = dict(options or {})
    for key in given:
        if key not in known:
            raise unknown(f"option of task {name!r}", key, known)
        if known[key] == "int":
            check_number(f"option {key}", given[key])
        elif isinstance(given[key], bool) or not isinstance(given[key], int | float):
            raise ConfigurationError(f"option {key} must be a number, not {given[key]!r}")
    asked = {"length": length, "vocabulary": vocabulary}
    return kinds[name](**given, **{k: v for k, v in asked.items() if v is not None})

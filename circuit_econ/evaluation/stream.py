"""Training batches that depend on the seed and the step alone, so that training can resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from circuit_econ.evaluation.record import Evaluation
from circuit_econ.evaluation.settings import check_whole

__all__ = ["Batch", "TrainingData"]

Batch = tuple[Int64[Tensor, "sequence position"], Int64[Tensor, "sequence position"]]
"""Tokens and targets."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """An endless stream of batches.

    Attributes:
        vocabulary: Number of token ids, for inputs and targets alike.
        length: Tokens per sequence.
        batch_size: Sequences per batch.
        seed: What the batches are drawn with.
        draw: Step to ``(tokens, targets)``, a function of nothing but the step.
        content: Identifies what the batches are drawn from: equal for equal data.
        description: What the batches are made of, as plain values.
    """

    vocabulary: int
    length: int
    batch_size: int
    seed: int
    draw: Callable[[int], Batch] = field(repr=False)
    content: str = field(repr=False)
    description: dict[str, Any]

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_whole(self, batch_size=1, seed=0)

    @property
    def digest(self) -> str:
        """SHA-256 of everything the batches depend on, where the data came from apart."""
        parts = (self.content, self.vocabulary, self.length, self.batch_size, self.seed)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def batch(self, step: int) -> Batch:
        """Tokens and targets of one step."""
        return self.draw(step)

    @staticmethod
    def from_evaluation(evaluation: Evaluation, batch: int, seed: int) -> TrainingData:
        """The sequences of an evaluation set, shuffled anew in every pass over them."""
        count = len(evaluation.tokens)

        def draw(step: int) -> Batch:
            turns = np.arange(step * batch, (step + 1) * batch)
            rows = np.empty(batch, np.int64)
            for turn in np.unique(turns // count):
                order = np.random.default_rng([seed, int(turn)]).permutation(count)
                here = turns // count == turn
                rows[here] = order[turns[here] % count]
            chosen = torch.from_numpy(rows)
            return evaluation.tokens[chosen], evaluation.targets[chosen]

        # A tokenizer knows ids that these sequences happen not to use.
        known = int(evaluation.description.get("vocabulary", 0))
        return TrainingData(
            vocabulary=max(known, evaluation.vocabulary, evaluation.target_vocabulary),
            length=evaluation.length,
            batch_size=batch,
            seed=seed,
            draw=draw,
            content=evaluation.digest,
            description={
                "source": "evaluation",
                "name": evaluation.name,
                "sequences": count,
                "content": evaluation.digest,
            },
        )

"""The evaluation record: defaults, invariants and digest."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation


def test_targets_default_to_the_next_token() -> None:
    evaluation = Evaluation([[3, 1, 4], [1, 5, 9]])
    assert evaluation.targets.tolist() == [[1, 4, -100], [5, 9, -100]]
    assert evaluation.tokens.dtype == evaluation.targets.dtype == torch.int64
    assert evaluation.reference is None and evaluation.clusters is None
    assert (evaluation.length, evaluation.scored) == (3, 4)


def test_vocabularies_count_reference_and_targets_apart() -> None:
    evaluation = Evaluation([[0, 1]], [[-100, 12]], reference=[[7, 2]])
    assert evaluation.vocabulary == 8
    assert evaluation.target_vocabulary == 13


def test_the_record_does_not_share_memory_with_what_made_it() -> None:
    tokens = torch.tensor([[1, 2, 3]])
    evaluation = Evaluation(tokens)
    before = evaluation.digest
    tokens[0, 0] = 9
    assert evaluation.digest == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluation.name = "other"  # type: ignore[misc]


def test_replace_keeps_the_rest() -> None:
    evaluation = Evaluation([[1, 2], [3, 4]], clusters=[0, 1])
    renamed = dataclasses.replace(evaluation, name="other")
    assert renamed.name == "other" and renamed.digest == evaluation.digest


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_digest_does_not_depend_on_the_dtype(dtype: Any) -> None:
    tokens = [[1, 2, 3], [4, 5, 6]]
    assert Evaluation(np.array(tokens, dtype)).digest == Evaluation(tokens).digest


def test_digest_sees_every_part() -> None:
    tokens = [[1, 2, 3, 4], [5, 6, 7, 8]]
    variants = [
        Evaluation(tokens),
        Evaluation([[1, 2, 3, 4], [5, 6, 7, 9]]),
        Evaluation(tokens, [[2, 3, 4, 5], [6, 7, 8, -100]]),
        Evaluation(tokens, reference=tokens),
        Evaluation(tokens, clusters=[0, 0]),
        Evaluation(tokens, clusters=[0, 1]),
        Evaluation([[1, 2, 3, 4, 5, 6, 7, 8]]),
    ]
    assert len({v.digest for v in variants}) == len(variants)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3],), "tokens must be [sequence, position], none of them empty; got shape [3]"),
        (([[]],), "tokens must be [sequence, position], none of them empty; got shape [1, 0]"),
        (([[1, 2], [3]],), "tokens must be [sequence, position]: rows of equal length"),
        (([[1.0, 2.0]],), "tokens must be integers, got float64"),
        ((torch.ones(2, 2, dtype=torch.bool),), "tokens must be integers, got bool"),
        (([[1, 2], [3, -7]],), "tokens[1, 1] is -7; ids are 0 or more"),
        (
            ([[1, 2]], [[2]]),
            "targets have shape [1, 1] and tokens [1, 2]; give one target per token, -100 where"
            " not scored",
        ),
        (
            ([[1, 2]], [[2, -1]]),
            "targets[0, 1] is -1; ids are 0 or more, and -100 marks a position that is not scored",
        ),
        (([[1, 2]], [[-100, -100]]), "no position is scored: every target is -100"),
        (
            ([[1], [2]],),
            "no position is scored: every target is -100 (sequences of one token have no next"
            " token)",
        ),
        (
            ([[1, 2]], None, [[1, 2, 3]]),
            "reference sequences have 3 tokens and evaluation sequences 2; baselines need the same"
            " length",
        ),
        (([[1, 2]], None, [[1, -100]]), "reference[0, 1] is -100; ids are 0 or more"),
        (
            ([[1, 2]], None, None, [0, 1]),
            "clusters name 2 documents for 1 sequences; give one per sequence",
        ),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
        Evaluation(*arguments)


def test_documents_are_numbered_in_the_order_of_their_names() -> None:
    tokens = [[1, 2], [3, 4], [5, 6], [7, 8]]
    alone, together = Evaluation(tokens), Evaluation(tokens, clusters=[9, 4, 9, 12])
    assert (alone.documents, alone.document_of.tolist()) == (4, [0, 1, 2, 3])
    assert (together.documents, together.document_of.tolist()) == (3, [1, 0, 1, 2])

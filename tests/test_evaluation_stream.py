"""Batches from an evaluation set in hand."""

from __future__ import annotations

import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation, TrainingData

EVALUATION = Evaluation([[i, i + 10, i + 20] for i in range(5)], reference=[[90, 91, 92]])


def test_every_pass_shows_every_sequence_once_in_a_new_order() -> None:
    data = TrainingData.from_evaluation(EVALUATION, batch=2, seed=0)
    rows = [int(row[0]) for step in range(10) for row in data.batch(step)[0]]
    passes = [rows[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(p) == list(range(5)) for p in passes)
    assert len({tuple(p) for p in passes}) > 1


def test_a_batch_may_be_larger_than_the_set() -> None:
    data = TrainingData.from_evaluation(EVALUATION, batch=12, seed=0)
    tokens, targets = data.batch(3)
    assert tokens.shape == (12, 3) and targets[:, :-1].equal(tokens[:, 1:])
    smaller = TrainingData.from_evaluation(EVALUATION, batch=4, seed=0)
    assert smaller.batch(9)[0].equal(tokens[:4])


def test_the_vocabulary_covers_targets_reference_and_tokenizer() -> None:
    assert TrainingData.from_evaluation(EVALUATION, 1, 0).vocabulary == 93
    far = Evaluation([[1, 2]], [[-100, 300]])
    assert TrainingData.from_evaluation(far, 1, 0).vocabulary == 301
    known = Evaluation([[1, 2]], description={"vocabulary": 256})
    assert TrainingData.from_evaluation(known, 1, 0).vocabulary == 256


def test_the_digest_sees_data_batch_and_seed() -> None:
    digests = {
        TrainingData.from_evaluation(evaluation, batch, seed).digest
        for evaluation in (EVALUATION, Evaluation(EVALUATION.tokens))
        for batch in (1, 2)
        for seed in (0, 1)
    }
    assert len(digests) == 8
    one = TrainingData.from_evaluation(EVALUATION, 1, 0)
    assert one.digest == TrainingData.from_evaluation(EVALUATION, 1, 0).digest


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        TrainingData.from_evaluation(EVALUATION, 0, 0)
    assert str(error.value) == "batch_size must be a whole number of at least 1, not 0"

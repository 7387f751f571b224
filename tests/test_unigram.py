"""What frequencies alone achieve."""

from __future__ import annotations

import math

import numpy as np
import pytest

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures.unigram import unigram_loss


def _draws(
    frequencies: np.ndarray, sequences: int, length: int, reference: int, draws: int
) -> tuple[np.ndarray, float]:
    """Losses and errors of independent evaluation sets, and the entropy they come from."""
    rng = np.random.default_rng(7)
    size = len(frequencies)

    def tokens(count: int) -> np.ndarray:
        return rng.choice(size, size=(count, length), p=frequencies)

    found = [
        unigram_loss(
            Evaluation(tokens(sequences), reference=tokens(reference) if reference else None), size
        )
        for _ in range(draws)
    ]
    some = frequencies[frequencies > 0]
    return np.array(found), float(-(some * np.log(some)).sum())


@pytest.mark.parametrize("reference", [0, 8, 64])
def test_few_uniform_targets_have_nearly_the_entropy_of_their_source(reference: int) -> None:
    # 96 scored positions of 1,024 classes: their own frequencies say 4.5 nats.
    found, entropy = _draws(np.full(1024, 1 / 1024), 8, 13, reference, 100)
    assert entropy == pytest.approx(math.log(1024))
    deviation = (found[:, 0] - entropy) / found[:, 1]
    assert (np.abs(deviation) < 1.96).mean() >= 0.85
    assert (deviation < -1.96).mean() <= 0.02
    assert 0 < found[:, 0].mean() - entropy < 0.01 and found[:, 1].max() < 0.1


def test_it_is_never_below_and_nears_the_entropy_with_more_text() -> None:
    zipf = 1 / np.arange(1, 513)
    zipf /= zipf.sum()
    above = []
    for sequences in (8, 32, 128):
        found, entropy = _draws(zipf, sequences, 33, sequences, 10)
        assert ((found[:, 0] - entropy) / found[:, 1]).min() > -1.96
        above.append(found[:, 0].mean() - entropy)
    assert above[0] > 1.5 * above[1] > 2.25 * above[2] > 0
    assert above[0] < 0.4 and above[2] < 0.05


def test_two_sequences_worked_out_by_hand() -> None:
    # Each is guessed from the other: nothing but class 1, seen 4 times, so what is left for the
    # other classes is as little as the grid allows, and the error is what half of it would cost.
    alike = Evaluation([[0, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    loss, error = unigram_loss(alike, 2)
    theta = 1e-2
    assert loss == pytest.approx(-math.log((4 + theta / 2) / (4 + theta)), rel=1e-9)
    # The second half has nothing to guess the first from, and nothing is uniform.
    assert error == pytest.approx((loss + math.log(2)) / 2 - loss, rel=1e-9)


def test_where_there_is_nothing_to_count_the_guess_is_uniform() -> None:
    loss, error = unigram_loss(Evaluation([[3, 1, 2, 0]]), 50)
    assert loss == pytest.approx(math.log(50)) and math.isnan(error)
    one_document = Evaluation([[1, 1, 1], [1, 1, 1]], clusters=[4, 4])
    assert unigram_loss(one_document, 50)[0] == pytest.approx(math.log(50))


def test_a_reference_counts_where_its_next_tokens_are_what_is_scored() -> None:
    tokens = np.array([[0, 1, 1, 1], [0, 1, 1, 1]])
    alone, _ = unigram_loss(Evaluation(tokens), 100)
    with_it, _ = unigram_loss(Evaluation(tokens, reference=[[0, 1, 1, 1]] * 20), 100)
    assert with_it < alone / 2
    other = [[5, 5, 5, 5]] * 20
    answers = [[-100, -100, -100, 1], [-100, -100, -100, 1]]
    assert unigram_loss(Evaluation(tokens, answers, other), 100) == unigram_loss(
        Evaluation(tokens, answers), 100
    )
    # Scored at other places in every sequence: which the reference's would be nobody knows.
    places = [[1, -100, 1, -100], [-100, 1, 1, -100]]
    assert unigram_loss(Evaluation(tokens, places, other), 100) == unigram_loss(
        Evaluation(tokens, places), 100
    )
    # Only what stands at scored places counts.
    second = [[-100, 1, -100, -100], [-100, 1, -100, -100]]
    mixed = [[0, 7, 1, 9]] * 20
    same, _ = unigram_loss(Evaluation(tokens, second, mixed), 100)
    assert same == unigram_loss(Evaluation(tokens, second, [[0, 0, 1, 0]] * 20), 100)[0] < 1


def test_documents_are_guessed_from_other_documents() -> None:
    rows = np.repeat(np.arange(10)[:, None], 9, axis=1)
    windows = np.repeat(rows, 2, axis=0)
    one_each = unigram_loss(Evaluation(windows), 10)[0]
    together = unigram_loss(Evaluation(windows, clusters=np.arange(20) // 2), 10)[0]
    assert one_each < 2.5 < together

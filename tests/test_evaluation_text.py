"""Windows of text: what is packed, drawn, held out and clustered."""

from __future__ import annotations

import random
import re
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation, training_data
from circuit_econ.evaluation.documents import EmbeddedSource
from circuit_econ.evaluation.encoding import open_tokenizer
from circuit_econ.evaluation.parts import Part, split_documents

# Random letters, so that no window of 12 occurs twice.
CORPUS = ["".join(random.Random(i).choices(ascii_lowercase, k=60 + i)) for i in range(60)]


def _text(row: torch.Tensor) -> str:
    return bytes(row.tolist()).decode()


def _windows(evaluation: Evaluation, reference: bool = False) -> list[str]:
    tokens = evaluation.reference if reference else evaluation.tokens
    assert tokens is not None
    return [_text(row) for row in tokens]


@pytest.mark.parametrize("part", ["heldout", "train", "all"])
def test_windows_are_pieces_of_documents_and_never_overlap(part: str) -> None:
    evaluation = Evaluation.from_text(
        CORPUS, length=20, sequences=12, reference_sequences=9, part=part
    )
    windows = _windows(evaluation) + _windows(evaluation, reference=True)
    places = []
    for window in windows:
        (document,) = [d for d in CORPUS if window in d and d.index(window) % 20 == 0]
        places.append((document, document.index(window)))
    assert len(set(places)) == len(windows) == 21
    own, others = {d for d, _ in places[:12]}, {d for d, _ in places[12:]}
    assert not own & others
    assert evaluation.description["reference_disjoint_by"] == "documents"


def test_clusters_name_the_document_of_each_window() -> None:
    evaluation = Evaluation.from_text(CORPUS, length=20, sequences=30, reference_sequences=0)
    assert evaluation.reference is None and evaluation.clusters is not None
    documents = [next(d for d in CORPUS if window in d) for window in _windows(evaluation)]
    pairs = set(zip(documents, evaluation.clusters.tolist(), strict=True))
    assert len(pairs) == len(set(documents)) == len(set(evaluation.clusters.tolist())) < 30


def test_the_first_sequences_come_from_as_many_documents_as_possible() -> None:
    some = Evaluation.from_text(CORPUS, length=20, sequences=12, reference_sequences=0)
    assert some.clusters is not None and len(some.clusters.unique()) == 12


def test_train_and_heldout_never_overlap_whatever_the_seeds_and_lengths() -> None:
    trained = training_data("text", {"text": CORPUS, "length": 24, "seed": 5}, batch=64, seed=3)
    seen = {_text(row) for step in range(200) for row in trained.batch(step)[0]}
    shown = {window[i : i + 12] for window in seen for i in range(13)}
    for seed in range(3):
        evaluation = Evaluation.from_text(
            CORPUS, length=12, sequences=20, reference_sequences=20, seed=seed
        )
        assert not shown & set(_windows(evaluation) + _windows(evaluation, reference=True))
    own = Evaluation.from_text(CORPUS, length=12, sequences=20, part="train")
    assert len(shown & set(_windows(own))) > 15


def test_pieces_of_one_text_are_in_one_part_each() -> None:
    text = "".join(f"<{i:06d}>" for i in range(5000))
    trained = training_data("text", {"text": text, "length": 16}, batch=256, seed=0)
    seen = {m for s in range(100) for row in trained.batch(s)[0] for m in _numbers(_text(row))}
    evaluation = Evaluation.from_text(text, length=16, sequences=64, reference_sequences=64)
    own = {m for w in _windows(evaluation) for m in _numbers(w)}
    reference = {m for w in _windows(evaluation, reference=True) for m in _numbers(w)}
    assert len(seen) > 2000 and own and reference
    assert not seen & own and not seen & reference and not own & reference
    assert evaluation.description["split_by"] == "pieces"


def _numbers(window: str) -> list[str]:
    return re.findall(r"<(\d{6})>", window)


def test_short_documents_are_joined_and_are_then_one_cluster() -> None:
    corpus = [f"[{i:04d}]" for i in range(400)]
    evaluation = Evaluation.from_text(corpus, length=20, sequences=15, reference_sequences=15)
    assert all(re.match(r"\[\d{4}\]\n\n\[\d{4}\]\n\n\[\d", w) for w in _windows(evaluation))
    assert evaluation.clusters is not None and len(evaluation.clusters.unique()) == 15


def test_windows_are_dealt_out_where_one_side_has_too_little_text() -> None:
    shorts = [f"{i:02d} a short document" for i in range(10)]
    corpus = split_documents(shorts)
    long = "".join(f"<{i:06d}>" for i in range(500))
    documents = [long if d == corpus[Part.HELDOUT][0] else d for d in shorts]
    evaluation = Evaluation.from_text(documents, length=16, sequences=30, reference_sequences=30)
    assert evaluation.description["reference_disjoint_by"] == "windows"
    windows = _windows(evaluation) + _windows(evaluation, reference=True)
    assert len(set(windows)) == 60
    assert sum(w in long and long.index(w) % 16 == 0 for w in windows) >= 56


def test_a_sequence_begins_with_bos_where_asked() -> None:
    asked: dict[str, Any] = {"length": 20, "sequences": 8, "reference_sequences": 8}
    plain = Evaluation.from_text(CORPUS, **asked | {"length": 19})
    evaluation = Evaluation.from_text(CORPUS, bos=True, **asked)
    assert evaluation.tokens[:, 0].tolist() == [256] * 8
    assert evaluation.reference is not None and evaluation.reference[:, 0].unique().tolist() == [
        256
    ]
    assert evaluation.tokens[:, 1:].equal(plain.tokens)
    assert evaluation.description["bos"] is True and evaluation.description["vocabulary"] == 257
    batch, targets = training_data("text", {"text": CORPUS, "length": 20, "bos": True}, 4, 0).batch(
        0
    )
    assert batch[:, 0].tolist() == [256] * 4 and batch.shape == (4, 20)
    assert targets[:, :-1].equal(batch[:, 1:]) and targets[:, -1].tolist() == [-100] * 4


def test_the_seed_draws_windows_and_the_same_seed_the_same() -> None:
    draws = [
        Evaluation.from_text(CORPUS, length=20, sequences=8, reference_sequences=8, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert draws[0].digest == draws[1].digest != draws[2].digest


def test_the_seed_draws_documents_too() -> None:
    drawn = {
        tuple(Evaluation.from_text(CORPUS, length=20, sequences=4, seed=seed).clusters.tolist())  # type: ignore[union-attr]
        for seed in range(5)
    }
    assert len(drawn) == 5


def test_the_reference_does_not_change_the_evaluation() -> None:
    one, other = (
        Evaluation.from_text(CORPUS, length=20, sequences=8, reference_sequences=n) for n in (0, 9)
    )
    assert one.tokens.equal(other.tokens) and one.digest != other.digest


def test_too_little_text_is_said_in_numbers() -> None:
    with pytest.raises(ConfigurationError) as error:
        Evaluation.from_text(["x" * 50 + str(i) for i in range(10)], length=20, sequences=7)
    assert str(error.value) == (
        "too little text: 7 + 64 windows of 20 tokens are asked of the heldout part of 'text',"
        " whose 4 documents give 8; give more text, or lower length, sequences or"
        " reference_sequences; for models trained elsewhere, part=all takes all of it"
    )
    with pytest.raises(ConfigurationError) as error:
        training_data("text", {"text": "short", "length": 20}, 4, 0)
    assert str(error.value) == (
        "too little text: the train part of 'text' has 3 pieces and not one window of 20 tokens;"
        " give more text or lower length"
    )


def test_the_embedded_default() -> None:
    evaluation = Evaluation.embedded()
    assert evaluation.tokens.shape == (64, 128) and evaluation.name == "embedded"
    assert evaluation.reference is not None and evaluation.reference.shape == (64, 128)
    assert evaluation.clusters is not None and len(evaluation.clusters.unique()) >= 12
    assert evaluation.description["documents_used"] == len(evaluation.clusters.unique())
    assert evaluation.digest == Evaluation.embedded().digest


def test_bpe_is_trained_on_the_training_part_alone() -> None:
    wanted: dict[str, Any] = {"tokenizer": "bpe", "vocabulary": 300, "length": 32}
    evaluation = Evaluation.embedded(**wanted, sequences=8, reference_sequences=8)
    trained = training_data("embedded", wanted, 2, 0)
    assert (
        evaluation.vocabulary <= trained.vocabulary == evaluation.description["vocabulary"] == 300
    )
    own = open_tokenizer(
        "bpe",
        vocabulary=300,
        bos=False,
        training=lambda: split_documents(EmbeddedSource().read().texts)[Part.TRAIN],
    )
    assert evaluation.description["tokenizer_digest"] == own.digest
    assert trained.description["tokenizer_digest"] == own.digest


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=10, max_size=40),
    length=st.integers(2, 15),
    seed=st.integers(0, 5),
)
def test_training_windows_start_anywhere_inside_a_document(
    lengths: list[int], length: int, seed: int
) -> None:
    corpus = [f"{i:02d}" + "abcdefghij"[i % 10] * n for i, n in enumerate(lengths)]
    data = training_data("text", {"text": corpus, "length": length}, batch=16, seed=seed)
    joined = "\n\n".join(corpus)
    for step in range(3):
        tokens, targets = data.batch(step)
        assert tokens.shape == (16, length) and targets[:, :-1].equal(tokens[:, 1:])
        assert all(len(_text(row).split("\n\n")) > 1 or _text(row) in joined for row in tokens)


def test_every_start_in_the_training_part_is_drawn() -> None:
    corpus = [chr(97 + i) * 3 + chr(65 + i) * 3 for i in range(10)]
    data = training_data("text", {"text": corpus, "length": 4}, batch=200, seed=0)
    seen = {_text(row) for row in data.batch(0)[0]}
    documents = {window[0].lower() for window in seen}
    assert len(documents) == 6
    assert seen == {
        (d * 3 + d.upper() * 3)[start : start + 4] for d in documents for start in range(3)
    }


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    wanted = {"text": CORPUS, "length": 20}
    data = [training_data("text", wanted, 8, seed) for seed in (0, 0, 1)]
    assert data[0].batch(7)[0].equal(data[1].batch(7)[0])
    assert not data[0].batch(7)[0].equal(data[0].batch(8)[0])
    assert not data[0].batch(7)[0].equal(data[2].batch(7)[0])
    assert np.unique([d.digest for d in data]).size == 2


def test_all_of_a_text_serves_models_trained_elsewhere() -> None:
    whole = {
        part: Evaluation.from_text(CORPUS, length=20, sequences=4, reference_sequences=0, part=part)
        for part in ("all", "train", "heldout")
    }

    def there_are(evaluation: Evaluation) -> int:
        return 4 + evaluation.description["left_out"]["windows_not_drawn"]

    assert there_are(whole["all"]) == sum(len(d) // 20 for d in CORPUS)
    assert there_are(whole["train"]) + there_are(whole["heldout"]) == there_are(whole["all"])
    # What is trained on does not depend on it.
    batches = [training_data("text", {"text": CORPUS, "part": p}, 4, 0) for p in ("all", "heldout")]
    assert batches[0].digest == batches[1].digest
    everything = Evaluation.from_text(
        CORPUS, length=20, sequences=150, reference_sequences=60, part="all"
    )
    assert everything.description["reference_disjoint_by"] == "windows"
    windows = _windows(everything) + _windows(everything, reference=True)
    assert len(set(windows)) == 210 and {next(d for d in CORPUS if w in d) for w in windows} == set(
        CORPUS
    )


def test_every_token_is_drawn_or_counted_as_left_out() -> None:
    texts = [*CORPUS, *CORPUS[:3], "", " \n", *(f"<{i}>" for i in range(8))]
    evaluation = Evaluation.from_text(texts, length=20, sequences=7, reference_sequences=5)
    description, left_out = evaluation.description, evaluation.description["left_out"]
    assert (description["documents_read"], left_out["files"]) == (73, {})
    assert (left_out["blank_documents"], left_out["repeated_documents"]) == (2, 3)
    part = split_documents(texts)[Part.HELDOUT]
    short = [d for d in part if len(d) < 20]
    assert left_out["documents_too_short"] == len(short) > 1
    joined = [[d for d in part[side::2] if len(d) < 20] for side in (0, 1)]
    kept = sum(len(d) for d in part if len(d) >= 20) + sum(len("\n\n".join(j)) for j in joined)
    drawn = 20 * (7 + 5 + left_out["windows_not_drawn"])
    assert drawn + left_out["tokens_at_ends"] == kept
    trained = training_data("text", {"text": texts, "length": 20}, 2, 0).description
    assert trained["documents_read"] == 73 and trained["left_out"]["repeated_documents"] == 3


def test_what_is_left_out_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="circuit_econ"):
        Evaluation.from_text([*CORPUS, *CORPUS[:3], ""], length=20, sequences=4)
        Evaluation.from_text([*CORPUS, CORPUS[0]], length=20, sequences=4)
    assert [record.getMessage() for record in caplog.records] == [
        "text: documents left out: 1 blank, 3 as an earlier one"
    ]

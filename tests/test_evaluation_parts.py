"""The split into a training and a held-out part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation.parts import Part, held_out, split_documents


@given(st.lists(st.text(min_size=1), min_size=1, max_size=60))
def test_every_document_is_in_exactly_one_part(documents: list[str]) -> None:
    kept = list(dict.fromkeys(d for d in documents if d.strip()))
    if not kept:
        with pytest.raises(ConfigurationError, match=r"^there is no text in"):
            split_documents(documents)
        return
    parts = split_documents(documents)
    if len(kept) >= 10:
        assert parts.by == "documents"
        assert sorted(parts[Part.TRAIN] + parts[Part.HELDOUT]) == sorted(kept)
    else:
        assert parts.by == "pieces"
        assert sum(map(len, parts[Part.TRAIN] + parts[Part.HELDOUT])) == sum(map(len, kept))


def test_three_of_every_five_documents_are_for_training() -> None:
    documents = [f"document {i}" for i in range(50)]
    parts = split_documents(documents)
    assert (len(parts[Part.TRAIN]), len(parts[Part.HELDOUT])) == (30, 20)
    for start in range(0, 50, 5):
        assert len(set(documents[start : start + 5]) & set(parts[Part.TRAIN])) == 3


def test_more_documents_move_none_from_a_part_to_another() -> None:
    documents = [f"document {i}" for i in range(200)]
    few, many = split_documents(documents[:73]), split_documents(documents)
    assert set(few[Part.TRAIN]) <= set(many[Part.TRAIN])
    assert set(few[Part.HELDOUT]) <= set(many[Part.HELDOUT])


def test_a_repeated_document_counts_once() -> None:
    documents = [f"document {i}" for i in range(20)]
    once, twice = split_documents(documents), split_documents([*documents, *documents, "", "  \n"])
    assert (once.documents, once.trained) == (twice.documents, twice.trained)
    assert (once.repeated, once.blank) == (0, 0) and (twice.repeated, twice.blank) == (20, 2)


def test_all_is_both_parts_in_their_order() -> None:
    documents = [f"document {i}" for i in range(23)]
    parts = split_documents(documents)
    assert parts[Part.ALL] == documents
    assert sorted(parts[Part.TRAIN] + parts[Part.HELDOUT]) == sorted(documents)


@pytest.mark.parametrize("length", [1, 9, 10, 5_000, 1_000_000])
def test_one_text_is_cut_into_contiguous_pieces(length: int) -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(length))
    parts = split_documents([text])
    pieces = parts[Part.TRAIN] + parts[Part.HELDOUT]
    assert parts.by == "pieces"
    assert len(pieces) == {1: 1, 9: 9, 10: 10, 5_000: 10, 1_000_000: 100}[length]
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    assert sum(map(len, pieces)) == length


def test_a_fifth_of_the_cases_is_held_out() -> None:
    share = held_out(np.arange(20_000).reshape(-1, 2)).mean()
    assert 0.18 < share < 0.22


def test_cases_are_told_apart_by_every_key_and_its_place() -> None:
    cases = np.array([[i, j] for i in range(60) for j in range(60)])
    answers = held_out(cases).reshape(60, 60)
    assert (answers != answers.T).mean() > 0.2
    assert answers.sum(axis=0).min() > 0 and answers.sum(axis=1).min() > 0
    assert (held_out(cases) == held_out(cases.copy())).all()

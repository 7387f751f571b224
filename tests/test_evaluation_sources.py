"""Sources by name: evaluation sets and training batches from one table of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import TASKS, Evaluation, make, training_data
from circuit_econ.evaluation.parts import held_out

TEXT = [f"document {i}: " + "the quick brown fox " * 5 for i in range(40)]


def _settings(kind: str, folder: Path) -> dict[str, Any]:
    if kind == "file":
        path = folder / "a.txt"
        path.write_text("\n".join(TEXT), encoding="utf-8")
        return {"path": path, "length": 16, "sequences": 5, "reference_sequences": 4}
    own: dict[str, Any] = {"task": {"name": "sorting"}, "text": {"text": TEXT}}
    length = {} if kind == "task" else {"length": 16}
    return own.get(kind, {}) | length | {"sequences": 5, "reference_sequences": 4}


@pytest.mark.parametrize("kind", ["embedded", "text", "file", "task"])
def test_a_kind_makes_an_evaluation_and_batches(kind: str, tmp_path: Path) -> None:
    settings = _settings(kind, tmp_path)
    evaluation, data = make(kind, settings), training_data(kind, settings, batch=3, seed=1)
    assert len(evaluation.tokens) == 5
    assert evaluation.reference is not None and len(evaluation.reference) == 4
    assert evaluation.description["source"] == data.description["source"] == kind
    tokens, targets = data.batch(0)
    assert tokens.shape == targets.shape == (3, evaluation.length) and data.batch_size == 3
    assert evaluation.vocabulary <= data.vocabulary
    assert data.length == evaluation.length


def test_the_constructors_are_the_kinds(tmp_path: Path) -> None:
    file = _settings("file", tmp_path)
    pairs = [
        (Evaluation.embedded(length=16), make("embedded", {"length": 16})),
        (Evaluation.from_file(**file), make("file", file)),
        (
            Evaluation.from_text(TEXT, length=16, sequences=4, reference_sequences=4),
            make("text", {"text": TEXT, "length": 16, "sequences": 4, "reference_sequences": 4}),
        ),
        (Evaluation.from_task("induction", seed=3), make("task", {"name": "induction", "seed": 3})),
    ]
    for one, other in pairs:
        assert one.digest == other.digest and one.description == other.description


def test_what_is_only_evaluated_does_not_change_the_training_data() -> None:
    plain = training_data("embedded", {}, 4, 0)
    others = {"sequences": 7, "reference_sequences": 0, "seed": 9, "part": "train"}
    assert training_data("embedded", others, 4, 0).digest == plain.digest
    changes: list[tuple[dict[str, Any], int, int]] = [
        ({"length": 64}, 4, 0),
        ({"bos": True}, 4, 0),
        ({"tokenizer": "bpe", "vocabulary": 300}, 4, 0),
        ({}, 5, 0),
        ({}, 4, 1),
    ]
    digests = {training_data("embedded", *change).digest for change in changes}
    assert len(digests | {plain.digest}) == len(changes) + 1


def test_where_a_file_lies_does_not_change_the_training_data(tmp_path: Path) -> None:
    digests = set()
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("".join(TEXT), encoding="utf-8")
        digests.add(training_data("file", {"path": tmp_path / name}, 4, 0).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_sequences_of_a_task_are_all_different(name: str) -> None:
    evaluation = Evaluation.from_task(name, sequences=150, reference_sequences=100)
    assert evaluation.reference is not None and evaluation.clusters is None
    rows = [tuple(r) for r in evaluation.tokens.tolist() + evaluation.reference.tolist()]
    assert len(set(rows)) == 250
    assert evaluation.description["task"] == name and evaluation.name == name


def test_a_task_that_has_too_few_sequences_says_how_many() -> None:
    pairs = np.array([sorted((a, b)) for a in range(11) for b in range(11)])
    there_are = int(held_out(pairs).sum())
    assert 15 < there_are < 40
    with pytest.raises(ConfigurationError) as error:
        Evaluation.from_task("modular-addition", vocabulary=12, sequences=100)
    assert str(error.value) == (
        f"task 'modular-addition' has {there_are} different sequences in the heldout part,"
        " and 100 + 256 are asked; lower sequences or reference_sequences, or raise vocabulary"
    )
    every = Evaluation.from_task(
        "modular-addition", vocabulary=12, sequences=there_are - 4, reference_sequences=4
    )
    assert len(every.tokens) == there_are - 4


def test_a_task_trains_on_its_training_part() -> None:
    tokens, _ = training_data("task", {"name": "modular-addition"}, 300, 0).batch(2)
    assert not held_out(np.sort(tokens[:, :2].numpy(), axis=1)).any()


def test_options_reach_the_task() -> None:
    evaluation = Evaluation.from_task(
        "induction", length=12, options={"shortest": 3, "longest": 5}, sequences=10
    )
    assert evaluation.length == 12 and evaluation.description["longest"] == 5


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "web",
            {},
            "unknown evaluation source 'web'; there is: embedded, text, file, dataset, task",
        ),
        (
            "task",
            {"name": "sorting", "bos": True},
            "unknown setting of evaluation source 'task' 'bos'; there is: name, length,"
            " vocabulary, sequences, reference_sequences, seed, part, options",
        ),
        (
            "embedded",
            {"lenght": 3},
            "unknown setting of evaluation source 'embedded' 'lenght'; there is: tokenizer,"
            " vocabulary, length, sequences, reference_sequences, bos, control_tokens, seed,"
            " part",
        ),
        ("file", {}, "evaluation source 'file' needs the setting 'path'"),
        ("file", {"path": None}, "evaluation source 'file' needs the setting 'path'"),
        ("dataset", {"split": "test"}, "evaluation source 'dataset' needs the setting 'name'"),
        ("task", {}, "evaluation source 'task' needs the setting 'name'"),
    ],
)
def test_unknown_and_missing_names(kind: str, settings: dict[str, Any], message: str) -> None:
    for use in (lambda: make(kind, settings), lambda: training_data(kind, settings, 1, 0)):
        with pytest.raises(ConfigurationError) as error:
            use()
        assert str(error.value) == message


def test_a_task_of_few_cases_says_so_however_many_are_asked() -> None:
    with pytest.raises(ConfigurationError, match=r"^task 'modular-addition' has 23 different seq"):
        Evaluation.from_task("modular-addition", vocabulary=8, sequences=20_000)

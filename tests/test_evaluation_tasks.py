"""Generated tasks: answers, parts, settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import TASKS, Evaluation, Part, Task, make_task
from circuit_econ.evaluation.parts import held_out


def _rows(task: Task, part: Part, count: int = 200, seed: int = 0) -> list[tuple[list, list]]:
    tokens, targets = task.sample(count, np.random.default_rng(seed), part)
    assert tokens.shape == targets.shape == (count, task.length)
    assert int(tokens.min()) >= 0 and int(tokens.max()) < task.vocabulary
    assert int(targets.max()) < task.vocabulary
    return list(zip(tokens.tolist(), targets.tolist(), strict=True))


def _period(row: list[int]) -> int:
    return next(i for i in range(1, len(row)) if row[i] == row[0])


@pytest.mark.parametrize("part", Part)
def test_induction_repeats_and_scores_what_has_been_seen(part: Part) -> None:
    periods = set()
    for tokens, targets in _rows(make_task("induction"), part):
        period = _period(tokens)
        periods.add(period)
        assert len(set(tokens[:period])) == period
        longer = (tokens[:period] * 10)[:49]
        assert tokens == longer[:48]
        for place, target in enumerate(targets):
            seen_before = tokens[place] in tokens[:place]
            assert target == (longer[place + 1] if seen_before else -100)
    assert periods == set(range(6, 25))


def test_modular_addition_adds() -> None:
    for (a, b, sign), targets in _rows(make_task("modular-addition", vocabulary=12), Part.TRAIN):
        assert sign == 11 and targets == [-100, -100, (a + b) % 11]


def test_sorting_sorts() -> None:
    for tokens, targets in _rows(make_task("sorting", vocabulary=20, length=8), Part.TRAIN):
        answer = sorted(tokens[:4])
        assert len(set(answer)) == 4 and tokens[4] == 19 and tokens[5:] == answer[:3]
        assert targets == [-100] * 4 + answer


@pytest.mark.parametrize("one_cue", [0.0, 0.5, 1.0])
def test_either_cue_gives_the_answer(one_cue: float) -> None:
    task = make_task("two-cues", options={"answers": 8, "one_cue": one_cue})
    cues: list[tuple[int, int]] = []
    places = set()
    for tokens, targets in _rows(task, Part.TRAIN, 400):
        first = [i for i, t in enumerate(tokens) if 8 <= t < 16]
        second = [i for i, t in enumerate(tokens) if 16 <= t < 24]
        cues.append((len(first), len(second)))
        assert all(tokens[i] == 8 + targets[-1] and i < 7 for i in first)
        assert all(tokens[i] == 16 + targets[-1] and 7 <= i < 15 for i in second)
        places.update(first + second)
        assert tokens[-1] == 24 and targets[:-1] == [-100] * 15 and 0 <= targets[-1] < 8
        assert len(first) + len(second) + sum(t > 24 for t in tokens) == 15
    assert places == set(range(15))
    both = cues.count((1, 1)) / len(cues)
    assert abs(both - (1 - one_cue)) < 0.1
    assert abs(cues.count((0, 1)) - cues.count((1, 0))) < 60
    assert (0, 0) not in cues


def _case(name: str, tokens: list[int]) -> object:
    """What must not be in both parts, worked out from the tokens alone."""
    if name == "induction":
        return frozenset(tokens)
    if name == "modular-addition":
        return frozenset(tokens[:2])
    if name == "sorting":
        return frozenset(tokens[: len(tokens) // 2])
    return tuple(tokens)


SMALL: dict[str, dict[str, Any]] = {
    "induction": {"vocabulary": 8, "length": 12, "options": {"shortest": 3, "longest": 5}},
    "modular-addition": {"vocabulary": 14},
    "sorting": {"vocabulary": 10, "length": 6},
    "two-cues": {"vocabulary": 10, "length": 5, "options": {"answers": 2}},
}


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_the_parts_share_no_case_whatever_the_seeds(name: str) -> None:
    task = make_task(name, **SMALL[name])
    cases = {
        part: {
            _case(name, tokens)
            for seed in range(3)
            for tokens, _ in _rows(task, part, 600, seed + 10 * (part is Part.TRAIN))
        }
        for part in Part
    }
    assert not cases[Part.TRAIN] & cases[Part.HELDOUT]
    assert min(map(len, cases.values())) > 5


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_the_generator_alone_decides(name: str) -> None:
    task = make_task(name)
    assert _rows(task, Part.TRAIN, 20, 1) == _rows(task, Part.TRAIN, 20, 1)
    assert _rows(task, Part.TRAIN, 20, 1) != _rows(task, Part.TRAIN, 20, 2)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "copying",
            {},
            "unknown task 'copying'; there is: induction, modular-addition, sorting, two-cues",
        ),
        (
            "induction",
            {"options": {"period": 7}},
            "unknown option of task 'induction' 'period'; there is: shortest, longest",
        ),
        (
            "sorting",
            {"options": {"n": 7}},
            "unknown option of task 'sorting' 'n'; there is: nothing",
        ),
        (
            "induction",
            {"options": {"shortest": 7, "longest": 7}},
            "task 'induction' needs 2 <= shortest < longest; got vocabulary=64, length=48,"
            " shortest=7, longest=7",
        ),
        (
            "induction",
            {"length": 24},
            "task 'induction' needs longest < length; got vocabulary=64, length=24, shortest=6,"
            " longest=24",
        ),
        (
            "induction",
            {"vocabulary": 20},
            "task 'induction' needs longest <= vocabulary; got vocabulary=20, length=48,"
            " shortest=6, longest=24",
        ),
        (
            "modular-addition",
            {"length": 4},
            "task 'modular-addition' needs length 3 (two numbers and '='); got vocabulary=60,"
            " length=4",
        ),
        (
            "modular-addition",
            {"vocabulary": 2},
            "task 'modular-addition' needs vocabulary >= 3 (the modulus and '='); got"
            " vocabulary=2, length=3",
        ),
        (
            "sorting",
            {"length": 7},
            "task 'sorting' needs an even length of at least 4; got vocabulary=33, length=7",
        ),
        (
            "sorting",
            {"vocabulary": 6},
            "task 'sorting' needs vocabulary > length / 2 (numbers and a sign); got vocabulary=6,"
            " length=12",
        ),
        (
            "two-cues",
            {"length": 2},
            "task 'two-cues' needs length >= 3 (two cues and the question); got vocabulary=64,"
            " length=2, answers=8, one_cue=0.0",
        ),
        (
            "two-cues",
            {"options": {"answers": 1}},
            "task 'two-cues' needs answers >= 2; got vocabulary=64, length=16, answers=1,"
            " one_cue=0.0",
        ),
        (
            "two-cues",
            {"vocabulary": 26},
            "task 'two-cues' needs vocabulary >= 3 x answers + 3 (some noise); got vocabulary=26,"
            " length=16, answers=8, one_cue=0.0",
        ),
        (
            "two-cues",
            {"options": {"one_cue": 1.5}},
            "task 'two-cues' needs one_cue between 0 and 1; got vocabulary=64, length=16,"
            " answers=8, one_cue=1.5",
        ),
    ],
)
def test_what_does_not_fit_is_named(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        make_task(name, **settings)
    assert str(error.value) == message


def test_a_part_without_cases_is_an_error_and_no_endless_loop() -> None:
    task = make_task("sorting", vocabulary=7, length=12)  # one set of six numbers
    message = ""
    for part in Part:
        try:
            _rows(task, part, 1)
        except ConfigurationError as error:
            message = str(error).replace(part, "…")
    assert message == (
        "task 'sorting' has no … cases with vocabulary=7 and length=12; raise vocabulary"
    )


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_all_holds_cases_of_both_parts(name: str) -> None:
    task = make_task(name)
    tokens, _ = task.sample(300, np.random.default_rng([0]), Part.ALL)
    drawn = task.draw(600, np.random.default_rng([0]))
    assert np.array_equal(tokens.numpy(), drawn.tokens[:300])
    assert 0.1 < held_out(drawn.cases[:300]).mean() < 0.3


def test_all_the_cases_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: dict[str, Any] = {"vocabulary": 8, "reference_sequences": 0, "part": "all"}
    evaluation = Evaluation.from_task("modular-addition", sequences=49, **wanted)
    assert {tuple(row) for row in evaluation.tokens[:, :2].tolist()} == {
        (a, b) for a in range(7) for b in range(7)
    }
    # However few are drawn at once.
    monkeypatch.setattr("circuit_econ.evaluation.tasks._MOST_NUMBERS", 24)
    again = Evaluation.from_task("modular-addition", sequences=49, **wanted)
    assert set(map(tuple, again.tokens.tolist())) == set(map(tuple, evaluation.tokens.tolist()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortest": "a"}, "option shortest must be a whole number of at least 0, not 'a'"),
        ({"longest": 2.5}, "option longest must be a whole number of at least 0, not 2.5"),
        ({"longest": 2**70}, f"option longest must be at most {2**63 - 1}, not {2**70}"),
    ],
)
def test_options_of_a_wrong_kind(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        make_task("induction", options=options)
    assert str(error.value) == message
    with pytest.raises(ConfigurationError, match=r"^option one_cue must be a number, not \[\]$"):
        make_task("two-cues", options={"one_cue": []})

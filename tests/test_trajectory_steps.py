"""Choosing checkpoints: every spelling, and what is said about wrong ones."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit_econ.errors import ConfigurationError
from circuit_econ.trajectory import every, log_steps, parse_steps, shortened

STEPS = (0, 1, 2, 4, 8, 16, 100, 200, 300)
PYTHIA = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143001, 1000))


@pytest.mark.parametrize(
    ("spec", "chosen"),
    [
        (None, STEPS),
        ("all", STEPS),
        ("last", (300,)),
        (8, (8,)),
        ("8", (8,)),
        ([100, 0, 100], (0, 100)),
        ("0, 100", (0, 100)),
        ("[0,100]", (0, 100)),
        (range(1, 100), (1, 2, 4, 8, 16)),
        (range(0, 101, 100), (0, 100)),
        (range(100, 0, -4), (4, 8, 16, 100)),
        ("1:100", (1, 2, 4, 8, 16, 100)),
        ("1:99", (1, 2, 4, 8, 16)),
        ("100:", (100, 200, 300)),
        (":2", (0, 1, 2)),
        ("::100", (0, 100, 200, 300)),
        ("100:300:200", (100, 300)),
        ("every:4", (0, 8, 300)),
        (every(3), (0, 4, 100)),
        ("log:2", (0, 300)),
        (log_steps(9), STEPS),
        ("log:100", STEPS),
    ],
)
def test_every_spelling_selects(spec: object, chosen: tuple[int, ...]) -> None:
    assert parse_steps(spec)(STEPS, "run") == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (None, "all"),
        (range(0, 1000, 100), "0:900:100"),
        (range(5), "0:4"),
        ([3, 1], "1,3"),
        (log_steps(20), "log:20"),
        (every(5), "every:5"),
        ("10:", "10:"),
    ],
)
def test_a_selection_has_the_text_that_selects_the_same(spec: object, text: str) -> None:
    selection = parse_steps(spec)  # type: ignore[arg-type]
    assert selection.text == text
    assert parse_steps(text) == selection


def test_selections_survive_pickling() -> None:
    for spec in ("all", "last", "0,100", "1:100", "every:2", "log:4"):
        selection = parse_steps(spec)
        again = pickle.loads(pickle.dumps(selection))
        assert again(STEPS, "run") == selection(STEPS, "run")


def test_log_steps_of_a_log_spaced_run_are_even() -> None:
    octaves = tuple(2**k - 1 for k in range(13))
    assert log_steps(5)(octaves, "run") == tuple(octaves[i] for i in (0, 3, 6, 9, 12))


def test_log_steps_of_pythia_are_near_even() -> None:
    chosen = log_steps(20)(PYTHIA, "pythia")
    gaps = [math.log1p(b) - math.log1p(a) for a, b in pairwise(chosen)]
    assert len(chosen) == 20
    assert max(gaps) < 2 * min(gaps)


def test_log_steps_after_a_gap_are_spaced_anew() -> None:
    """A run saved every 1000 steps: the gap from 0 to 1000 must not crowd the next choices."""
    linear = tuple(range(0, 143001, 1000))
    chosen = log_steps(8)(linear, "run")
    gaps = [math.log1p(b) - math.log1p(a) for a, b in pairwise(chosen[1:])]
    assert chosen[:2] == (0, 1000)
    assert max(gaps) < 1.5 * min(gaps)


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(2, 30))
def test_log_steps_are_as_many_as_asked_with_both_ends(existing: set[int], n: int) -> None:
    steps = tuple(sorted(existing))
    chosen = log_steps(n)(steps, "run")
    assert len(chosen) == min(n, len(steps))
    assert list(chosen) == sorted(set(chosen) & existing)
    assert {steps[0], steps[-1]} <= set(chosen)


FORMS = (
    "a list of steps (0,10,100), a slice of steps (0:1000 or 0:1000:100, stop included), "
    "log:<n>, every:<n>, all or last"
)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sometimes", f"steps 'sometimes' is not understood; give {FORMS}"),
        ("log:", f"steps 'log:' is not understood; give {FORMS}"),
        ("log:1", "steps log:<n>: n must be at least 2, not 1"),
        ("every:0", "steps every:<n>: n must be at least 1, not 0"),
        ("0:10:0", "steps '0:10:0': the stride must be at least 1"),
        ([], f"the list of steps is empty; give {FORMS}"),
        (range(0), f"steps range(0, 0) is empty; give {FORMS}"),
        ([-1], f"step -1 is not a whole number from 0 on; give {FORMS}"),
        ([True], f"step True is not a whole number from 0 on; give {FORMS}"),
        (iter([1.5]), f"step 1.5 is not a whole number from 0 on; give {FORMS}"),
    ],
)
def test_what_is_not_understood_is_said(spec: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_steps(spec)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_an_unknown_step_lists_what_exists() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_steps([0, 3, 7])((0, 1, 2), "run")
    assert str(caught.value) == "run has no checkpoint at step 3, 7; there is: 0, 1, 2"


def test_an_empty_selection_says_so() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_steps("20:90")(STEPS, "run")
    assert str(caught.value) == (
        "steps 20:90 select no checkpoint of run; there is: 0, 1, 2, 4, 8, 16, 100, 200, 300"
    )


def test_many_steps_are_shortened() -> None:
    assert shortened(PYTHIA) == "0, 1, 2, 4, 8, …, 141000, 142000, 143000 (154 checkpoints)"
    assert shortened(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"

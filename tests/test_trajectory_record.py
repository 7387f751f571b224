"""The record of a trajectory: its invariants and what it says about steps it lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trajectory_folders import run

from circuit_econ.errors import ConfigurationError
from circuit_econ.trajectory import Checkpoint, Trajectory, open_trajectory


def test_checkpoints_ascend_and_exist(tmp_path: Path) -> None:
    reader = open_trajectory(run(tmp_path)).reader
    one, two = Checkpoint(1, None, "a"), Checkpoint(2, 64, "b")
    assert Trajectory("run", "run", (one, two), reader).steps == (1, 2)
    for wrong in ((two, one), (one, one)):
        with pytest.raises(ValueError, match="not in ascending order of steps"):
            Trajectory("run", "run", wrong, reader)
    with pytest.raises(ValueError, match="at least one checkpoint"):
        Trajectory("run", "run", (), reader)
    with pytest.raises(ValueError, match="at least 0, not -1"):
        Checkpoint(-1, None, "a")


def test_selecting_keeps_the_run(tmp_path: Path) -> None:
    whole = open_trajectory(run(tmp_path, (0, 1, 2, 4)))
    some = whole.select("1:2")
    assert some.steps == (1, 2)
    assert whole.steps == (0, 1, 2, 4)
    assert (some.name, some.origin) == (whole.name, whole.origin)
    assert some.select("last").steps == (2,)
    assert some.checkpoint(2) == whole.checkpoint(2)


@pytest.mark.parametrize(
    "ask",
    [
        lambda t: t.read(3),
        lambda t: t.config(3),
        lambda t: t.bytes(3),
        lambda t: t.format(3),
        lambda t: t.checkpoint(3),
    ],
)
def test_a_step_that_is_not_there(tmp_path: Path, ask: Callable[[Trajectory], object]) -> None:
    whole = open_trajectory(run(tmp_path, (1, 2, 3)))
    with pytest.raises(ConfigurationError) as caught:
        ask(whole.select([1, 2]))
    assert str(caught.value) == f"{tmp_path} has no checkpoint at step 3; there is: 1, 2"
    assert ask(whole) is not None

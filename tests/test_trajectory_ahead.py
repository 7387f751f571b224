"""Reading ahead: order, errors, memory, and a thread that always ends."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from trajectory_folders import reads_all, run

from circuit_econ.errors import CheckpointError, ConfigurationError
from circuit_econ.model import Format, Source
from circuit_econ.trajectory import (
    Checkpoint,
    Loaded,
    Trajectory,
    checkpoint_digest,
    describe,
    load_ahead,
    open_trajectory,
)


class Watched(torch.Tensor):
    """A tensor whose life can be watched."""


@dataclass
class Scripted:
    """A reader that does as told at each step and remembers what it was asked."""

    script: dict[int, BaseException] = field(default_factory=dict)
    seconds: float = 0.0
    format: Format = Format.HUGGING_FACE
    asked: list[int] = field(default_factory=list)
    alive: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    most_alive: int = 0

    def config(self, step: int) -> dict[str, Any]:
        return {}

    def bytes(self, step: int) -> int | None:
        return None

    def read(self, step: int) -> Source:
        self.asked.append(step)
        time.sleep(self.seconds)
        if step in self.script:
            raise self.script[step]
        tensor = torch.full((2,), float(step)).as_subclass(Watched)
        self.alive.add(tensor)
        self.most_alive = max(self.most_alive, len(self.alive))
        return Source(self.format, {}, {"w": tensor}, f"step {step}")


def scripted(reader: Scripted, count: int = 6) -> Trajectory:
    checkpoints = tuple(Checkpoint(step, None, f"step {step}") for step in range(count))
    return Trajectory("run", "run", checkpoints, reader)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("load-ahead")]


def until(condition: Any) -> None:
    """Waits for the background thread, so that a slow machine does not fail a test."""
    limit = time.monotonic() + 10
    while not condition() and time.monotonic() < limit:
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    yield
    gc.collect()
    assert threads() == []


def test_every_checkpoint_comes_in_order(tmp_path: Path) -> None:
    trajectory = open_trajectory(run(tmp_path, (0, 1, 10)))
    loaded = list(load_ahead(trajectory, inventory=reads_all))
    assert [one.step for one in loaded] == [0, 1, 10]
    for one in loaded:
        expected = trajectory.read(one.step)
        assert one.error is None
        assert one.source is not None
        assert one.tensors is not None
        assert torch.equal(one.source.tensors["w"], expected.tensors["w"])
        assert one.tensors.equals(describe(one.step, expected, reads_all(expected)))
        assert checkpoint_digest(one.tensors)


def test_steps_are_chosen(tmp_path: Path) -> None:
    trajectory = open_trajectory(run(tmp_path, (0, 1, 10)))
    loaded = list(load_ahead(trajectory, [10, 0]))
    assert [one.step for one in loaded] == [0, 10]
    assert [one.tensors for one in loaded] == [None, None]


def test_wrong_requests_are_refused_at_once(tmp_path: Path) -> None:
    trajectory = open_trajectory(run(tmp_path))
    with pytest.raises(ConfigurationError, match="has no checkpoint at step 7; there is: 0, 1, 2"):
        load_ahead(trajectory, [7])
    with pytest.raises(ConfigurationError, match="ahead must be at least 1, not 0"):
        load_ahead(trajectory, depth=0)


def test_a_checkpoint_that_cannot_be_read_does_not_stop_the_rest() -> None:
    reader = Scripted({0: CheckpointError("bad 0"), 2: CheckpointError("bad 2")})
    loaded = list(load_ahead(scripted(reader, 4), inventory=reads_all))
    assert [str(one.error) for one in loaded] == ["bad 0", "None", "bad 2", "None"]
    assert [one.source is None for one in loaded] == [True, False, True, False]
    assert [one.tensors is None for one in loaded] == [True, False, True, False]


def test_an_inventory_may_refuse_a_checkpoint() -> None:
    def refuse(source: Source) -> Any:
        raise CheckpointError(f"{source.origin}: unsupported")

    loaded = list(load_ahead(scripted(Scripted(), 2), inventory=refuse))
    assert [str(one.error) for one in loaded] == ["step 0: unsupported", "step 1: unsupported"]
    assert [one.source for one in loaded] == [None, None]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_more_than_depth_are_ahead(depth: int) -> None:
    reader = Scripted()
    with closing(load_ahead(scripted(reader), depth=depth)) as ahead:  # type: ignore[type-var]
        for taken, one in enumerate(ahead, start=1):
            expected = min(taken + depth, 6)
            until(lambda expected=expected: len(reader.asked) >= expected)
            time.sleep(0.01)
            assert reader.asked == list(range(expected))
            gc.collect()
            assert len(reader.alive) <= 1 + depth
            del one
    assert reader.most_alive <= 2 + depth
    gc.collect()
    assert len(reader.alive) == 0


def test_a_checkpoint_that_the_consumer_dropped_is_not_kept() -> None:
    reader = Scripted(seconds=0.03)
    for one in load_ahead(scripted(reader)):
        del one
    assert reader.asked == [0, 1, 2, 3, 4, 5]
    assert reader.most_alive == 1


def test_the_next_is_read_while_the_consumer_works() -> None:
    reader = Scripted(seconds=0.15)
    waited = []
    for one in load_ahead(scripted(reader, 4)):
        waited.append(one.seconds_waited)
        assert one.seconds_reading >= 0.15
        time.sleep(0.2)
    assert waited[0] >= 0.1
    assert max(waited[1:]) < 0.1


class Panic(BaseException):
    """As compiled code raises it: no ``Exception``."""


@pytest.mark.parametrize("raised", [ZeroDivisionError, ConfigurationError, Panic, SystemExit])
def test_whatever_is_raised_is_the_failure_of_its_checkpoint(raised: type[BaseException]) -> None:
    loaded = list(load_ahead(scripted(Scripted({2: raised("a bug")}))))
    assert [one.step for one in loaded if one.source is not None] == [0, 1, 3, 4, 5]
    error = loaded[2].error
    assert type(error) is raised and error.__traceback__ is not None  # it says where


def test_closing_early_ends_the_thread_and_reads_no_more() -> None:
    reader = Scripted()
    ahead = load_ahead(scripted(reader), depth=2)
    next(ahead)
    until(lambda: len(reader.asked) >= 3)
    assert threads() != []
    ahead.close()  # type: ignore[attr-defined]
    assert threads() == []
    assert reader.asked == [0, 1, 2]


def test_closing_early_drops_what_was_only_queued() -> None:
    reader = Scripted(seconds=0.1)
    ahead = load_ahead(scripted(reader), depth=4)
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    assert reader.asked in ([0], [0, 1])


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_consumer_ends_the_thread(raised: type[BaseException]) -> None:
    reader = Scripted()

    def consume() -> None:
        for one in load_ahead(scripted(reader)):
            if one.step == 1:
                raise raised

    with pytest.raises(raised):
        consume()
    assert threads() == []
    assert len(reader.asked) <= 3


def test_an_interrupt_while_waiting_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future

    def interrupted(self: Future[Any], timeout: float | None = None) -> Any:
        raise KeyboardInterrupt

    ahead = load_ahead(scripted(Scripted(seconds=0.05)))
    next(ahead)
    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(ahead)
    assert threads() == []


def test_an_iterator_that_is_never_used_starts_nothing() -> None:
    reader = Scripted()
    load_ahead(scripted(reader))
    assert threads() == []
    assert reader.asked == []


def test_a_record_is_read_or_failed() -> None:
    source = Source(Format.HUGGING_FACE, {}, {}, "here")
    for wrong in [(None, None), (source, CheckpointError("bad"))]:
        with pytest.raises(ValueError, match="either read or has the error"):
            Loaded(0, wrong[0], None, wrong[1], 0.0)

"""Reads the next checkpoints in the background while the caller works on this one."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from circuit_econ.errors import ConfigurationError
from circuit_econ.model import Model
from circuit_econ.model.source import Source
from circuit_econ.model.weights import Inventory
from circuit_econ.trajectory.fingerprint import describe
from circuit_econ.trajectory.record import Trajectory
from circuit_econ.trajectory.steps import StepsLike

__all__ = ["Loaded", "load_ahead"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """One checkpoint, read or not.

    Attributes:
        step: Its optimiser step.
        source: What was read; None if it could not be, or no model made of it.
        tensors: Its rows of the ``tensors`` table; None without an inventory or a source.
        error: What was raised where it could not be read or made into a model; None if it was.
        seconds_reading: Time the reading and the digests took, in the background.
        seconds_waited: How much of that the consumer had to wait for.
        model: The model made of it, if one was asked for.
        go_on: Lets the next one be read, where reading ahead was asked to wait for that.
    """

    step: int
    source: Source | None
    tensors: pl.DataFrame | None
    error: BaseException | None
    seconds_reading: float
    seconds_waited: float = 0.0
    model: Model | None = None
    go_on: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if (self.source is None) == (self.error is None):
            raise ValueError("a checkpoint is either read or has the error that prevented it")


def load_ahead(
    trajectory: Trajectory,
    steps: StepsLike = None,
    *,
    inventory: Callable[[Source], Inventory] | None = None,
    make: Callable[[Source], Model] | None = None,
    depth: int = 1,
    wait: bool = False,
) -> Iterator[Loaded]:
    """The checkpoints in ascending order of steps, read by one background thread.

    Besides the checkpoint in the consumer's hands at most ``depth`` more are in memory. The thread
    starts with the first checkpoint asked for and ends with the iterator: when it is exhausted,
    closed, or dropped because the consumer raised. Ending waits for a read that is under way.

    Args:
        trajectory: The run.
        steps: Which of its checkpoints; all by default.
        inventory: Tells which tensors the model reads; with it each checkpoint is described.
        make: Makes the model, on its device, also in the background.
        depth: How many checkpoints to read ahead, at least 1.
        wait: Read no further before ``go_on`` of the checkpoint in hand is called (or the next one
            asked for): while it is unpacked, there is no room for another.

    Yields:
        One record per step. A checkpoint that cannot be read, whatever was raised, has its
        ``error``; the others are read.

    Raises:
        ConfigurationError: If a step does not exist or ``depth`` is less than 1.
    """
    if depth < 1:
        raise ConfigurationError(f"depth of reading ahead must be at least 1, not {depth}")
    chosen = trajectory.select(steps)
    return _ahead(chosen, partial(_load, inventory=inventory, make=make), depth, wait)


def _ahead(
    trajectory: Trajectory, load: Callable[[Trajectory, int], Loaded], depth: int, wait: bool
) -> Iterator[Loaded]:
    coming = iter(trajectory.steps)
    pending: deque[Future[Loaded]] = deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load-ahead")

    def go_on() -> None:
        while len(pending) < depth and (step := next(coming, None)) is not None:
            pending.append(pool.submit(load, trajectory, step))

    def take() -> Loaded:
        go_on()
        started = time.perf_counter()
        loaded = pending.popleft().result()
        if not wait:
            go_on()
        return replace(loaded, go_on=go_on, seconds_waited=time.perf_counter() - started)

    try:
        for _ in trajectory.steps:
            yield take()  # not bound to a name here, which would keep it alive
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(
    trajectory: Trajectory,
    step: int,
    inventory: Callable[[Source], Inventory] | None,
    make: Callable[[Source], Model] | None,
) -> Loaded:
    started = time.perf_counter()
    source, tensors = None, None
    try:
        source = trajectory.read(step)
        tensors = None if inventory is None else describe(step, source, inventory(source))
        model = None if make is None else make(source)
    except BaseException as error:
        # Nobody interrupts this thread, so whatever was raised is of the checkpoint. What nobody
        # foresaw keeps its traceback, but not the half-read tensors in it.
        source = None
        traceback.clear_frames(error.__traceback__)
        return Loaded(step, None, tensors, error, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    return Loaded(step, source, tensors, None, seconds, model=model)

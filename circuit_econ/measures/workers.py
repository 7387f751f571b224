"""Runs chunks side by side on the cores of a CPU; elsewhere one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch

from circuit_econ.measures.plan import workers_of

__all__ = ["Workers"]


class Workers:
    """A chunk per core, each with one thread of its own.

    Two small products on two cores are faster than one product on both: nobody waits for anybody
    within a block. At most one chunk per worker waits, so memory stays bounded.
    """

    def __init__(self, device: torch.device) -> None:
        """Ready for a device."""
        self.count = workers_of(device)
        self.threads = torch.get_num_threads()
        self.pool: ThreadPoolExecutor | None = None
        self.pending: deque[Future[None]] = deque()

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        """Run it soon; raises what earlier work raised."""
        if self.pool is None:
            work(*arguments)
            return
        while len(self.pending) >= 2 * self.count:
            self.pending.popleft().result()
        self.pending.append(self.pool.submit(work, *arguments))

    def finish(self) -> None:
        """Wait for everything; raises what any of it raised."""
        while self.pending:
            self.pending.popleft().result()

    def __enter__(self) -> Workers:
        """Start the threads; until the end torch uses one thread for each."""
        if self.count > 1:
            self.pool = ThreadPoolExecutor(self.count, "sweep", lambda: torch.set_num_threads(1))
            # Whoever hands out the work computes, too: teams of threads would wait for each other.
            torch.set_num_threads(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the threads; work not begun is dropped."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.pool = None
            torch.set_num_threads(self.threads)

"""Progress of a walk: a bar on a terminal, plain lines in a log, from Python only if asked."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

__all__ = ["Bar", "Lines", "Progress", "Silent"]

logger = logging.getLogger("circuit_econ.walk")


@runtime_checkable
class Progress(Protocol):
    """What a walk tells while it runs. Entered as a context while checkpoints are visited."""

    def begin(self, checkpoints: int, left: int) -> None:
        """A walk of so many checkpoints begins, so many of them still to measure."""

    def training(self, step: int, total: int, loss: float) -> None:
        """A model of one's own is being trained."""

    def checkpoint(self, step: int) -> None:
        """A checkpoint was read and is measured next."""

    def fraction(self, measure: str, done: float) -> None:
        """So much of the current checkpoint is done; a measure is at work."""

    def measured(self, step: int) -> None:
        """A checkpoint is done."""

    def failed(self, step: int, reason: str) -> None:
        """A checkpoint could not be measured."""

    def finding(self, step: int, finding: str, tensor: str | None, detail: str) -> None:
        """The audit found something."""

    def finished(self, seconds: float, waited: float) -> None:
        """The walk is done; for so much of its time it waited for checkpoints to be read."""

    def __enter__(self) -> Progress:
        """Start to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop to show."""


class Silent:
    """Shows nothing but warnings, by way of the log."""

    def __init__(self) -> None:
        """Begin with nothing done."""
        self.left, self.done, self.since = 0, 0, time.perf_counter()

    def begin(self, checkpoints: int, left: int) -> None:
        """Remember how much there is to do."""
        self.left, self.done, self.since = left, 0, time.perf_counter()

    def training(self, step: int, total: int, loss: float) -> None:
        """Nothing to show."""

    def checkpoint(self, step: int) -> None:
        """Nothing to show."""

    def fraction(self, measure: str, done: float) -> None:
        """Nothing to show."""

    def measured(self, step: int) -> None:
        """Count it."""
        self.done += 1

    def failed(self, step: int, reason: str) -> None:
        """Warn."""
        self.done += 1
        logger.warning("step %d not measured: %s", step, reason)

    def finding(self, step: int, finding: str, tensor: str | None, detail: str) -> None:
        """Warn."""
        where = f" ({tensor})" if tensor else ""
        logger.warning("audit, step %d: %s%s: %s", step, finding, where, detail)

    def finished(self, seconds: float, waited: float) -> None:
        """Nothing to show."""

    def __enter__(self) -> Silent:
        """Nothing to start."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to stop."""


class Lines(Silent):
    """One plain line per checkpoint, and one every half minute within it."""

    every = 30.0

    def __init__(self) -> None:
        """Begin with no line written."""
        super().__init__()
        self.step, self.said = 0, time.perf_counter()

    def begin(self, checkpoints: int, left: int) -> None:
        """Say what there is to do."""
        super().begin(checkpoints, left)
        logger.info("%d checkpoints, %d to measure", checkpoints, left)

    def training(self, step: int, total: int, loss: float) -> None:
        """Say so, if nothing was said for a while, and at the end."""
        if step == total or time.perf_counter() - self.said >= self.every:
            self.said = time.perf_counter()
            logger.info("training: step %d of %d, loss %.3f", step, total, loss)

    def checkpoint(self, step: int) -> None:
        """Remember the step."""
        self.step, self.said = step, time.perf_counter()

    def fraction(self, measure: str, done: float) -> None:
        """Say so, if nothing was said for a while."""
        if time.perf_counter() - self.said >= self.every:
            self.said = time.perf_counter()
            logger.info(
                "step %d: %s, %.0f %% of this checkpoint, %s",
                self.step, measure, 100 * done, self._remaining(self.done + done),
            )  # fmt: skip

    def measured(self, step: int) -> None:
        """Say so."""
        super().measured(step)
        logger.info(
            "step %d measured (%d of %d), %s",
            step, self.done, self.left, self._remaining(float(self.done)),
        )  # fmt: skip

    def finished(self, seconds: float, waited: float) -> None:
        """Say how long it took and what of that was waiting."""
        _conclude(self.done, seconds, waited)

    def _remaining(self, done: float) -> str:
        if not done:
            return "remaining time not known yet"
        seconds = (time.perf_counter() - self.since) / done * (self.left - done)
        return f"about {seconds:.0f} s left"


class Bar(Silent):
    """A bar: checkpoint, what is measured, how much of it is done, remaining time."""

    def __init__(self, console: Console) -> None:
        """A bar on a console."""
        super().__init__()
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self.task = self.bars.add_task("opening", total=None)
        self.step = 0

    def begin(self, checkpoints: int, left: int) -> None:
        """Set the length of the bar."""
        super().begin(checkpoints, left)
        self.bars.start()
        self.bars.update(self.task, total=max(left, 1), completed=0)

    def training(self, step: int, total: int, loss: float) -> None:
        """Move the bar."""
        self.bars.start()
        text = f"training, loss {loss:.3f}"
        self.bars.update(self.task, description=text, total=total, completed=step)
        if step == total:
            self.bars.stop()

    def checkpoint(self, step: int) -> None:
        """Name the checkpoint."""
        self.step = step
        self.bars.update(self.task, description=f"step {step}", completed=self.done)

    def fraction(self, measure: str, done: float) -> None:
        """Move the bar."""
        self.bars.update(
            self.task, description=f"step {self.step}: {measure}", completed=self.done + done
        )

    def measured(self, step: int) -> None:
        """Move the bar."""
        super().measured(step)
        self.bars.update(self.task, completed=self.done)

    def finished(self, seconds: float, waited: float) -> None:
        """Say how long it took and what of that was waiting."""
        _conclude(self.done, seconds, waited)

    def __enter__(self) -> Bar:
        """Show the bar."""
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self.bars.stop()


def _conclude(checkpoints: int, seconds: float, waited: float) -> None:
    if checkpoints:
        share = f"{waited / seconds:.1%}".replace("%", " %")
        logger.info(
            "%d checkpoints in %.1f s, %s of it waiting for weights to be read",
            checkpoints, seconds, share,
        )  # fmt: skip

"""Whether checkpoints are still those that were measured: their files, their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from circuit_econ.errors import ConfigurationError, LedgerError
from circuit_econ.ledger import LedgerWriter
from circuit_econ.measures import Measure
from circuit_econ.tables import Status
from circuit_econ.trajectory import Trajectory
from circuit_econ.trajectory.steps import LAST_STEP

__all__ = ["Noticed", "check_steps", "stamp"]

_READ: Final = ("config.json", ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")

_ANEW: Final = ("tensors", "checkpoints", "audit")
"""Tables of a step that say what was found there, and are written at every visit."""


class Noticed:
    """What a ledger knows of the checkpoints of a walk, and what has changed since."""

    def __init__(
        self, trajectory: Trajectory, writer: LedgerWriter, remeasure: Iterable[int]
    ) -> None:
        """Look at the files of every checkpoint and at what was recorded of them.

        Raises:
            ConfigurationError: If a step to measure again is none of the trajectory's.
        """
        self.writer, self.again = writer, set(remeasure)
        for step in self.again:
            trajectory.checkpoint(step)
        self.origins = {c.step: c.origin for c in trajectory.checkpoints}
        self.stamps = {step: stamp(origin) for step, origin in self.origins.items()}
        rows = writer.ledger.table("checkpoints").collect()
        self.rows: dict[int, Mapping[str, Any]] = {r["step"]: r for r in rows.iter_rows(named=True)}

    def is_finished(self, step: int, measures: Iterable[Measure]) -> bool:
        """Whether nothing of a checkpoint is left to do, so that it need not be read."""
        return step not in self.again and self.is_complete(step, measures) and self.is_same(step)

    def is_complete(self, step: int, measures: Iterable[Measure]) -> bool:
        """Whether all that is asked for is there.

        A checkpoint that failed is tried again: the file may have been mended since.
        """
        tables = ["tensors", *(table for measure in measures for table in measure.tables)]
        measured = self.rows.get(step, {}).get("status") == Status.MEASURED
        return measured and all(self.writer.has(table, step) for table in tables)

    def is_same(self, step: int) -> bool:
        """Whether its files have the sizes and times of when they were read, as far as is known."""
        then, now = self.writer.ledger.seals["checkpoints", step].files, self.stamps[step]
        return then is None or now is None or then == now

    def settle(self, step: int, digest: str) -> None:
        """Compare what was read with what was measured before; give up what no longer holds.

        Raises:
            LedgerError: If the checkpoint is another than the one that was measured.
        """
        others = {
            seal.source
            for seal in self.writer.ledger.seals.values()
            if seal.step == step and seal.table not in _ANEW and seal.source not in (None, digest)
        }
        failed = self.rows.get(step, {}).get("status") == Status.FAILED
        if step in self.again or (others and failed):
            self.writer.discard(step)
            self.again.discard(step)
            self.rows.pop(step, None)
        elif others:
            raise LedgerError(
                f"step {step} changed since it was measured: its digest was {others.pop()} and is "
                f"{digest} now; restore {self.origins[step]}, or have all of it measured again "
                f"with --remeasure {step} (remeasure=[{step}] in Python)"
            )


def stamp(origin: str) -> str | None:
    """Of a checkpoint's files names, sizes and times, hashed; of a hub's revision its name.

    A file that was copied over or touched has another stamp; whether it holds something else only
    reading it tells. None where it cannot be said.
    """
    path = Path(origin)
    try:
        if path.is_dir():
            files = [p for p in sorted(path.iterdir()) if p.name.endswith(_READ) and p.is_file()]
        elif path.is_file():
            files = [path]
        else:
            return None if path.is_absolute() or "@" not in origin else origin
        told = [(p.name, s.st_size, s.st_mtime_ns) for p in files for s in [p.stat()]]
    except (OSError, ValueError):
        return None
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def check_steps(trajectory: Trajectory) -> None:
    """Raise a ConfigurationError for a step that no table can hold."""
    if trajectory.steps[-1] > LAST_STEP:
        raise ConfigurationError(
            f"{trajectory.checkpoints[-1].origin}: {trajectory.steps[-1]} is no step, steps end at "
            f"{LAST_STEP}; rename the checkpoint, or leave it out with trajectory.steps"
        )

"""Opening a ledger for reading: every table as a lazy frame, of the parts that were written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from circuit_econ.errors import LedgerError, foreign, unknown
from circuit_econ.ledger.record import read_run
from circuit_econ.ledger.seals import Key, Record, Seal, part_file, parts_folder
from circuit_econ.tables import TABLES

__all__ = ["Ledger", "open_ledger", "read_record"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """A run's tables, for reading.

    Attributes:
        path: The run's folder.
        run: The content of ``run.yaml``: configuration, versions, digests, plan.
        seals: What is known of every part; nothing else in the folder is data.
    """

    path: Path
    run: dict[str, Any]
    seals: dict[Key, Seal] = field(default_factory=dict[Key, Seal], repr=False, compare=False)

    @property
    def tables(self) -> list[str]:
        """Names of the tables that hold anything."""
        held = {table for table, _ in self.seals}
        return [name for name in TABLES if name in held]

    def table(self, name: str) -> pl.LazyFrame:
        """One table over all steps, sorted by step; empty with its schema if nothing was written.

        Raises:
            ConfigurationError: If there is no table of that name.
        """
        if name not in TABLES:
            raise unknown("table", name, TABLES)
        parts = sorted((-1 if step is None else step, table, step) for table, step in self.seals
                       if table == name)  # fmt: skip
        if not parts:
            return pl.LazyFrame(schema=TABLES[name])
        # Parts are immutable and in the order of their steps: the order is always the same.
        files = [part_file(self.path, (table, step)) for _, table, step in parts]
        return pl.scan_parquet(files, hive_partitioning=False, glob=False)

    def steps(self, table: str) -> list[int]:
        """Steps for which a table has parts."""
        return sorted(step for name, step in self.seals if name == table and step is not None)


def open_ledger(path: str | Path) -> Ledger:
    """Open the ledger of a run, as it is now.

    Every part is compared with what was recorded when it was written: by size and time, and where
    these are others, by its digest.

    Args:
        path: The run's folder, the one that holds ``run.yaml`` and ``ledger/``.

    Raises:
        LedgerError: If there is none, if its schema version is not the one this code reads, or if
            a part is damaged or missing, or its seal is.
    """
    root = Path(path)
    run = read_run(root)
    state = read_record(root).check(root)
    for _ in range(2):
        if state.bad or state.unsealed:  # a walk that is at work may have written it since
            state = read_record(root).check(root)
    if state.bad:
        (key, reason), *others = state.bad.items()
        name = part_file(root, key).relative_to(parts_folder(root))
        more = f" (and {len(others)} more parts)" if others else ""
        raise LedgerError(
            f"ledger in {str(root)!r}: {name.as_posix()} {reason}{more}; walk again to have it "
            "measured again, or see what is wrong with circuit-econ audit"
        )
    if state.unsealed:
        name = part_file(root, state.unsealed[0]).relative_to(parts_folder(root))
        more = f" (and {len(state.unsealed) - 1} more)" if state.unsealed[1:] else ""
        raise LedgerError(
            f"ledger in {str(root)!r}: seals were lost, nothing says what was written to "
            f"{name.as_posix()}{more}; walk again to have it measured again, or see what is wrong "
            "with circuit-econ audit"
        )
    return Ledger(root, run, state.good)


def read_record(root: Path) -> Record:
    """The seals of a run's folder.

    Raises:
        LedgerError: If they cannot be read.
    """
    with foreign(LedgerError, f"the seals of the ledger in {str(root)!r} cannot be read"):
        return Record.read(root)

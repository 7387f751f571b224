"""Opening a ledger for reading: every table as a lazy frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl
import yaml

from circuit_econ.errors import LedgerError, unknown
from circuit_econ.tables import SCHEMA_VERSION, STEPLESS, TABLES

__all__ = ["Ledger", "open_ledger", "part_folder"]

RUN_FILE = "run.yaml"


def part_folder(root: Path, table: str, step: int | None) -> Path:
    """Where the parts of a table (of one step) lie below the run's folder."""
    folder = root / "ledger" / table
    # Ten digits: zero-padded names sort as numbers do, beyond any optimiser's steps.
    return folder if step is None else folder / f"step={step:010d}"


@dataclass(frozen=True, slots=True)
class Ledger:
    """A run's tables, for reading.

    Attributes:
        path: The run's folder.
        run: The content of ``run.yaml``: configuration, versions, digests, plan.
    """

    path: Path
    run: dict[str, Any]

    @property
    def tables(self) -> list[str]:
        """Names of the tables that hold anything."""
        return [name for name in TABLES if self._parts(name)]

    def table(self, name: str) -> pl.LazyFrame:
        """One table over all steps, sorted by step; empty with its schema if nothing was written.

        Raises:
            ConfigurationError: If there is no table of that name.
        """
        if name not in TABLES:
            raise unknown("table", name, TABLES)
        parts = self._parts(name)
        if not parts:
            return pl.LazyFrame(schema=TABLES[name])
        # Sorted paths are sorted steps, and parts are immutable: the order is always the same.
        return pl.scan_parquet(parts, hive_partitioning=False)

    def steps(self, table: str) -> list[int]:
        """Steps for which a table has parts."""
        if table in STEPLESS:
            return []
        folder = part_folder(self.path, table, None)
        names = sorted(p.parent.name for p in folder.glob("step=*/part-*.parquet"))
        return sorted({int(name.removeprefix("step=")) for name in names})

    def _parts(self, name: str) -> list[Path]:
        return sorted(part_folder(self.path, name, None).glob("**/part-*.parquet"))


def open_ledger(path: str | Path) -> Ledger:
    """Open the ledger of a run.

    Args:
        path: The run's folder, the one that holds ``run.yaml`` and ``ledger/``.

    Raises:
        LedgerError: If there is none, or if its schema version is not the one this code reads.
    """
    root = Path(path)
    file = root / RUN_FILE
    if not file.is_file():
        raise LedgerError(
            f"no ledger in {str(root)!r}: {RUN_FILE} is missing; name the folder a walk wrote "
            "(its 'out'), the one that holds run.yaml and ledger/"
        )
    loaded: object = yaml.safe_load(file.read_text(encoding="utf-8"))
    run = cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
    version = run.get("schema_version")
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"ledger in {str(root)!r} has schema version {version}; this version of circuit_econ "
            f"reads {SCHEMA_VERSION}: read it with the version that wrote it, or walk again"
        )
    return Ledger(root, run)

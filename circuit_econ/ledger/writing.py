"""Writing a ledger: every part appears whole or not at all, and a run continues only as itself."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard
from uuid import uuid4

import polars as pl
import yaml
from filelock import FileLock, Timeout

from circuit_econ.errors import LedgerError
from circuit_econ.ledger.store import RUN_FILE, Ledger, open_ledger, part_folder
from circuit_econ.tables import STEPLESS, TABLES

__all__ = ["LedgerWriter", "differences"]

_PARTIAL = ".partial"


class LedgerWriter:
    """Write access to the ledger of one run.

    Use :meth:`open`; one process at a time holds the folder. Files are written under a temporary
    name outside the dataset and renamed, so that a reader, or the same run after a kill, never sees
    half a table.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Wrap a ledger whose folder this process holds; :meth:`open` is the way to get one."""
        self.ledger = ledger

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, run: dict[str, Any]) -> Generator[LedgerWriter, None, None]:
        """Create the ledger in ``path``, or continue the one that is there.

        Args:
            path: The run's folder; created with its parents.
            run: What ``run.yaml`` shall say. Where a ledger exists, its ``identity`` must be equal,
                new entries of ``identity.measures`` apart; its ``plan`` is kept, so that a
                continued run adds up in the same order.

        Raises:
            LedgerError: If the folder cannot be written, is held by another process, or holds the
                ledger of another configuration (the difference is named).
        """
        root = Path(path)
        with _explained(root):
            (root / _PARTIAL).mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(root / ".lock"))
        try:
            with _explained(root):
                lock.acquire(timeout=0)
        except Timeout:
            raise LedgerError(
                f"{str(root)!r} is being written by another walk; wait for it or choose another out"
            ) from None
        try:
            # What a killed run left half-written: nobody else writes while we hold the lock.
            for leftover in (root / _PARTIAL).iterdir():
                leftover.unlink()
            if (root / RUN_FILE).is_file():
                old = open_ledger(root).run
                run = {**run, "identity": _extended(old["identity"], run["identity"])}
                # Added measures are no difference; those that both name must agree.
                known = {**run["identity"]["measures"], **old["identity"].get("measures", {})}
                changed = differences({**old["identity"], "measures": known}, run["identity"])
                if changed:
                    raise LedgerError(
                        f"{str(root)!r} holds a ledger of another configuration: "
                        f"{'; '.join(changed)}; choose another out, or restore the setting"
                    )
                run = {**run, "plan": old.get("plan", run.get("plan"))}
            writer = cls(Ledger(root, run))
            writer._write_text(RUN_FILE, yaml.safe_dump(run, sort_keys=False, allow_unicode=True))
            yield writer
        finally:
            lock.release()

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.ledger.path

    def has(self, table: str, step: int | None) -> bool:
        """Whether the table holds anything for the step."""
        return any(part_folder(self.path, table, step).glob("part-*.parquet"))

    def write(self, table: str, frame: pl.DataFrame, step: int | None = None) -> None:
        """Write one table of one step.

        Args:
            table: A name of :data:`circuit_econ.tables.TABLES`.
            frame: Rows in the table's schema; may be empty, which records that there are none.
            step: The optimiser step; None for tables without one.

        Raises:
            ValueError: If the frame is not of the table's schema or holds another step.
            LedgerError: If the disk is full or the folder cannot be written.
        """
        if frame.schema != TABLES[table]:
            raise ValueError(f"table {table!r}: {frame.schema} is not {TABLES[table]}")
        if (table in STEPLESS) != (step is None):
            raise ValueError(f"table {table!r} does not go with step {step}")
        if step is not None and frame.height and frame["step"].unique().to_list() != [step]:
            raise ValueError(f"table {table!r}: rows of other steps than {step}")
        partial = self.path / _PARTIAL / f"{uuid4().hex}.parquet"
        target = part_folder(self.path, table, step) / "part-0.parquet"
        with _explained(self.path):
            frame.write_parquet(partial)
            _synchronise(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)

    def _write_text(self, name: str, text: str) -> None:
        partial = self.path / _PARTIAL / f"{uuid4().hex}.txt"
        with _explained(self.path):
            partial.write_text(text, encoding="utf-8")
            _synchronise(partial)
            partial.replace(self.path / name)


def _extended(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new identity with the measures of both: measures may be added, and left out for now."""
    return {**new, "measures": {**old.get("measures", {}), **new.get("measures", {})}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, as ``key: old → new`` in the order of the keys."""
    found: list[str] = []
    for key in [*old, *(k for k in new if k not in old)]:
        before, after = old.get(key), new.get(key)
        if _is_nested(before) and _is_nested(after):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} there, {after!r} asked for")
    return found


def _is_nested(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _synchronise(path: Path) -> None:
    """Have the bytes on disk before the name: a crash must not leave an empty part in place."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _explained(root: Path) -> Generator[None, None, None]:
    """Turn what the file system says into one line that tells what to do."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        if isinstance(error, Timeout):
            raise
        raise LedgerError(
            f"cannot write to {str(root)!r}: {error}; free space or choose another out "
            "(what was measured so far is kept)"
        ) from error

"""Writing a ledger: every part appears whole or not at all, and a run continues only as itself."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeGuard
from uuid import uuid4

import polars as pl

from circuit_econ.errors import LedgerError, foreign, one_line
from circuit_econ.filing import HeldError, held, put
from circuit_econ.ledger.record import RUN_FILE, dumped, read_run
from circuit_econ.ledger.seals import (
    SEALS,
    Seal,
    joined,
    part_file,
    parts_folder,
)
from circuit_econ.ledger.store import Ledger, read_record
from circuit_econ.tables import STEPLESS, TABLES

__all__ = ["LedgerWriter", "differences"]

_PARTIAL = ".partial"
_OURS = re.compile(r"[0-9a-f]{32}\.(parquet|txt)")

logger = logging.getLogger(__name__)


class LedgerWriter:
    """Write access to the ledger of one run.

    Use :meth:`open`; one process at a time holds the folder. Files are written under a temporary
    name outside the dataset and renamed, so that a reader, or the same run after a kill, never sees
    half a table; what was written is sealed, so that nothing else is taken for it.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Wrap a ledger whose folder this process holds; :meth:`open` is the way to get one."""
        self.ledger = ledger

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, run: dict[str, Any]) -> Generator[LedgerWriter, None, None]:
        """Create the ledger in ``path``, or continue the one that is there.

        A part that is missing, or is not what was written, is named in the log and no longer
        counts: it is measured again.

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
        with _alone(root):
            if (root / RUN_FILE).exists():
                run = _continued(root, run)
            ledger = Ledger(root, run)
            writer = cls(ledger)
            with _explained(root):
                writer._tidy()
                writer._put_text(RUN_FILE, dumped(run))
            yield writer

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.ledger.path

    def has(self, table: str, step: int | None) -> bool:
        """Whether the table holds anything for the step."""
        return (table, step) in self.ledger.seals

    def write(
        self,
        table: str,
        frame: pl.DataFrame,
        step: int | None = None,
        *,
        source: str | None = None,
        files: str | None = None,
    ) -> None:
        """Write one table of one step.

        Args:
            table: A name of :data:`circuit_econ.tables.TABLES`.
            frame: Rows in the table's schema; may be empty, which records that there are none.
            step: The optimiser step; None for tables without one.
            source: Digest of the checkpoint that was measured.
            files: Size and time of its files.

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
        key = (table, step)
        target = part_file(self.path, key)

        # Made in memory: what polars cannot write is one thing, what a disk does not take another.
        content = io.BytesIO()
        frame.write_parquet(content)

        def write(partial: Path) -> None:
            partial.write_bytes(content.getbuffer())

        def seal(partial: Path) -> None:
            found = partial.stat()
            digest = hashlib.sha256(content.getbuffer()).hexdigest()
            sealed = Seal(
                table, step, frame.height, found.st_size, digest, found.st_mtime_ns, source, files
            )
            self._append(sealed)
            self.ledger.seals[key] = sealed

        with _explained(self.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            put(write, target, self._partial("parquet"), seal)

    def discard(self, step: int) -> None:
        """Give up every part of a step: all of it is measured again.

        Raises:
            LedgerError: If the folder cannot be written.
        """
        with _explained(self.path):
            for key in [key for key in self.ledger.seals if key[1] == step]:
                self._append(Seal(*key, gone=True))
                del self.ledger.seals[key]
                part_file(self.path, key).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Take stock: what a kill left half-written goes, what is no longer good does not count."""
        # Nobody else writes while we hold the lock; what is not named as we do is not ours.
        for leftover in (self.path / _PARTIAL).iterdir():
            if _OURS.fullmatch(leftover.name) and leftover.is_file():
                leftover.unlink()
        parts_folder(self.path).mkdir(exist_ok=True)
        record = read_record(self.path)
        state = record.check(self.path)
        for number in record.damaged:
            logger.warning("%s: line %d cannot be read; what it sealed is measured again",
                           parts_folder(self.path) / SEALS, number)  # fmt: skip
        for key, reason in state.bad.items():
            logger.warning("%s %s: it is measured again", part_file(self.path, key), reason)
        for seal in record.current.values():
            if seal.gone:
                part_file(self.path, seal.key).unlink(missing_ok=True)
        self.ledger.seals.update(state.good)
        if state.stale:
            self._put_text(f"ledger/{SEALS}", joined(state.good.values()))

    def _append(self, seal: Seal) -> None:
        with (parts_folder(self.path) / SEALS).open("a", encoding="utf-8", newline="\n") as file:
            file.write(seal.line)

    def _put_text(self, name: str, text: str) -> None:
        def write(partial: Path) -> None:
            partial.write_text(text, encoding="utf-8", newline="\n")

        put(write, self.path / name, self._partial("txt"))

    def _partial(self, suffix: str) -> Path:
        return self.path / _PARTIAL / f"{uuid4().hex}.{suffix}"


def _continued(root: Path, run: dict[str, Any]) -> dict[str, Any]:
    """What a run says that goes on in a folder, if it may."""
    old = read_run(root)
    identity: dict[str, Any] = old.get("identity", {})
    run = {**run, "identity": _extended(identity, run["identity"])}
    # Added measures are no difference; those that both name must agree.
    known = {**run["identity"]["measures"], **_measures(identity)}
    changed = differences({**identity, "measures": known}, run["identity"])
    if changed:
        raise LedgerError(
            f"{str(root)!r} holds a ledger of another configuration: "
            f"{'; '.join(changed)}; choose another out, or restore the setting"
        )
    return {**run, "plan": old.get("plan", run.get("plan"))}


def _extended(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new identity with the measures of both: measures may be added, and left out for now."""
    return {**new, "measures": {**_measures(old), **_measures(new)}}


def _measures(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    found = identity.get("measures")
    return found if _is_nested(found) else {}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, as ``key: old → new`` in the order of the keys."""
    found: list[str] = []
    for key in [*old, *(k for k in new if k not in old)]:
        before, after = old.get(key), new.get(key)
        if _is_nested(before) and _is_nested(after):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            there, here = one_line(repr(before)), one_line(repr(after))
            found.append(f"{prefix}{key}: {there} there, {here} asked for")
    return found


def _is_nested(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


@contextmanager
def _alone(root: Path) -> Generator[None, None, None]:
    """Hold the run's folder."""
    with ExitStack() as stack:
        try:
            with _explained(root):
                stack.enter_context(held(root / ".lock", str(root), wait=False))
        except HeldError:
            raise LedgerError(
                f"{str(root)!r} is being written by another walk; wait for it or choose another out"
            ) from None
        yield


@contextmanager
def _explained(root: Path) -> Generator[None, None, None]:
    """Turn what the file system says into one line that tells what to do."""
    what = (
        f"cannot write to {str(root)!r}: free space or choose another out; what was measured so "
        "far is kept"
    )
    with foreign(LedgerError, what):
        yield

"""What is wrong with a ledger: every part against what was recorded when it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import polars as pl

from circuit_econ.errors import LedgerError, foreign
from circuit_econ.filing import digest_of
from circuit_econ.ledger.record import RUN_FILE, read_run
from circuit_econ.ledger.seals import SEALS, Key, State, part_file, parts_folder
from circuit_econ.ledger.store import read_record

__all__ = ["Defect", "Kind", "check_ledger", "is_ledger"]

_STEP = re.compile(r"step=(\d+)")


class Kind(StrEnum):
    """What may be wrong with a ledger."""

    DAMAGED = "damaged"
    MISSING = "missing"
    OTHER_STEP = "other-step"
    DOUBLED = "doubled"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong.

    Attributes:
        step: The step it is about; None where there is none.
        kind: What it is.
        file: Which file, below the run's folder.
        detail: A sentence.
    """

    step: int | None
    kind: Kind
    file: str
    detail: str


def is_ledger(path: Path) -> bool:
    """Whether a folder is that of a run, whatever its state."""
    try:
        return (path / RUN_FILE).exists() or (parts_folder(path) / SEALS).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def check_ledger(root: Path) -> tuple[int, list[Defect]]:
    """How many parts a ledger has, and everything that is wrong with it. Reads every byte.

    Raises:
        LedgerError: If it cannot be looked at: another schema version, seals out of reach.
    """
    found: list[Defect] = []
    try:
        read_run(root)
    except LedgerError as error:
        if (root / RUN_FILE).is_file() and "has schema version" in str(error):
            raise
        found.append(Defect(None, Kind.DAMAGED, RUN_FILE, str(error)))
    record = read_record(root)
    state = record.check(root, thoroughly=True)
    folder = parts_folder(root)
    for line in record.damaged:
        found.append(
            Defect(None, Kind.DAMAGED, f"ledger/{SEALS}", f"line {line} cannot be read; the part "
                   "it sealed counts as foreign")
        )  # fmt: skip
    owners = {seal.digest: key for key, seal in record.current.items() if not seal.gone}
    for key, reason in state.bad.items():
        path = part_file(root, key)
        kind, detail = Kind.DAMAGED, reason
        if not path.exists():
            kind = Kind.MISSING
        elif (other := owners.get(_digest(path) or "", key)) != key:
            kind, detail = Kind.OTHER_STEP, f"holds {_named(other)}, not {_named(key)}"
        found.append(Defect(key[1], kind, _below(path, root), detail))
    found += _strangers(folder, root, state, owners)
    found += _misplaced(root, state)
    order = list(Kind)
    found.sort(key=lambda d: (-1 if d.step is None else d.step, d.file, order.index(d.kind)))
    return len(state.good), found


def _strangers(folder: Path, root: Path, state: State, owners: dict[str, Key]) -> Iterator[Defect]:
    """Files that the ledger did not write."""
    known = {part_file(root, key) for key in (*state.good, *state.bad)} | {folder / SEALS}
    for path in sorted(folder.rglob("*")):
        if path in known or (path.is_dir() and not path.is_symlink()):
            continue
        matches = [_STEP.fullmatch(part) for part in path.relative_to(folder).parts]
        step = next((int(match[1]) for match in matches if match), None)
        copied = owners.get(_digest(path) or "")
        kind = Kind.FOREIGN if copied is None else Kind.DOUBLED
        what = "the ledger did not write it" if copied is None else f"a copy of {_named(copied)}"
        yield Defect(step, kind, _below(path, root), f"{what}; it is not read")


def _misplaced(root: Path, state: State) -> Iterator[Defect]:
    """Parts whose rows are not of the step that their place says."""
    for key in state.good:
        path = part_file(root, key)
        if key[1] is None:
            continue
        with foreign(LedgerError, f"{str(path)!r} cannot be read"):
            steps = pl.read_parquet(path, columns=["step"], glob=False)["step"].unique().to_list()
        if steps not in ([], [key[1]]):
            yield Defect(key[1], Kind.OTHER_STEP, _below(path, root), f"its rows: {steps[:3]}")


def _digest(path: Path) -> str | None:
    """Of a file that may be anything; None if it cannot be read."""
    try:
        return digest_of(path) if path.is_file() else None
    except OSError:
        return None


def _named(key: Key) -> str:
    return f"table {key[0]}" + ("" if key[1] is None else f" of step {key[1]}")


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()

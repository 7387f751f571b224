"""Seals: which parts a ledger wrote, and what was in them, so that nothing else is read as data.

``ledger/seals.jsonl`` has a line for every part that was written: its table, step, rows, bytes and
digest, when it was written, and the digest of the checkpoint it was measured on. The line is
written *before* the part is put in place, so of a write that a kill broke off either the seal is
all there is (the part is measured again), or the part before it is still there, whole (it counts).
The last line for a part holds; later lines say that the write before them was finished.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, cast

from circuit_econ.filing import digest_of, read_text
from circuit_econ.tables import STEPLESS, TABLES

__all__ = [
    "SEALS",
    "Key",
    "Record",
    "Seal",
    "State",
    "joined",
    "part_file",
    "parts_folder",
]

SEALS: Final = "seals.jsonl"

_MOST: Final = 500_000_000
"""Bytes of a file of seals: two million parts."""

Key = tuple[str, int | None]
"""A table and a step; None for a table without steps."""


def parts_folder(root: Path) -> Path:
    """The folder of the tables below a run's folder."""
    return root / "ledger"


def part_file(root: Path, key: Key) -> Path:
    """Where the part of a table (of one step) lies below the run's folder."""
    table, step = key
    folder = parts_folder(root) / table
    # Ten digits: zero-padded names sort as numbers do, for any optimiser's steps; where steps count
    # tokens there may be more, and only the numbers sort.
    return (folder if step is None else folder / f"step={step:010d}") / "part-0.parquet"


@dataclass(frozen=True, slots=True)
class Seal:
    """What is known of a part.

    Attributes:
        table: Its table.
        step: Its step; None in a table without steps.
        rows: Rows in it.
        bytes: Size of the file.
        digest: SHA-256 of the file.
        modified: When it was last written, in ns: a part of this time and size is not read again.
        source: Digest of the checkpoint it was measured on; None where there is none.
        files: Size and time of that checkpoint's files when they were read; None if not known.
        gone: The part was given up: no rows, to be measured again.
    """

    table: str
    step: int | None = None
    rows: int = 0
    bytes: int = 0
    digest: str = ""
    modified: int = 0
    source: str | None = None
    files: str | None = None
    gone: bool = False

    def __post_init__(self) -> None:
        """Nothing that a file says is taken for a seal if it could be none."""
        whole = (self.rows, self.bytes, self.modified, *([] if self.step is None else [self.step]))
        right = (
            self.table in TABLES
            and (self.step is None) == (self.table in STEPLESS)
            and all(type(n) is int and 0 <= n < 1 << 63 for n in whole)
            and isinstance(cast("object", self.digest), str)
            and all(isinstance(t, str | None) for t in cast("Any", (self.source, self.files)))
            and isinstance(cast("object", self.gone), bool)
        )
        if not right:
            raise ValueError(f"no seal: {self}")

    @property
    def key(self) -> Key:
        """Which part it seals."""
        return self.table, self.step

    @property
    def line(self) -> str:
        """As it is written. A line begins with its break: a torn one before it ends there."""
        said = {k: v for k, v in asdict(self).items() if v is not None and v is not False}
        return "\n" + json.dumps(said)


@dataclass(frozen=True, slots=True)
class State:
    """Parts of a ledger as their seals and files say.

    Attributes:
        good: Parts that are what was written.
        bad: Parts that are sealed and are missing, or are not what was written: key to reason.
        stale: Whether seals should be written anew: they hold what no longer holds.
        unsealed: Parts that are there and of which no seal says anything: a seal is written before
            its part, so seals were lost.
    """

    good: dict[Key, Seal]
    bad: dict[Key, str]
    stale: bool
    unsealed: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """The lines of a file of seals.

    Attributes:
        current: The last seal of every part, given up ones included.
        before: Of the part that the very last line is about, the seal before: it holds if a kill
            came before the part was in place.
        damaged: Numbers of lines that are no seals, from 1.
        lines: How many there are.
    """

    current: dict[Key, Seal] = field(default_factory=dict[Key, Seal])
    before: tuple[Key, Seal | None] | None = None
    damaged: tuple[int, ...] = ()
    lines: int = 0

    @classmethod
    def read(cls, root: Path) -> Record:
        """Read the seals of a run's folder; there are none where there is no file.

        Raises:
            OSError: If the file cannot be read.
        """
        path = parts_folder(root) / SEALS
        if not path.exists():
            return cls()
        # A damaged byte spoils its line, not the file.
        text = read_text(path, _MOST, errors="replace")
        current: dict[Key, Seal] = {}
        before, damaged, lines = None, list[int](), 0
        for number, line in enumerate(text.split("\n"), start=1):
            if not line:
                continue
            lines += 1
            seal = _seal(line)
            if seal is None:
                damaged.append(number)
                continue
            before = (seal.key, current.get(seal.key))
            current[seal.key] = seal
        return cls(current, before, tuple(damaged), lines)

    def check(self, root: Path, *, thoroughly: bool = False) -> State:
        """Compare with the parts that are there.

        Args:
            root: The run's folder.
            thoroughly: Whether to read those, too, whose size and time are as written.
        """
        good: dict[Key, Seal] = {}
        bad: dict[Key, str] = {}
        stale = bool(self.damaged) or self.lines > len(self.current)
        for key, seal in self.current.items():
            last = self.before is not None and self.before[0] == key
            earlier = self.before[1] if last and self.before else None
            if seal.gone:
                continue
            path = part_file(root, key)
            found = _found(path, seal, thoroughly)
            if isinstance(found, str) and earlier is not None and not earlier.gone:
                kept = _found(path, earlier, thoroughly)
                found = kept if isinstance(kept, Seal) else found
            if isinstance(found, Seal):
                good[key] = found
                stale = stale or found != seal
            elif last and not path.exists():
                stale = True  # a kill came before the part: it was never there
            else:
                bad[key] = found
        there = list(_parts(root))
        # A step of which nothing else is there is somebody's copy, put beside what we wrote.
        parts = Counter(step for _, step in {*there, *self.current})
        lost = (k for k in there if k not in self.current)
        unsealed = tuple(k for k in lost if k[1] is None or parts[k[1]] > 1)
        return State(good, bad, stale or bool(bad), unsealed)


def joined(seals: Iterable[Seal]) -> str:
    """The text of a file of seals."""
    return "".join(seal.line for seal in seals) + "\n"


def _parts(root: Path) -> Iterator[Key]:
    """What lies where the parts of tables do."""
    for table in TABLES:
        if table in STEPLESS:
            keys: Iterable[Key] = [(table, None)]
        else:
            try:
                names = [entry.name for entry in os.scandir(parts_folder(root) / table)]
            except OSError:
                continue  # none were written, or the seals tell what is missing
            numbers = (name.removeprefix("step=") for name in names)
            keys = ((table, int(n)) for n in numbers if n.isascii() and n.isdecimal())
        yield from (key for key in keys if part_file(root, key).exists())


def _seal(line: str) -> Seal | None:
    try:
        content: object = json.loads(line)
        if not isinstance(content, Mapping):
            return None
        return Seal(**cast("dict[str, Any]", content))
    # Whatever a line that is no seal makes of it, down to digits that no integer may have.
    except (ValueError, TypeError, RecursionError):
        return None


def _found(path: Path, seal: Seal, thoroughly: bool) -> Seal | str:
    """The seal, with the time the file has now; or what is wrong."""
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            return "is not a regular file"
        if status.st_size != seal.bytes:
            return f"is damaged: {status.st_size:,} bytes, and {seal.bytes:,} were written"
        if status.st_mtime_ns == seal.modified and not thoroughly:
            return seal
        kept = digest_of(path) if thoroughly else _kept(path, status.st_size, status.st_mtime_ns)
        if kept != seal.digest:
            return "is damaged: its digest is not the one recorded when it was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return replace(seal, modified=status.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _kept(path: Path, _size: int, _modified: int) -> str:
    """The digest of a file, kept as long as its size and time stay the same."""
    return digest_of(path)

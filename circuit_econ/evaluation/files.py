"""Files of text: which there are, what may be opened, and one way of decoding for all of them."""

from __future__ import annotations

import json
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from circuit_econ.errors import ConfigurationError, foreign
from circuit_econ.evaluation.parquet import uncompressed

__all__ = [
    "MOST_TEXT",
    "SUFFIXES",
    "Listing",
    "check_folder",
    "list_files",
    "plain",
    "read_file",
    "text_of",
    "too_much",
]

MOST_TEXT: Final = 512 * 2**20
"""Bytes of text a source may hold: ids take eight times as much memory."""
_LONGEST_LINE: Final = 32 * 2**20
"""Characters of a line of JSON: what it describes may take twenty times as much memory."""
_MOST_FILES: Final = 1_000_000
"""Entries of a folder: a link may lead to the root of everything."""
_MARK: Final = "\ufeff"
_ENCODINGS: Final = (
    # UTF-32 first: its mark begins with that of UTF-16.
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SPECIAL: Final = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a folder.

    Attributes:
        files: Those that can be read, in the order of their paths.
        left_out: How many were left out, by what they are: a suffix, or why.
    """

    files: list[Path]
    left_out: dict[str, int]


def list_files(path: Path) -> Listing:
    """A file, or all files of a folder and of the folders in it.

    Links are followed; each real file is listed once, under its own path where that lies in the
    folder, so that a link which leads back adds nothing.

    Raises:
        ConfigurationError: If there is no such file, or none that can be read.
    """
    with foreign(ConfigurationError, f"cannot read {path}"):
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except FileNotFoundError:
            raise ConfigurationError(f"no such file or folder: {path}") from None
        if is_folder:
            return _list_folder(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(
            f"{path}: cannot read {path.suffix or 'a file without suffix'};"
            f" there is: {', '.join(SUFFIXES)}"
        )
    return Listing([path], {})


def _list_folder(top: Path) -> Listing:
    real, linked, seen = [top], list[Path](), set[tuple[int, int]]()
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    while real or linked:
        # What lies in the folder itself comes first, so that its own path is the one kept.
        place = real.pop() if real else linked.pop(0)
        try:
            found = place.stat()
        except OSError:
            left_out["links that lead nowhere"] += 1
            continue
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        if len(seen) > _MOST_FILES:
            raise ConfigurationError(
                f"folder {top} leads to more than {_MOST_FILES} files, the last being {place}; name"
                " a smaller one"
            )
        if stat.S_ISDIR(found.st_mode):
            for entry in sorted(place.iterdir()):
                (linked if entry.is_symlink() else real).append(entry)
        elif not stat.S_ISREG(found.st_mode):
            left_out[f"{_SPECIAL[stat.S_IFMT(found.st_mode)].split()[-1]}s"] += 1
        elif place.suffix.lower() in SUFFIXES:
            files.append(place)
        else:
            left_out[place.suffix.lower() or "without suffix"] += 1
    if not files:
        raise ConfigurationError(
            f"folder {top} holds none of {', '.join(SUFFIXES)}"
            + (f"; there is: {_counted(left_out)}" if left_out else "")
        )
    return Listing(sorted(files), dict(sorted(left_out.items())))


def check_folder(path: Path) -> None:
    """Refuse what another library would open and wait for, in a folder that it is about to read.

    Raises:
        ConfigurationError: If the folder holds something that is neither file nor folder.
    """
    for place in path.rglob("*") if path.is_dir() else ():
        kind = stat.S_IFMT(place.stat().st_mode) if place.exists() else stat.S_IFREG
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise ConfigurationError(f"{place} is {_SPECIAL[kind]}, no regular file; remove it")


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))


def read_file(path: Path, field: str) -> Iterator[str]:
    """The documents of a file, each :func:`plain`.

    Raises:
        ConfigurationError: If it cannot be read, is no regular file, or holds what is no text; with
            the place.
    """
    with foreign(ConfigurationError, f"cannot read {path}"):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigurationError(
                f"cannot read {path}: it is {_SPECIAL[stat.S_IFMT(found.st_mode)]}, no regular file"
            )
        if found.st_size > MOST_TEXT:
            raise too_much(f"{path} has {found.st_size / 1e6:.0f} MB")
        yield from _READERS[path.suffix.lower()](path, field)


def too_much(what: str) -> ConfigurationError:
    """The error for more text than is read."""
    return ConfigurationError(
        f"{what}, and at most {MOST_TEXT / 1e6:.0f} MB of text are read; an evaluation set needs a"
        " few MB: give a part of it"
    )


def plain(text: str, place: str) -> str:
    """A document as every measure gets it, whatever kind of source it comes from.

    Lines end with a line feed, and a byte order mark at the beginning is no text.

    Raises:
        ConfigurationError: If it holds half of a surrogate pair, which JSON can say and no encoding
            accepts.
    """
    text = text.removeprefix(_MARK).replace("\r\n", "\n").replace("\r", "\n")
    if half := _SURROGATE.search(text):
        raise ConfigurationError(
            f"{place}: character {half.start()} is \\u{ord(half[0]):04x}, half of a surrogate pair,"
            " which is no text; mend the text or leave it out"
        )
    return text


def text_of(row: object, field: str, place: str) -> str:
    """The text of a row.

    Raises:
        ConfigurationError: If it has none; with the place.
    """
    if not isinstance(row, dict):
        raise ConfigurationError(f"{place}: a row must be an object with the key {field!r}")
    if field not in row:
        raise ConfigurationError(
            f"{place}: no field {field!r}; there is: {', '.join(map(str, row)) or 'nothing'}"
        )
    value: Any = "" if row[field] is None else row[field]
    if not isinstance(value, str):
        raise ConfigurationError(f"{place}: field {field!r} is {type(value).__name__}, not text")
    return plain(value, place)


def _decoded(path: Path) -> str:
    """The text of a file: UTF-8, or what its byte order mark says."""
    content = path.read_bytes()
    encoding = next((name for mark, name in _ENCODINGS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise ConfigurationError(
            f"cannot read {path}: byte 0x{content[error.start]:02x} at offset {error.start} (line"
            f" {line}) is not {encoding.upper()} ({error.reason}); save the file as UTF-8"
        ) from None
    if (place := text.find("\0")) >= 0:
        raise ConfigurationError(
            f"cannot read {path}: character {place} is NUL, which is no text (UTF-16 needs a byte"
            " order mark); save the file as UTF-8"
        )
    return plain(text, str(path))


def _read_txt(path: Path, _field: str) -> Iterator[str]:
    yield _decoded(path)


def _read_jsonl(path: Path, field: str) -> Iterator[str]:
    # Other separators of lines, such as U+2028, may stand inside a string.
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        # Files that were joined have marks further down.
        line = line.removeprefix(_MARK)
        if not line or line.isspace():
            continue
        place = f"{path}, line {number}"
        if len(line) > _LONGEST_LINE:
            raise ConfigurationError(
                f"{place}: {len(line)} characters, and at most {_LONGEST_LINE} are read as one row"
            )
        with foreign(ConfigurationError, f"{place}: no JSON"):
            row = json.loads(line)
        yield text_of(row, field, place)


def _read_parquet(path: Path, field: str) -> Iterator[str]:
    import polars as pl

    with foreign(ConfigurationError, f"cannot read {path}: no parquet file"), path.open("rb") as f:
        # From an open file: in a path, polars would read patterns and partitions.
        columns = pl.read_parquet_schema(f)
        if field not in columns:
            raise ConfigurationError(f"{path}: no column {field!r}; there is: {', '.join(columns)}")
        if columns[field] not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            raise ConfigurationError(f"{path}: column {field!r} is {columns[field]}, not text")
        size = uncompressed(f, field)
        if size > MOST_TEXT:
            raise too_much(f"column {field!r} of {path} would take {size / 1e6:.0f} MB")
        f.seek(0)
        column = pl.read_parquet(f, columns=[field])[field].cast(pl.String).fill_null("")
        # One value repeated a million times takes little room in the file, and here.
        size = int(column.str.len_bytes().cast(pl.Int64).sum())
    if size > MOST_TEXT:
        raise too_much(f"column {field!r} of {path} has {size / 1e6:.0f} MB")
    for number, value in enumerate(column):
        yield plain(value, f"{path}, row {number}")


_READERS: Final[dict[str, Callable[[Path, str], Iterator[str]]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
SUFFIXES: Final = tuple(_READERS)
"""What can be read."""

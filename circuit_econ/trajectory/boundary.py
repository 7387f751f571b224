"""The edge to files from anywhere: what may be opened, and one line for whatever goes wrong."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from circuit_econ.errors import ENDING, CheckpointError, CircuitEconError, reason

__all__ = ["REPAIR", "read_json", "reading", "regular", "shown"]

REPAIR = "copy, download or save it again"

JSON_BYTES = 16 << 20
"""Size of a JSON file above which it is not read: an index of 100,000 tensors has 10 MB."""
JSON_DEPTH = 32
"""Levels of objects and lists in a JSON file; configurations have four or five."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


@contextmanager
def reading(path: Path, wrong: str) -> Iterator[None]:
    """Turns whatever is raised inside into one :class:`CheckpointError` about the file.

    Libraries stumble over damage in any way they like (a panic in Rust is not even an
    ``Exception``), so no type is listed: what is neither ours nor the user's stopping is the
    file's fault.

    Args:
        path: The file being read.
        wrong: What the file then is, with ``{reason}`` and perhaps ``{size}`` in it.
    """
    try:
        yield
    except (CircuitEconError, *ENDING):
        raise
    except OSError as error:
        remedy = "check its permissions" if isinstance(error, PermissionError) else REPAIR
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}); {remedy}"
        ) from None
    except BaseException as error:
        try:
            size = path.stat().st_size
        except (OSError, ValueError):
            size = 0
        said = wrong.format(reason=reason(error), size=size)
        raise CheckpointError(f"{path} {said}; {REPAIR}") from None


def regular(path: Path) -> int:
    """The size in bytes of a file that may be opened; opening anything else could wait for ever.

    Raises:
        CheckpointError: If it is a folder, a pipe, a socket or a device.
        OSError: If it is not there, or links go round in a circle.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no file")
        raise CheckpointError(
            f"{path} is {kind}, not a regular file, and is not opened; put the file itself there"
        )
    return found.st_size


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: If the file is missing, unreadable, not JSON, not an object, or larger or
            deeper than any file that a training run writes.
    """
    with reading(path, "is not JSON ({reason})"):
        try:
            size = regular(path)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} is missing; put the one saved with the weights there"
            ) from None
        with path.open("rb") as file:
            raw = file.read(JSON_BYTES + 1)
        size = max(size, len(raw))  # a file may say less than it holds (/proc)
        if size > JSON_BYTES:
            raise CheckpointError(
                f"{path} has {size} bytes, and at most {JSON_BYTES} of JSON are read; {REPAIR}"
            )
        content = json.loads(raw.decode("utf-8-sig"))
        if not isinstance(content, dict):
            raise CheckpointError(
                f"{path} holds a JSON {type(content).__name__}, not an object; {REPAIR}"
            )
        _check_nesting(content)
    return content


def _check_nesting(content: dict[str, Any]) -> None:
    """Raise unless whoever handles the content later can walk and print it."""
    level: list[Any] = [content]
    for _ in range(JSON_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                value.encode()  # half a surrogate pair cannot be printed
            elif isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        if not inner:
            return
        level = inner
    raise ValueError(f"nested deeper than {JSON_DEPTH} levels")


def shown(path: Path) -> str:
    """A path as tables and records hold it: bytes that are no UTF-8 are spelt out."""
    return str(path).encode("utf-8", "backslashreplace").decode()

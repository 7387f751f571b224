"""Files of our own: whole or not at all, read only if they are files, held by one at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from filelock import FileLock, Timeout

from circuit_econ.errors import CircuitEconError

__all__ = ["MOST", "HeldError", "digest_of", "held", "put", "read_text"]

MOST: Final = 4_000_000
"""Bytes of a text file of our own: a hundred times what any of them holds."""

logger = logging.getLogger(__name__)


class HeldError(CircuitEconError):
    """Another process holds the file, and waiting was not asked for."""


def read_text(path: Path, most: int = MOST, errors: str = "strict") -> str:
    """The text of a file, if it is one.

    Pipes and devices are never opened (they would wait, or never end), nor is what is too long.

    Args:
        path: The file.
        most: Bytes that it may have.
        errors: What to do with bytes that are not UTF-8, as for :func:`open`.

    Raises:
        OSError: If there is none, or it is not a regular file, or too long.
        UnicodeDecodeError: If it is not UTF-8.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a regular file")
    if found.st_size > most:
        raise OSError(f"{found.st_size:,} bytes, where at most {most:,} make sense")
    return path.read_text(encoding="utf-8", errors=errors)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put(
    write: Callable[[Path], object],
    target: Path,
    partial: Path | None = None,
    before: Callable[[Path], object] | None = None,
) -> None:
    """Have a file in place whole or not at all, its bytes on disk before its name.

    Only a file gives way to it: no folder, and no device or pipe, which a name may also be.

    Args:
        write: Writes the file it is given.
        target: Where it shall be; its folder exists.
        partial: Where it is written first, on the same file system; beside the target by default.
        before: Called with what was written, before it is put in place.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    if not target.name:
        raise OSError("it names no file")
    if target.exists() and not target.is_file():
        raise OSError("a folder is there" if target.is_dir() else "what is there is no file")
    hidden = partial or target.with_name(f".{uuid4().hex}.partial")
    try:
        write(hidden)
        with hidden.open("rb+") as file:
            os.fsync(file.fileno())
        if before is not None:
            before(hidden)
        hidden.replace(target)
    except BaseException:
        # Also where we are interrupted; what cannot be removed is overlooked by everybody.
        if hidden.is_file():
            hidden.unlink()
        raise


@contextmanager
def held(path: Path, what: str, *, wait: bool) -> Generator[None, None, None]:
    """Hold a lock file; the system lets go of it when its holder dies, however it dies.

    Some file systems know no locks. Nothing waits for them: a warning says that nobody keeps two
    processes apart, and the work goes on.

    Args:
        path: The lock file; its folder exists.
        what: What is held, for messages.
        wait: Whether to wait for another holder.

    Raises:
        OSError: If the file cannot be made.
        HeldError: If another process holds it and ``wait`` is false.
    """
    # Opened once by ourselves: not to be written is an error, not to be locked is none.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    os.close(os.open(path, flags, 0o666))
    lock = FileLock(str(path), fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise HeldError(f"{what} is held by another process") from None
        logger.info("waiting for another process that has %s", what)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.warning(
            "%s cannot be locked, because its file system has no locks (%s): see to it that no "
            "other process writes there", what, error,
        )  # fmt: skip
        yield
        return
    try:
        yield
    finally:
        lock.release()

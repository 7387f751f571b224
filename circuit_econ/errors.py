"""Errors that a user can cause and mend: one line says what was wrong, where, and what to do."""

from __future__ import annotations

import re
import traceback
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = [
    "ENDING",
    "CheckpointError",
    "CircuitEconError",
    "ConfigurationError",
    "LedgerError",
    "foreign",
    "one_line",
    "reason",
    "told",
    "unknown",
]

ENDING: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends the program or a generator: nobody's failure, never recorded as one."""

_LONGEST_WORD: Final = 300
_LONGEST_LINE: Final = 800


class CircuitEconError(Exception):
    """Base of every error that this package raises on purpose; says it in one line."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(str(message)))


class ConfigurationError(CircuitEconError):
    """The run cannot start as asked: wrong name, path, option or combination (exit code 2)."""


class CheckpointError(CircuitEconError):
    """One checkpoint cannot be measured; a walk records the reason and goes on (exit code 1)."""


class LedgerError(CircuitEconError):
    """A ledger cannot be opened, written or extended (exit code 2)."""


def unknown(what: str, name: object, known: Iterable[object]) -> ConfigurationError:
    """The error for a name that does not exist: says what does."""
    return ConfigurationError(
        f"unknown {what} {str(name)!r}; there is: {', '.join(str(k) for k in known) or 'nothing'}"
    )


def one_line(text: str) -> str:
    """Text for a message: one line, and what is too long cut in the middle.

    What a user gave may be a page long; the ends say what it is, and what is to be done stands at
    the end of a message.
    """
    kept = re.sub(r"[^\S ]+", " ", text).strip()
    kept = re.sub(r"\S+", lambda word: _cut(word[0], _LONGEST_WORD), kept)
    # Terminals obey control characters, encodings refuse halves of surrogate pairs.
    kept = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in kept)
    return _cut(kept, _LONGEST_LINE)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2 - 20
    return f"{text[:half]}… ({len(text) - 2 * half} characters left out) …{text[-half:]}"


def reason(error: BaseException) -> str:
    """What another library raised, in one line: its type and the first line it has to say."""
    said = str(error).strip().splitlines()
    name = type(error).__name__
    return one_line(f"{name}: {said[0]}" if said else name)


def told(error: BaseException) -> str:
    """One line for whatever was raised: our own words; else its type, its words and the place.

    The place is the innermost line of this package that was running, else the innermost of all:
    what nobody foresaw must be found from a ledger or a log alone.
    """
    if isinstance(error, CircuitEconError):
        return str(error)
    if _is_memory(error):
        return (
            f"out of memory ({reason(error)}); give measuring less with device.memory=GB, or the "
            "machine more"
        )
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return reason(error)
    package = Path(__file__).parent
    own = [frame for frame in frames if package in Path(frame.filename).parents]
    frame = (own or frames)[-1]
    file = Path(frame.filename)
    place = file.relative_to(package.parent).as_posix() if own else file.name
    return f"{reason(error)} ({place}:{frame.lineno})"


def _is_memory(error: BaseException) -> bool:
    """PyTorch has a type of its own for it on a GPU, and a plain RuntimeError on the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


@contextmanager
def foreign(kind: type[CircuitEconError], what: str) -> Generator[None, None, None]:
    """Turn whatever other people's code raises into one line of ours.

    For the boundary to a library that reads what a user gave: no list of exception types is ever
    complete, and a panic of compiled code is no ``Exception``.

    Args:
        kind: What it becomes.
        what: What could not be done, to what, and what to do; the reason follows in brackets.
    """
    try:
        yield
    except (CircuitEconError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise kind(f"{what} ({reason(error)})") from error

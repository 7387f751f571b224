"""What every case has at hand: a folder, things that are good, and verdicts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

__all__ = ["Case", "FuzzError", "Shop", "SilentError", "UnforeseenError", "check_reason"]

Case = Callable[["Shop", Random], str]
"""Changes something and goes through the front door; says what came of it."""

_PLACE = re.compile(r"\(\S+\.(py|so|rs):\d+\)")


class FuzzError(Exception):
    """A case failed."""


class SilentError(FuzzError):
    """A number is wrong, or something that changed went unnoticed."""


class UnforeseenError(FuzzError):
    """What happened was caught, but nobody foresaw it: it is told by its type and place."""


@dataclass
class Shop:
    """Where a case works.

    Attributes:
        root: Of everything; writing anywhere else is a failure.
        folder: The case's own, empty at first; the working directory.
        spied: Where planted code leaves its mark.
        notes: What was changed, for whoever looks at a failure.
    """

    root: Path
    folder: Path
    spied: Path
    notes: list[str] = field(default_factory=list)

    def note(self, text: object) -> None:
        """Say what was changed; written down, too: the case may be the end of the process."""
        self.notes.append(str(text)[:300])
        said = "\n".join(self.notes).encode(errors="backslashreplace")
        (self.folder.parent / "notes").write_bytes(said)

    def good(self, name: str, make: Callable[[Path], object]) -> Path:
        """A template, made when it is first needed and copied into the case's folder."""
        kept = self.root / "good" / name
        if not kept.exists():
            partial = self.root / "good" / f".{name}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            make(partial)
            with suppress(OSError):  # another worker was faster
                partial.rename(kept)
        target = self.folder / name
        # Times are kept: seals know them.
        shutil.copytree(kept, target, symlinks=True)
        return target


def check_reason(reason: str) -> None:
    """Whether what a user is told is one line, not too long, and was foreseen."""
    if "\n" in reason or len(reason) > 900:
        raise FuzzError(f"not one line, or too long: {reason[:200]!r}")
    if _PLACE.search(reason) or "this should not happen" in reason:
        raise UnforeseenError(reason)
    if "out of memory" in reason:
        raise MemoryError(reason)

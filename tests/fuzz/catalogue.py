"""All generators."""

from __future__ import annotations

from collections.abc import Iterable

from fuzz.checkpoints import configurations, names, pickles, safetensors
from fuzz.ledgers import ledgers
from fuzz.overrides import overrides
from fuzz.shop import Case
from fuzz.specials import specials
from fuzz.texts import texts, tokenizers_

__all__ = ["CASES", "jobs"]

CASES: dict[str, Case] = {
    "configurations": configurations,
    "safetensors": safetensors,
    "pickles": pickles,
    "names": names,
    "texts": texts,
    "tokenizers": tokenizers_,
    "ledgers": ledgers,
    "overrides": overrides,
    "special files": specials,
}


def jobs(cases: Iterable[str], count: int, only: str | None = None) -> list[tuple[str, int]]:
    """Cases by turns, so many in all; or those of one generator; or a single one."""
    name, _, number = (only or "").partition(":")
    if number:
        return [(name, int(number))]
    chosen = [name] if name else list(cases)
    return [(chosen[i % len(chosen)], i // len(chosen)) for i in range(count)]

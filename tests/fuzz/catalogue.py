"""All generators."""

from __future__ import annotations

from fuzz.checkpoints import configurations, names, pickles, safetensors
from fuzz.ledgers import ledgers
from fuzz.overrides import overrides
from fuzz.shop import Case
from fuzz.specials import specials
from fuzz.texts import texts, tokenizers_

__all__ = ["CASES"]

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

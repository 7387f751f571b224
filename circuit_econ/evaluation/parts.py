"""Which part a case belongs to: what is trained on is never what is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64

from circuit_econ.errors import ConfigurationError

__all__ = ["Part", "Parts", "belongs", "held_out", "split_documents"]

_BLOCK: Final = 5
_TRAIN_OF_BLOCK: Final = 3
_FEWEST: Final = 10
"""Fewer documents than this are cut into pieces, or a part might hold one or none."""
_PIECES: Final = 100
_PIECE_CHARACTERS: Final = 2000
_SPLIT_SEED: Final = 0


class Part(StrEnum):
    """The two parts of every source, and both together."""

    TRAIN = "train"
    HELDOUT = "heldout"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Parts:
    """Documents, told apart.

    Attributes:
        documents: All of them, in their order.
        trained: Of each, whether models are trained on it; the others are held out.
        by: ``documents``, or ``pieces`` where few documents had to be cut.
        blank: Documents left out because they are blank.
        repeated: Documents left out because an earlier one is the same.
    """

    documents: list[str]
    trained: list[bool]
    by: str
    blank: int
    repeated: int

    def __getitem__(self, part: Part) -> list[str]:
        """The documents of a part, in their order."""
        if part is Part.ALL:
            return self.documents
        wanted = part is Part.TRAIN
        pairs = zip(self.documents, self.trained, strict=True)
        return [document for document, trained in pairs if trained is wanted]


def split_documents(documents: Sequence[str]) -> Parts:
    """Three fifths of the documents for training, two fifths held out.

    Of every five consecutive documents three, drawn once and for all, are for training. So the part
    of a document depends on the documents up to it alone: not on a seed, a length or a tokenizer,
    and not on how many documents follow. Repeated documents count once, blank ones not at all.

    Fewer than 10 documents are cut into contiguous pieces of at least 2,000 characters, about 100
    in all (shorter ones where the text is short), which then count as documents.

    Raises:
        ConfigurationError: If there is no text.
    """
    told = [d for d in documents if d and not d.isspace()]
    kept = list(dict.fromkeys(told))
    blank, repeated = len(documents) - len(told), len(told) - len(kept)
    if not kept:
        raise ConfigurationError(f"there is no text in {len(documents)} documents")
    by = "documents"
    if len(kept) < _FEWEST:
        by = "pieces"
        kept = [piece for document in kept for piece in _pieces(document, len(kept))]
    rng = np.random.default_rng(_SPLIT_SEED)
    ranks = [rank for _ in range(0, len(kept), _BLOCK) for rank in rng.permutation(_BLOCK)]
    trained = [bool(rank < _TRAIN_OF_BLOCK) for rank in ranks[: len(kept)]]
    return Parts(kept, trained, by, blank, repeated)


def _pieces(document: str, documents: int) -> list[str]:
    """Contiguous pieces of nearly equal length: their concatenation is the document."""
    wanted = min(_PIECES // documents, len(document) // _PIECE_CHARACTERS)
    count = min(max(wanted, -(-_FEWEST // documents)), len(document))
    edges = [len(document) * i // count for i in range(count + 1)]
    return [document[a:b] for a, b in pairwise(edges)]


def belongs(cases: Int64[np.ndarray, "case key"], part: Part) -> Bool[np.ndarray, " case"]:
    """Whether each case of a generated task is of that part."""
    if part is Part.ALL:
        return np.ones(len(cases), bool)
    return held_out(cases) == (part is Part.HELDOUT)


def held_out(cases: Int64[np.ndarray, "case key"]) -> Bool[np.ndarray, " case"]:
    """Whether each case of a generated task is held out: one in five, by a hash of the case.

    Args:
        cases: Equal rows get equal answers, whatever the seed.
    """
    state = np.zeros(len(cases), np.uint64)
    for key in cases.T.astype(np.uint64):
        # One round of splitmix64 (Steele, Lea & Flood 2014) per key; arithmetic modulo 2^64.
        state = (state ^ key) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state % np.uint64(_BLOCK) == 0

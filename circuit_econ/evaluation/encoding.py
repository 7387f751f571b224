"""How text becomes token ids: bytes, a BPE trained on the spot, a Hugging Face tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation.pretrained import Pretrained

__all__ = ["BPE", "BYTES", "Tokenizer", "open_tokenizer"]

BYTES: Final = "bytes"
BPE: Final = "bpe"
BPE_VOCABULARY: Final = 1024
"""Ids of a BPE for which no other number is asked."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Text to ids.

    Attributes:
        name: As it was asked for.
        vocabulary: Number of ids, the BOS token included.
        bos: The id that begins each sequence, or ``None`` where none does.
        encode: Documents to one int64 array of ids each, without BOS or other additions.
        digest: SHA-256 of the table of tokens.
        unknown: The id of what the tokenizer does not know, or ``None``.
    """

    name: str
    vocabulary: int
    bos: int | None
    encode: Callable[[Sequence[str]], list[np.ndarray]]
    digest: str
    unknown: int | None = None


def open_tokenizer(
    name: str,
    *,
    vocabulary: int | None,
    bos: bool,
    training: Callable[[], Sequence[str]],
    control_tokens: bool = False,
) -> Tokenizer:
    """The tokenizer of that name.

    Args:
        name: ``bytes``, ``bpe``, or the name or folder of a Hugging Face tokenizer.
        vocabulary: Number of ids of the BPE, BOS included; only for ``bpe``.
        bos: Whether sequences begin with a BOS token. ``bytes`` and ``bpe`` get one more id for it,
            the last; a Hugging Face tokenizer must have its own.
        training: Gives the documents that a BPE may be trained on.
        control_tokens: Whether text that mentions a control token of a Hugging Face tokenizer holds
            it; ``bytes`` and ``bpe`` have none.

    Raises:
        ConfigurationError: If there is no such tokenizer, or none for these settings.
    """
    if vocabulary is not None and name != BPE:
        raise ConfigurationError(
            f"vocabulary={vocabulary} is a setting of tokenizer 'bpe'; {name!r} has its own"
        )
    if name == BYTES:
        return Tokenizer(BYTES, 257 if bos else 256, 256 if bos else None, _bytes, _digest(BYTES))
    if name == BPE:
        return _bpe(training(), BPE_VOCABULARY if vocabulary is None else vocabulary, bos)
    return _hugging_face(name, bos, control_tokens)


def _bytes(documents: Sequence[str]) -> list[np.ndarray]:
    return [np.frombuffer(d.encode(), np.uint8).astype(np.int64) for d in documents]


def _bpe(documents: Sequence[str], vocabulary: int, bos: bool) -> Tokenizer:
    """A byte-level BPE: every text has an encoding, since all 256 bytes are in its alphabet."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + bos:
        raise ConfigurationError(
            f"vocabulary={vocabulary} is too small for tokenizer 'bpe':"
            f" its alphabet alone has {len(alphabet) + bos} ids"
        )
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    trained.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocabulary - bos, initial_alphabet=alphabet, show_progress=False
        ),
    )

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(e.ids, np.int64) for e in trained.encode_batch(list(texts))]

    size = trained.get_vocab_size()
    return Tokenizer(BPE, size + bos, size if bos else None, encode, _digest(trained.get_vocab()))


def _hugging_face(name: str, bos: bool, control_tokens: bool) -> Tokenizer:
    loaded = Pretrained(name, control_tokens)
    if bos and loaded.bos is None:
        raise ConfigurationError(f"tokenizer {name!r} has no BOS token; set bos=false")
    return Tokenizer(
        name,
        loaded.vocabulary,
        loaded.bos if bos else None,
        loaded.encode,
        _digest(loaded.table),
        loaded.unknown,
    )


def _digest(table: object) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

"""How text becomes token ids: bytes, a BPE trained on the spot, a Hugging Face tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from circuit_econ.errors import ConfigurationError

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
    """

    name: str
    vocabulary: int
    bos: int | None
    encode: Callable[[Sequence[str]], list[np.ndarray]]
    digest: str


def open_tokenizer(
    name: str, *, vocabulary: int | None, bos: bool, training: Callable[[], Sequence[str]]
) -> Tokenizer:
    """The tokenizer of that name.

    Args:
        name: ``bytes``, ``bpe``, or the name or folder of a Hugging Face tokenizer.
        vocabulary: Number of ids of the BPE, BOS included; only for ``bpe``.
        bos: Whether sequences begin with a BOS token. ``bytes`` and ``bpe`` get one more id for it,
            the last; a Hugging Face tokenizer must have its own.
        training: Gives the documents that a BPE may be trained on.

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
    return _hugging_face(name, bos)


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


def _hugging_face(name: str, bos: bool) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        try:
            # What is in the cache is used at once: offline, asking the hub first takes minutes.
            loaded: Any = AutoTokenizer.from_pretrained(
                name, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError):
            loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot load tokenizer {name!r}: it is neither 'bytes' nor 'bpe', nor a folder with a"
            " tokenizer, nor in the cache, nor could it be had from the Hugging Face hub"
            f" ({str(error).splitlines()[0]})"
        ) from error
    if bos and loaded.bos_token_id is None:
        raise ConfigurationError(f"tokenizer {name!r} has no BOS token; set bos=false")

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        # Not verbose: documents longer than the model's context are cut into windows later.
        ids = loaded(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(i, np.int64) for i in ids]

    return Tokenizer(
        name, len(loaded), loaded.bos_token_id if bos else None, encode, _digest(loaded.get_vocab())
    )


def _digest(table: object) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

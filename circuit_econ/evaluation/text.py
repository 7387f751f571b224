"""Text into windows: evaluation sets and training batches from documents."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation.documents import Documents
from circuit_econ.evaluation.encoding import Tokenizer, open_tokenizer
from circuit_econ.evaluation.parts import Part, Parts, split_documents
from circuit_econ.evaluation.record import Evaluation, next_token
from circuit_econ.evaluation.settings import TextSettings
from circuit_econ.evaluation.stream import Batch, TrainingData

__all__ = ["DocumentSource", "text_evaluation", "text_training"]

_LOG: Final = logging.getLogger(__name__)
_ALL_OF_IT: Final = "; for models trained elsewhere, part=all takes all of it"
_NOTED: Final = 0.05
"""The share of documents left out above which a line says so."""
_SEPARATOR: Final = "\n\n"


@runtime_checkable
class DocumentSource(Protocol):
    """Where documents come from."""

    @property
    def title(self) -> str:
        """What an evaluation set made of it is called."""
        ...

    def read(self) -> Documents:
        """The documents, in an order that does not change, and what they are."""
        ...


def text_evaluation(source: DocumentSource, settings: TextSettings) -> Evaluation:
    """Windows of the part asked for, packed, without padding and without overlap.

    A document of at least one window gives windows from its start on; what is left over at its end
    is dropped. Shorter consecutive documents are joined by blank lines until they fill one. What
    windows are taken from is one cluster. What is left out on the way is counted in ``description``
    (``left_out``). Every other document serves as reference; where one of
    the two sides has too little text, windows instead of documents are dealt out, and
    ``description`` says so (``reference_disjoint_by``).

    Windows are drawn in rounds, one from every document in random order, so that any first n
    sequences come from as many documents as possible. Long documents therefore weigh less than
    their length.

    Raises:
        ConfigurationError: If there is too little text, with the numbers.
    """
    read = source.read()
    parts = split_documents(read.texts)
    tokenizer = _tokenizer(settings, parts)
    documents = _encoded(tokenizer, parts[Part(settings.part)])
    blank = tokenizer.encode([_SEPARATOR])[0]
    wanted = (settings.sequences, settings.reference_sequences)
    sides = [_units(documents[side::2], settings.body, blank) for side in (0, 1)]
    disjoint_by = parts.by
    if all(_windows(units, settings.body) >= n for units, n in zip(sides, wanted, strict=True)):
        (tokens, clusters), (reference, _) = (
            _draw(units, settings.body, n, np.random.default_rng([settings.seed, side]))
            for side, (units, n) in enumerate(zip(sides, wanted, strict=True))
        )
    else:
        disjoint_by = "windows"
        sides = [_units(documents, settings.body, blank)]
        if _windows(sides[0], settings.body) < sum(wanted):
            raise ConfigurationError(
                f"too little text: {wanted[0]} + {wanted[1]} windows of {settings.body} tokens are"
                f" asked of the {settings.part} part of {source.title!r}, whose {len(documents)}"
                f" {parts.by} give {_windows(sides[0], settings.body)}; give more text, or lower"
                " length, sequences or reference_sequences"
                + (
                    ""
                    if settings.part == Part.ALL
                    else "; for models trained elsewhere, part=all takes all of it"
                )
            )
        rng = np.random.default_rng([settings.seed, 0])
        drawn, origins = _draw(sides[0], settings.body, sum(wanted), rng)
        tokens, reference = drawn[: wanted[0]], drawn[wanted[0] :]
        clusters = origins[: wanted[0]]
    left_out = _left_out(read, parts) | {
        "documents_too_short": sum(units.too_short for units in sides),
        "tokens_at_ends": sum(units.tokens_at_ends for units in sides),
        "windows_not_drawn": sum(_windows(units, settings.body) for units in sides) - sum(wanted),
    }
    description = read.description | asdict(settings)
    description |= {
        "part": str(settings.part),
        "vocabulary": tokenizer.vocabulary,
        "tokenizer_digest": tokenizer.digest,
        "split_by": parts.by,
        "reference_disjoint_by": disjoint_by if wanted[1] else None,
        "documents_read": len(read.texts),
        "documents_used": len(np.unique(clusters)),
        "unknown_tokens": 0
        if tokenizer.unknown is None
        else int((tokens == tokenizer.unknown).sum()),
        "left_out": left_out,
    }
    _say(source.title, description)
    return Evaluation(
        _with_bos(tokens, tokenizer),
        reference=_with_bos(reference, tokenizer) if wanted[1] else None,
        clusters=clusters,
        name=source.title,
        description=description,
    )


def text_training(
    source: DocumentSource, settings: TextSettings, batch: int, seed: int
) -> TrainingData:
    """Batches of the training part: windows that start anywhere inside a document.

    Raises:
        ConfigurationError: If no document of the training part, nor all of its short ones together,
            fill a window.
    """
    read = source.read()
    parts = split_documents(read.texts)
    tokenizer = _tokenizer(settings, parts)
    blank = tokenizer.encode([_SEPARATOR])[0]
    trained = parts[Part.TRAIN]
    units, *_ = cut = _units(_encoded(tokenizer, trained), settings.body, blank)
    if not units:
        raise ConfigurationError(
            f"too little text: the train part of {source.title!r} has {len(trained)} {parts.by}"
            f" and not one window of {settings.body} tokens; give more text or lower length"
        )
    text = np.concatenate(units)
    starts = np.array([len(u) - settings.body + 1 for u in units])
    # The k-th start of all is k further on by the ends that earlier units cannot start at.
    before = np.cumsum(starts)
    skipped = np.arange(len(units)) * (settings.body - 1)
    within = np.arange(settings.body)

    def draw(step: int) -> Batch:
        chosen = np.random.default_rng([seed, step]).integers(before[-1], size=batch)
        first = chosen + skipped[np.searchsorted(before, chosen, side="right")]
        tokens = torch.from_numpy(_with_bos(text[first[:, None] + within], tokenizer))
        return tokens, next_token(tokens)

    state = hashlib.sha256(repr((tokenizer.bos, starts.tolist())).encode())
    state.update(text.astype("<i8").tobytes())
    content = state.hexdigest()
    return TrainingData(
        vocabulary=tokenizer.vocabulary,
        length=settings.length,
        batch_size=batch,
        seed=seed,
        draw=draw,
        content=content,
        description=read.description
        | {
            "tokenizer": settings.tokenizer,
            "tokenizer_digest": tokenizer.digest,
            "vocabulary": tokenizer.vocabulary,
            "length": settings.length,
            "bos": settings.bos,
            "part": str(Part.TRAIN),
            "split_by": parts.by,
            "text_tokens": len(text),
            "documents_read": len(read.texts),
            "left_out": _left_out(read, parts) | {"documents_too_short": cut.too_short},
            "content": content,
        },
    )


def _tokenizer(settings: TextSettings, parts: Parts) -> Tokenizer:
    return open_tokenizer(
        settings.tokenizer,
        vocabulary=settings.vocabulary,
        bos=settings.bos,
        training=lambda: parts[Part.TRAIN],
        control_tokens=settings.control_tokens,
    )


def _encoded(tokenizer: Tokenizer, documents: Sequence[str]) -> list[np.ndarray]:
    """Ids of each document.

    Raises:
        ConfigurationError: If the tokenizer knows nothing of any.
    """
    encoded = tokenizer.encode(documents)
    unknown = -1 if tokenizer.unknown is None else tokenizer.unknown
    if not any((ids != unknown).any() for ids in encoded):
        raise ConfigurationError(
            f"tokenizer {tokenizer.name!r} knows nothing of this text: its"
            f" {sum(map(len, encoded))} tokens are the unknown one; name the model's own"
        )
    return encoded


def _left_out(read: Documents, parts: Parts) -> dict[str, Any]:
    """What never became tokens, by why."""
    return {
        "files": dict(read.files_left_out),
        "blank_documents": parts.blank,
        "repeated_documents": parts.repeated,
    }


def _say(title: str, description: dict[str, Any]) -> None:
    """One line on what a user may not expect to be left out, where there is enough of it."""
    left_out, unknown = description["left_out"], description["unknown_tokens"]
    files = [f"{count} {kind}" for kind, count in left_out["files"].items()]
    if files:
        _LOG.warning("%s: files left out: %s", title, ", ".join(files))
    documents = {
        words: left_out[key]
        for key, words in (
            ("blank_documents", "blank"),
            ("repeated_documents", "as an earlier one"),
            ("documents_too_short", "too short for a window, even joined"),
        )
        if left_out[key]
    }
    if sum(documents.values()) > _NOTED * description["documents_read"]:
        told = ", ".join(f"{count} {words}" for words, count in documents.items())
        _LOG.info("%s: documents left out: %s", title, told)
    if unknown:
        _LOG.warning("%s: %d tokens are the tokenizer's unknown one", title, unknown)


class Units(NamedTuple):
    """What windows are taken from.

    ``too_short`` counts documents that fill no window, not even together; ``tokens_at_ends`` is
    what is left over of all documents.
    """

    texts: list[np.ndarray]
    too_short: int
    tokens_at_ends: int


def _units(documents: Sequence[np.ndarray], body: int, blank: np.ndarray) -> Units:
    """Documents of at least one window each; shorter ones are joined until they fill one."""
    units: list[np.ndarray] = []
    joined: list[np.ndarray] = []
    for document in documents:
        if len(document) >= body:
            units.append(document)
            continue
        joined += [blank, document] if joined else [document]
        if sum(map(len, joined)) >= body:
            units.append(np.concatenate(joined))
            joined = []
    ends = sum(len(unit) % body for unit in units) + sum(map(len, joined))
    return Units(units, len(joined[::2]), ends)


def _windows(units: Units, body: int) -> int:
    return sum(len(unit) // body for unit in units.texts)


def _draw(
    cut: Units, body: int, count: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "window token"], Int64[np.ndarray, " window"]]:
    """Windows in rounds over the units, and the unit of each."""
    units = cut.texts
    order = rng.permutation(len(units))
    places = [rng.permutation(len(unit) // body) for unit in units]
    rounds = max(map(len, places), default=0)
    chosen = [
        (unit, places[unit][turn])
        for turn in range(rounds)
        for unit in order
        if turn < len(places[unit])
    ][:count]
    windows = [units[unit][place * body : (place + 1) * body] for unit, place in chosen]
    return (
        np.array(windows, np.int64).reshape(-1, body),
        np.array([unit for unit, _ in chosen], np.int64),
    )


def _with_bos(
    windows: Int64[np.ndarray, "window token"], tokenizer: Tokenizer
) -> Int64[np.ndarray, "window position"]:
    if tokenizer.bos is None:
        return windows
    return np.insert(windows, 0, tokenizer.bos, axis=1)

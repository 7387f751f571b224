"""The evaluation set: tokens, targets, reference tokens and the documents they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from circuit_econ.errors import ConfigurationError

__all__ = ["UNSCORED", "Evaluation", "Integers"]

UNSCORED: Final = -100
"""The target of a position that is not scored."""

Integers = Tensor | np.ndarray | Sequence[Any]
"""What a constructor takes for whole numbers: a tensor, an array or nested lists."""


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Evaluation:
    """One set of sequences, used unchanged at every checkpoint and under every ablation.

    The constructor takes tensors of any integer dtype, arrays or nested lists and copies them.

    Attributes:
        tokens: int64 ``[sequence, position]``, packed, without padding.
        targets: int64 ``[sequence, position]``, ids of the output vocabulary; -100 is not scored.
            By default the next token, with the last position not scored.
        reference: int64 ``[reference sequence, position]`` of the same length, from which baselines
            are taken; ``None`` where they come from ``tokens`` themselves.
        clusters: int64 ``[sequence]``: which document each sequence is a window of; standard errors
            are computed over documents. ``None`` where every sequence stands alone.
        name: What the set is called in messages and tables.
        description: What made it, as plain values for ``run.yaml``.

    Raises:
        ConfigurationError: If a shape, a dtype or an id is wrong or nothing is scored.
    """

    tokens: Int64[Tensor, "sequence position"] = field(repr=False)
    targets: Int64[Tensor, "sequence position"] = field(repr=False)
    reference: Int64[Tensor, "reference position"] | None = field(repr=False)
    clusters: Int64[Tensor, " sequence"] | None = field(repr=False)
    name: str
    description: dict[str, Any]

    def __init__(
        self,
        tokens: Integers,
        targets: Integers | None = None,
        reference: Integers | None = None,
        clusters: Integers | None = None,
        name: str = "tokens",
        description: dict[str, Any] | None = None,
    ) -> None:
        own = _whole("tokens", tokens, "[sequence, position]")
        values = {
            "tokens": own,
            "targets": next_token(own)
            if targets is None
            else _whole("targets", targets, "[sequence, position]"),
            "reference": None
            if reference is None
            else _whole("reference", reference, "[sequence, position]"),
            "clusters": None if clusters is None else _whole("clusters", clusters, "[sequence]"),
            "name": name,
            "description": dict(description or {"source": "tokens"}),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check what every measure relies on."""
        _check_ids("tokens", self.tokens)
        if self.targets.shape != self.tokens.shape:
            raise ConfigurationError(
                f"targets have shape {list(self.targets.shape)} and tokens"
                f" {list(self.tokens.shape)}; give one target per token, -100 where not scored"
            )
        _check_ids("targets", self.targets, also=UNSCORED)
        if not self.scored:
            raise ConfigurationError(
                "no position is scored: every target is -100"
                + (" (sequences of one token have no next token)" if self.length == 1 else "")
            )
        if self.reference is not None:
            _check_ids("reference", self.reference)
            if self.reference.shape[1] != self.length:
                raise ConfigurationError(
                    f"reference sequences have {self.reference.shape[1]} tokens and evaluation"
                    f" sequences {self.length}; baselines need the same length"
                )
        if self.clusters is not None and len(self.clusters) != len(self.tokens):
            raise ConfigurationError(
                f"clusters name {len(self.clusters)} documents for {len(self.tokens)} sequences;"
                " give one per sequence"
            )

    @property
    def length(self) -> int:
        """Tokens per sequence."""
        return self.tokens.shape[1]

    @property
    def scored(self) -> int:
        """How many positions are scored, over all sequences."""
        return int((self.targets != UNSCORED).sum())

    @property
    def document_of(self) -> Int64[Tensor, " S"]:
        """Number of each sequence's document; its own where sequences stand alone."""
        if self.clusters is None:
            return torch.arange(len(self.tokens))
        return self.clusters.unique(return_inverse=True)[1]

    @property
    def documents(self) -> int:
        """How many documents sequences come from: what errors rest on."""
        return len(self.tokens) if self.clusters is None else len(self.clusters.unique())

    @property
    def vocabulary(self) -> int:
        """The smallest input vocabulary that holds every token, reference tokens included."""
        highest = int(self.tokens.max())
        if self.reference is not None:
            highest = max(highest, int(self.reference.max()))
        return highest + 1

    @property
    def target_vocabulary(self) -> int:
        """The smallest output vocabulary that holds every target."""
        return int(self.targets.max()) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of tokens, targets, reference and clusters, whatever dtype they came in."""
        state = hashlib.sha256()
        for part in (self.tokens, self.targets, self.reference, self.clusters):
            state.update(repr(None if part is None else list(part.shape)).encode())
            if part is not None:
                state.update(part.numpy().astype("<i8").tobytes())
        return state.hexdigest()

    @staticmethod
    def embedded(**settings: Any) -> Evaluation:
        """The documentation text that ships inside every CPython (``pydoc_data.topics``).

        Python versions differ in this text; the digest tells them apart.

        Args:
            **settings: See :class:`~circuit_econ.evaluation.settings.TextSettings`.
        """
        from circuit_econ.evaluation.sources import make

        return make("embedded", settings)

    @staticmethod
    def from_text(text: str | Sequence[str], **settings: Any) -> Evaluation:
        """One text, or a list of documents.

        Args:
            text: A single text is cut into contiguous pieces, which then count as documents.
            **settings: See :class:`~circuit_econ.evaluation.settings.TextSettings`.
        """
        from circuit_econ.evaluation.sources import make

        return make("text", {"text": text, **settings})

    @staticmethod
    def from_file(path: str | Path, *, field: str = "text", **settings: Any) -> Evaluation:
        """A ``.txt``, ``.jsonl`` or ``.parquet`` file, or a folder of them.

        Args:
            path: A text file is one document; rows of the others are documents.
            field: The key or column that holds the text.
            **settings: See :class:`~circuit_econ.evaluation.settings.TextSettings`.
        """
        from circuit_econ.evaluation.sources import make

        return make("file", {"path": path, "field": field, **settings})

    @staticmethod
    def from_dataset(name: str, **settings: Any) -> Evaluation:
        """The first documents of a Hugging Face dataset, streamed.

        Args:
            name: A dataset's name on the hub, or a local folder that ``datasets`` can load.
            **settings: ``config``, ``split``, ``field`` and ``documents`` (see
                :class:`~circuit_econ.evaluation.documents.DatasetSource`) and those of
                :class:`~circuit_econ.evaluation.settings.TextSettings`.
        """
        from circuit_econ.evaluation.sources import make

        return make("dataset", {"name": name, **settings})

    @staticmethod
    def from_task(name: str, **settings: Any) -> Evaluation:
        """A generated task whose right circuit is known.

        Args:
            name: One of ``induction``, ``modular-addition``, ``sorting``, ``two-cues``.
            **settings: See :class:`~circuit_econ.evaluation.settings.TaskSettings`.
        """
        from circuit_econ.evaluation.sources import make

        return make("task", {"name": name, **settings})


def next_token(tokens: Int64[Tensor, "S T"]) -> Int64[Tensor, "S T"]:
    """Targets: the next token, with the last position not scored."""
    targets = torch.full_like(tokens, UNSCORED)
    targets[:, :-1] = tokens[:, 1:]
    return targets


def _whole(what: str, values: Integers, axes: str) -> Tensor:
    """The values as int64 on the CPU, copied, with as many axes as ``axes`` names."""
    try:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{what} must be {axes}: rows of equal length ({error})"
        ) from error
    dimensions = axes.count(",") + 1
    if array.ndim != dimensions or 0 in array.shape:
        raise ConfigurationError(
            f"{what} must be {axes}, none of them empty; got shape {list(array.shape)}"
        )
    if array.dtype.kind not in "iu":
        raise ConfigurationError(f"{what} must be integers, got {array.dtype}")
    return torch.from_numpy(array.astype(np.int64))


def _check_ids(what: str, ids: Tensor, *, also: int | None = None) -> None:
    wrong = ids < 0
    if also is not None:
        wrong &= ids != also
    if bool(wrong.any()):
        row, column = (int(i) for i in wrong.nonzero()[0])
        raise ConfigurationError(
            f"{what}[{row}, {column}] is {int(ids[row, column])}; ids are 0 or more"
            + ("" if also is None else f", and {also} marks a position that is not scored")
        )

"""A checkpoint as it was saved: configuration and tensors, before anything is interpreted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor

__all__ = ["Format", "Source"]


class Format(StrEnum):
    """Whose names the configuration and the tensors use."""

    HUGGING_FACE = "hugging_face"
    TRANSFORMER_LENS = "transformer_lens"


@dataclass(frozen=True, slots=True)
class Source:
    """One checkpoint as saved.

    Attributes:
        format: Whose names ``config`` and ``tensors`` use.
        config: The content of ``config.json``.
        tensors: CPU tensors by the names in the file, in the dtype of the file.
        origin: Where it came from, for messages: a path, or ``name@revision``.
    """

    format: Format
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    origin: str

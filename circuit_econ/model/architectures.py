"""Which architectures work, and the reading of any source's configuration."""

from __future__ import annotations

from typing import Final

from circuit_econ.model.config import ModelConfig
from circuit_econ.model.config_hugging_face import FAMILIES, read_hugging_face
from circuit_econ.model.config_native import NATIVE, read_native
from circuit_econ.model.source import Format, Source

__all__ = ["ARCHITECTURES", "read_config"]

ARCHITECTURES: Final = (*FAMILIES, NATIVE)
"""What can be measured, by the names of ``model_type`` in ``config.json``."""


def read_config(source: Source) -> ModelConfig:
    """The function that a checkpoint computes.

    The source's configuration is read directly because bridges say less than the truth (a bridge
    of a Qwen-3 reports no q/k norm, one of a Mistral no window). Every field that the source's own
    implementation knows is either *read*, known to leave the function alone, or at the value that
    switches it off; anything else is an error that names the field.

    Raises:
        CheckpointError: If the architecture is not among :data:`ARCHITECTURES`, or a field that
            changes the function is not implemented: the field is named.
    """
    if source.format is Format.TRANSFORMER_LENS:
        return read_native(source)
    return read_hugging_face(source, ARCHITECTURES)

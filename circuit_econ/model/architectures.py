"""Which architectures work, and the reading of any source's configuration."""

from __future__ import annotations

from typing import Final

from circuit_econ.errors import CheckpointError
from circuit_econ.model.config import ModelConfig
from circuit_econ.model.config_hugging_face import FAMILIES, read_hugging_face
from circuit_econ.model.config_native import NATIVE, read_native
from circuit_econ.model.source import Format, Source

__all__ = ["ARCHITECTURES", "read_config"]

ARCHITECTURES: Final = (*FAMILIES, NATIVE)
"""What can be measured, by the names of ``model_type`` in ``config.json``."""

_MOST_HEADS: Final = 1_000_000
_MOST_WIDE: Final = 1 << 24


def read_config(source: Source) -> ModelConfig:
    """The function that a checkpoint computes.

    The source's configuration is read directly because bridges say less than the truth (a bridge
    of a Qwen-3 reports no q/k norm, one of a Mistral no window). Every field that the source's own
    implementation knows is either *read*, known to leave the function alone, or at the value that
    switches it off; anything else is an error that names the field. Sizes are compared with each
    other and with the tensors, where they are there, before anything is built of them.

    Raises:
        CheckpointError: If the architecture is not among :data:`ARCHITECTURES`, a field that
            changes the function is not implemented, or a field's value cannot be: it is named.
    """
    if source.format is Format.TRANSFORMER_LENS:
        config = read_native(source)
    else:
        config = read_hugging_face(source, ARCHITECTURES)
    _check_sizes(config, source)
    return config


def _check_sizes(c: ModelConfig, source: Source) -> None:
    # Nothing here depends on how large the sizes are; what is built afterwards would.
    if source.tensors and c.n_layers > len(source.tensors):
        raise CheckpointError(
            f"{source.origin}: config.json says {c.n_layers} layers, but there are no more than "
            f"{len(source.tensors)} tensors"
        )
    if c.n_layers * c.n_heads > _MOST_HEADS:
        raise CheckpointError(
            f"{source.origin}: config.json says {c.n_layers} layers of {c.n_heads} heads; more "
            f"than {_MOST_HEADS} heads cannot be measured"
        )
    for what, size in (
        ("a stream", c.d_model), ("heads", c.n_heads * c.d_head), ("MLPs", c.d_mlp or 0)
    ):  # fmt: skip
        if size > _MOST_WIDE:
            raise CheckpointError(
                f"{source.origin}: config.json asks for {what} of {size} dimensions; there is no "
                f"model with more than {_MOST_WIDE}"
            )

"""Reading canonical weights from a checkpoint, and telling which of its tensors that takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from circuit_econ.errors import CheckpointError
from circuit_econ.model.architectures import read_config
from circuit_econ.model.config import ModelConfig
from circuit_econ.model.source import Format, Source
from circuit_econ.model.weights import gpt2, gpt_neox, llama, native
from circuit_econ.model.weights.canonical import Weights

__all__ = ["Inventory", "Tensors", "inventory", "read_weights"]

_MAPPINGS: Final = {
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": llama,
    "olmo": llama,
    "qwen2": llama,
    "qwen3": llama,
    "TransformerLens-native": native,
}


_NUMBERS: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a checkpoint's tensors are for.

    Attributes:
        read: Names that the model needs and the checkpoint has.
        missing: Names that the model needs and the checkpoint lacks.
        ignored: Names that are known to carry nothing (masks, frequency tables).
    """

    read: frozenset[str]
    missing: frozenset[str]
    ignored: frozenset[str]


class Tensors:
    """The tensors of a checkpoint, handed out by name and remembered.

    With ``dry``, nothing is copied: tensors come as shapes only and what is missing is noted
    instead of raised.
    """

    def __init__(self, source: Source, *, dry: bool = False, prefix: str = "") -> None:
        """Hand out the tensors of ``source``; ``prefix`` is added where the names carry it."""
        self.source, self.dry = source, dry
        # Base models save names without the language model's prefix; both are in use.
        has = any(name.startswith(prefix) for name in source.tensors)
        self.prefix = prefix if has else ""
        self.read: set[str] = set()
        self.missing: set[str] = set()

    def take(self, name: str, *shape: int, bare: bool = False) -> Tensor:
        """The tensor of a name and shape.

        Args:
            name: Its name without the prefix.
            shape: What its shape must be.
            bare: Whether the name never carries the prefix.

        Raises:
            CheckpointError: If it is missing or of another shape.
        """
        full = name if bare else self.prefix + name
        tensor = self.source.tensors.get(full)
        if tensor is None:
            self.missing.add(full)
            if not self.dry:
                raise CheckpointError(
                    f"{self.source.origin}: tensor {full!r} is missing (there are "
                    f"{len(self.source.tensors)} others)"
                )
            return torch.empty(shape, device="meta")
        self.read.add(full)
        # Shapes are compared before anything is touched: a file may claim any size.
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{self.source.origin}: tensor {full!r} has shape {tuple(tensor.shape)}; "
                f"config.json asks for {shape}"
            )
        return torch.empty(shape, device="meta") if self.dry else tensor

    def embeddings(
        self, name: str, heads: tuple[str, ...], c: ModelConfig
    ) -> tuple[Tensor, Tensor]:
        """Embedding and unembedding; the very same tensor where they are one.

        Where the configuration says that they are one, what the file holds decides, as it does in
        Transformers: one of the two stands for both, under either name; two that are equal are
        one; two that differ are two.

        Args:
            name: The embedding's name, without the prefix.
            heads: Names that the unembedding goes by, which never carry the prefix.
            c: The function of the model.

        Raises:
            CheckpointError: If one is missing or of another shape, or if two names of the
                unembedding hold different tensors.
        """
        shape = c.d_vocab, c.d_model
        held = [head for head in heads if head in self.source.tensors]
        found = [self.take(head, *shape, bare=True) for head in held or heads[:1] * (not c.tied)]
        if not self.dry and not all(_equal(found[0], other) for other in found[1:]):
            raise CheckpointError(
                f"{self.source.origin}: tensors {' and '.join(map(repr, held))} differ, and both "
                "are names of the unembedding; remove one"
            )
        if c.tied and found and not self.has(name):
            return found[0], found[0]
        embed = self.take(name, *shape)
        if c.tied and (not found or (not self.dry and _equal(embed, found[0]))):
            return embed, embed
        return embed, found[0]

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of that name (prefix added)."""
        return self.prefix + name in self.source.tensors

    def zeros(self, *shape: int) -> Tensor:
        """What stands in for a bias that a file may leave out."""
        return torch.zeros(shape, device="meta" if self.dry else "cpu")


def _equal(one: Tensor, other: Tensor) -> bool:
    dtype = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(dtype), other.to(dtype))


def read_weights(
    source: Source, config: ModelConfig, dtype: torch.dtype = torch.float64
) -> Weights:
    """Canonical weights, sharing memory with the source where the arrangement allows it.

    Args:
        source: Where they come from.
        config: The function of the model.
        dtype: Of the numbers that they are to become, which must hold them.

    Raises:
        CheckpointError: If a tensor is missing, has another shape than the configuration asks for,
            holds NaN, infinity or what ``dtype`` does not hold, or would be left unused although it
            changes the function.
    """
    mapping = _MAPPINGS[config.architecture]
    tensors = Tensors(source, prefix=mapping.PREFIX)
    weights = mapping.read(tensors, config)
    _check_numbers(source, tensors.read)
    for name in sorted(tensors.read):
        # A piece at a time: the test needs a copy of what it is made of.
        pieces = source.tensors[name].reshape(-1).split(1 << 20)
        bad = sum(int((~torch.isfinite(piece)).sum()) for piece in pieces)
        if bad:
            raise CheckpointError(
                f"{source.origin}: tensor {name!r} holds {bad} values that are NaN or infinite"
            )
        if not all(bool(piece.to(dtype).isfinite().all()) for piece in _wider(pieces, dtype)):
            raise CheckpointError(
                f"{source.origin}: tensor {name!r} holds values beyond {str(dtype)[6:]}, where "
                "they are infinite; walk with dtype=float64"
            )
    if source.format is Format.TRANSFORMER_LENS:
        native.refuse_unused(source, tensors.read, _ignored(source, config))
        native.check_tables(source, config)
    return weights


def _wider(pieces: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """Pieces whose numbers reach further than those of ``dtype``."""
    reach = torch.finfo(dtype).max
    return [p for p in pieces if p.is_floating_point() and torch.finfo(p.dtype).max > reach]


def inventory(source: Source) -> Inventory:
    """Which tensors of a checkpoint are read, missing, or known to carry nothing.

    Raises:
        CheckpointError: If the configuration is not supported, or a tensor that the model reads
            has another shape or holds no real floating-point numbers.
    """
    config = read_config(source)
    read, missing = needs(source, config)
    _check_numbers(source, read)
    return Inventory(read, missing, _ignored(source, config))


def needs(source: Source, config: ModelConfig) -> tuple[frozenset[str], frozenset[str]]:
    """Names that the model needs: those the checkpoint has, and those it lacks."""
    mapping = _MAPPINGS[config.architecture]
    tensors = Tensors(source, dry=True, prefix=mapping.PREFIX)
    mapping.read(tensors, config)
    return frozenset(tensors.read), frozenset(tensors.missing)


def _check_numbers(source: Source, names: Iterable[str]) -> None:
    """Raise unless weights are real floating-point numbers; what is not read may be anything.

    A whole number in a file is a code for a weight, a complex one a pair, a float8 a multiple of a
    scale that lies elsewhere: converting any of them would give a model, but another one.
    """
    for name in sorted(names):
        dtype = source.tensors[name].dtype
        if dtype not in _NUMBERS:
            raise CheckpointError(
                f"{source.origin}: tensor {name!r} is {str(dtype).removeprefix('torch.')}, and "
                "weights are real floating-point numbers (float16, bfloat16, float32, float64); "
                "save the model in one of these"
            )


def _ignored(source: Source, config: ModelConfig) -> frozenset[str]:
    pattern = re.compile(_MAPPINGS[config.architecture].IGNORED)
    return frozenset(n for n in source.tensors if pattern.search(n))

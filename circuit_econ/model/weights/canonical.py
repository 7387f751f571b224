"""The one arrangement of weights that the forward pass knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from circuit_econ.model.config import ModelConfig

__all__ = ["LayerWeights", "Weights"]


@dataclass(slots=True)
class LayerWeights:
    """One block. Matrices are ``[out, in]``, as ``torch.nn.functional.linear`` takes them.

    ``qkv`` stacks the rows of all query heads, then key heads, then value heads; ``out`` has one
    block of ``d_head`` columns per query head.
    """

    qkv: Tensor  # [(n_heads + 2 n_kv_heads) · d_head, d_model]
    out: Tensor  # [d_model, n_heads · d_head]
    qkv_bias: Tensor | None = None
    out_bias: Tensor | None = None  # belongs to no head
    ln1: Tensor | None = None  # [d_model], gain
    ln1_bias: Tensor | None = None
    q_norm: Tensor | None = None  # [d_head]
    k_norm: Tensor | None = None
    ln2: Tensor | None = None
    ln2_bias: Tensor | None = None
    mlp_in: Tensor | None = None  # [d_mlp, d_model]
    mlp_in_bias: Tensor | None = None
    mlp_gate: Tensor | None = None  # [d_mlp, d_model]
    mlp_gate_bias: Tensor | None = None
    mlp_out: Tensor | None = None  # [d_model, d_mlp]
    mlp_out_bias: Tensor | None = None


@dataclass(slots=True)
class Weights:
    """All weights of a model, as trained: nothing is folded, centred or tied away."""

    embed: Tensor  # [d_vocab, d_model]
    unembed: Tensor  # [d_vocab_out, d_model]; the very tensor of ``embed`` where tied
    layers: list[LayerWeights]
    pos: Tensor | None = None  # [n_ctx, d_model]
    ln_final: Tensor | None = None
    ln_final_bias: Tensor | None = None
    unembed_bias: Tensor | None = None

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor once (a tied unembedding is not repeated), as ``layers.0.qkv`` and so on."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and not (field.name == "unembed" and value is self.embed):
                yield field.name, value
        for index, layer in enumerate(self.layers):
            for field in fields(layer):
                value = getattr(layer, field.name)
                if value is not None:
                    yield f"layers.{index}.{field.name}", value

    def map(self, function: Callable[[Tensor], Tensor]) -> Weights:
        """The same weights with a function applied to every tensor; ties stay ties."""
        done: dict[int, Tensor] = {}

        def apply(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            if id(value) not in done:
                done[id(value)] = function(value)
            return done[id(value)]

        layers = [
            LayerWeights(**{f.name: apply(getattr(layer, f.name)) for f in fields(layer)})  # type: ignore[arg-type]
            for layer in self.layers
        ]
        rest = {f.name: apply(getattr(self, f.name)) for f in fields(self) if f.name != "layers"}
        return Weights(layers=layers, **rest)  # type: ignore[arg-type]

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Put a function of every tensor into its place, one by one; ties stay ties.

        What was there before can be freed on the way, where :meth:`map` keeps all of it.
        """
        tied = self.unembed is self.embed
        for record in (self, *self.layers):
            for field in fields(record):
                value = getattr(record, field.name)
                if isinstance(value, Tensor) and not (tied and field.name == "unembed"):
                    setattr(record, field.name, function(value))
        if tied:
            self.unembed = self.embed

    def query(self, layer: int, config: ModelConfig) -> Tensor:
        """Query weights of a layer, ``[n_heads, d_head, d_model]``; a view."""
        rows = config.n_heads * config.d_head
        return self.layers[layer].qkv[:rows].view(config.n_heads, config.d_head, config.d_model)

    def key(self, layer: int, config: ModelConfig) -> Tensor:
        """Key weights of a layer, ``[n_kv_heads, d_head, d_model]``; a view."""
        return self._shared(layer, config, 0)

    def value(self, layer: int, config: ModelConfig) -> Tensor:
        """Value weights of a layer, ``[n_kv_heads, d_head, d_model]``; a view."""
        return self._shared(layer, config, 1)

    def output(self, layer: int, config: ModelConfig) -> Tensor:
        """Output weights of a layer by head, ``[n_heads, d_model, d_head]``; a view."""
        out = self.layers[layer].out
        return out.view(config.d_model, config.n_heads, config.d_head).transpose(0, 1)

    def _shared(self, layer: int, config: ModelConfig, which: int) -> Tensor:
        rows = config.n_kv_heads * config.d_head
        start = config.n_heads * config.d_head + which * rows
        part = self.layers[layer].qkv[start : start + rows]
        return part.view(config.n_kv_heads, config.d_head, config.d_model)


def stack_qkv(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Rows of queries, keys and values in the canonical order."""
    return torch.cat([query, key, value])

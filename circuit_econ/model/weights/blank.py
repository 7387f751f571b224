"""Weights that only have the right shapes: for rehearsals, where nothing but the clock is read."""

from __future__ import annotations

import torch
from torch import Tensor

from circuit_econ.model.config import ModelConfig, Norm
from circuit_econ.model.weights.canonical import LayerWeights, Weights

__all__ = ["blank"]


def blank(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Weights:
    """Weights of a configuration, all of them one small number."""
    c = config

    def new(*shape: int) -> Tensor:
        return torch.full(shape, 0.01, dtype=dtype, device=device)

    def some(wanted: bool, *shape: int) -> Tensor | None:
        return new(*shape) if wanted else None

    gains, biases = c.norm_gains, c.norm_gains and c.norm is Norm.LAYER
    final = c.norm_gains and c.final_norm is not Norm.NONE
    inner = c.d_mlp or 0
    qkv = (c.n_heads + 2 * c.n_kv_heads) * c.d_head
    layers = [
        LayerWeights(
            qkv=new(qkv, c.d_model),
            out=new(c.d_model, c.n_heads * c.d_head),
            qkv_bias=some(c.qkv_bias, qkv),
            out_bias=some(c.out_bias, c.d_model),
            ln1=some(gains, c.d_model),
            ln1_bias=some(biases, c.d_model),
            q_norm=some(c.qk_norm, c.d_head),
            k_norm=some(c.qk_norm, c.d_head),
            ln2=some(gains and inner > 0, c.d_model),
            ln2_bias=some(biases and inner > 0, c.d_model),
            mlp_in=some(inner > 0, inner, c.d_model),
            mlp_in_bias=some(inner > 0 and c.mlp_bias, inner),
            mlp_gate=some(c.gated, inner, c.d_model),
            mlp_gate_bias=some(c.gated and c.mlp_bias, inner),
            mlp_out=some(inner > 0, c.d_model, inner),
            mlp_out_bias=some(inner > 0 and c.mlp_bias, c.d_model),
        )
        for _ in range(c.n_layers)
    ]
    embed = new(c.d_vocab, c.d_model)
    return Weights(
        embed=embed,
        unembed=embed if c.tied else new(c.d_vocab_out, c.d_model),
        layers=layers,
        pos=some(c.rotary is None, c.n_ctx, c.d_model),
        ln_final=some(final, c.d_model),
        ln_final_bias=some(final and c.final_norm is Norm.LAYER, c.d_model),
        unembed_bias=some(c.unembed_bias, c.d_vocab_out),
    )

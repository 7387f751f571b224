"""Llama and its relatives (Mistral, OLMo, Qwen-2, Qwen-3): separate projections, gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuit_econ.model.config import ModelConfig
from circuit_econ.model.weights.canonical import LayerWeights, Weights, stack_qkv

if TYPE_CHECKING:
    from circuit_econ.model.weights.reading import Tensors

PREFIX = "model."
IGNORED = r"rotary_emb\.inv_freq$"


def read(t: Tensors, c: ModelConfig) -> Weights:
    """Canonical weights from Transformers' names."""
    d, mlp = c.d_model, c.d_mlp or 0
    queries, shared = c.n_heads * c.d_head, c.n_kv_heads * c.d_head

    def gain(name: str, size: int) -> Tensor | None:
        return t.take(name, size) if c.norm_gains else None

    layers = []
    for i in range(c.n_layers):
        h = f"layers.{i}."
        a, m = h + "self_attn.", h + "mlp."
        layers.append(
            LayerWeights(
                qkv=stack_qkv(
                    t.take(a + "q_proj.weight", queries, d),
                    t.take(a + "k_proj.weight", shared, d),
                    t.take(a + "v_proj.weight", shared, d),
                ),
                qkv_bias=stack_qkv(
                    t.take(a + "q_proj.bias", queries),
                    t.take(a + "k_proj.bias", shared),
                    t.take(a + "v_proj.bias", shared),
                )
                if c.qkv_bias
                else None,
                out=t.take(a + "o_proj.weight", d, queries),
                out_bias=t.take(a + "o_proj.bias", d) if c.out_bias else None,
                q_norm=t.take(a + "q_norm.weight", c.d_head) if c.qk_norm else None,
                k_norm=t.take(a + "k_norm.weight", c.d_head) if c.qk_norm else None,
                ln1=gain(h + "input_layernorm.weight", d),
                ln2=gain(h + "post_attention_layernorm.weight", d),
                mlp_in=t.take(m + "up_proj.weight", mlp, d),
                mlp_in_bias=t.take(m + "up_proj.bias", mlp) if c.mlp_bias else None,
                mlp_gate=t.take(m + "gate_proj.weight", mlp, d),
                mlp_gate_bias=t.take(m + "gate_proj.bias", mlp) if c.mlp_bias else None,
                mlp_out=t.take(m + "down_proj.weight", d, mlp),
                mlp_out_bias=t.take(m + "down_proj.bias", d) if c.mlp_bias else None,
            )
        )
    embed, unembed = t.embeddings("embed_tokens.weight", ("lm_head.weight",), c)
    return Weights(
        embed=embed,
        unembed=unembed,
        layers=layers,
        ln_final=gain("norm.weight", d),
    )

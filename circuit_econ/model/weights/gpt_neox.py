"""GPT-NeoX (Pythia): query, key and value interleaved head by head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuit_econ.model.config import ModelConfig
from circuit_econ.model.weights.canonical import LayerWeights, Weights

if TYPE_CHECKING:
    from circuit_econ.model.weights.reading import Tensors

PREFIX = "gpt_neox."
IGNORED = r"\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$"


def read(t: Tensors, c: ModelConfig) -> Weights:
    """Canonical weights from Transformers' names."""
    d, mlp = c.d_model, c.d_mlp or 0

    def by_port(fused: Tensor) -> Tensor:
        # [head, (q, k, v), d_head, …] → [(q, k, v), head, d_head, …]
        parts = fused.unflatten(0, (c.n_heads, 3, c.d_head))
        return parts.transpose(0, 1).flatten(0, 2)

    layers = []
    for i in range(c.n_layers):
        h = f"layers.{i}."
        a = h + "attention."
        layers.append(
            LayerWeights(
                qkv=by_port(t.take(a + "query_key_value.weight", 3 * d, d)),
                qkv_bias=by_port(t.take(a + "query_key_value.bias", 3 * d)) if c.qkv_bias else None,
                out=t.take(a + "dense.weight", d, d),
                out_bias=t.take(a + "dense.bias", d) if c.out_bias else None,
                ln1=t.take(h + "input_layernorm.weight", d),
                ln1_bias=t.take(h + "input_layernorm.bias", d),
                ln2=t.take(h + "post_attention_layernorm.weight", d),
                ln2_bias=t.take(h + "post_attention_layernorm.bias", d),
                mlp_in=t.take(h + "mlp.dense_h_to_4h.weight", mlp, d),
                mlp_in_bias=t.take(h + "mlp.dense_h_to_4h.bias", mlp),
                mlp_out=t.take(h + "mlp.dense_4h_to_h.weight", d, mlp),
                mlp_out_bias=t.take(h + "mlp.dense_4h_to_h.bias", d),
            )
        )
    # Files say embed_out; a module of Transformers 5 in memory says lm_head.
    embed, unembed = t.embeddings("embed_in.weight", ("embed_out.weight", "lm_head.weight"), c)
    return Weights(
        embed=embed,
        unembed=unembed,
        layers=layers,
        ln_final=t.take("final_layer_norm.weight", d),
        ln_final_bias=t.take("final_layer_norm.bias", d),
    )

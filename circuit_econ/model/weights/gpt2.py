"""GPT-2: fused query-key-value in ``[in, out]`` orientation, learned positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuit_econ.model.config import ModelConfig
from circuit_econ.model.weights.canonical import LayerWeights, Weights

if TYPE_CHECKING:
    from circuit_econ.model.weights.reading import Tensors

PREFIX = "transformer."
IGNORED = r"\.attn\.(masked_)?bias$"


def read(t: Tensors, c: ModelConfig) -> Weights:
    """Canonical weights from Transformers' names."""
    d, mlp = c.d_model, c.d_mlp or 0
    layers = []
    for i in range(c.n_layers):
        h = f"h.{i}."
        layers.append(
            LayerWeights(
                qkv=t.take(h + "attn.c_attn.weight", d, 3 * d).T,
                qkv_bias=t.take(h + "attn.c_attn.bias", 3 * d),
                out=t.take(h + "attn.c_proj.weight", d, d).T,
                out_bias=t.take(h + "attn.c_proj.bias", d),
                ln1=t.take(h + "ln_1.weight", d),
                ln1_bias=t.take(h + "ln_1.bias", d),
                ln2=t.take(h + "ln_2.weight", d),
                ln2_bias=t.take(h + "ln_2.bias", d),
                mlp_in=t.take(h + "mlp.c_fc.weight", d, mlp).T,
                mlp_in_bias=t.take(h + "mlp.c_fc.bias", mlp),
                mlp_out=t.take(h + "mlp.c_proj.weight", mlp, d).T,
                mlp_out_bias=t.take(h + "mlp.c_proj.bias", d),
            )
        )
    embed, unembed = t.embeddings("wte.weight", ("lm_head.weight",), c)
    return Weights(
        embed=embed,
        unembed=unembed,
        pos=t.take("wpe.weight", c.n_ctx, d),
        layers=layers,
        ln_final=t.take("ln_f.weight", d),
        ln_final_bias=t.take("ln_f.bias", d),
    )

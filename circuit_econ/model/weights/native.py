"""TransformerLens' own names: ``blocks.0.attn.W_Q`` and so on, ``[head, d_model, d_head]``.

A file may leave out any bias (it is zero). The same names are written by models trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuit_econ.errors import CheckpointError
from circuit_econ.model.config import ModelConfig, Norm, Rotary
from circuit_econ.model.source import Source
from circuit_econ.model.weights.canonical import LayerWeights, Weights, stack_qkv

if TYPE_CHECKING:
    from circuit_econ.model.weights.reading import Tensors

PREFIX = ""
IGNORED = r"\.attn\.(mask|IGNORE|rotary_sin|rotary_cos)$"


def read(t: Tensors, c: ModelConfig) -> Weights:
    """Canonical weights from TransformerLens' names."""
    d, mlp, dh = c.d_model, c.d_mlp, c.d_head

    def bias(name: str, *shape: int) -> Tensor:
        return t.take(name, *shape) if t.has(name) else t.zeros(*shape)

    def norm(name: str, kind: Norm) -> tuple[Tensor | None, Tensor | None]:
        if not c.norm_gains:
            return None, None
        return t.take(f"{name}.w", d), bias(f"{name}.b", d) if kind is Norm.LAYER else None

    def rows(weight: Tensor) -> Tensor:
        return weight.transpose(1, 2).flatten(0, 1)  # [head, d_model, d_head] → [head·d_head, d]

    layers = []
    for i in range(c.n_layers):
        a = f"blocks.{i}.attn."
        # Grouped queries: the parameters proper carry an underscore in HookedTransformer's files.
        u = "_" if t.has(a + "_W_K") else ""
        ln1, ln1_bias = norm(f"blocks.{i}.ln1", c.norm)
        layer = LayerWeights(
            qkv=stack_qkv(
                rows(t.take(a + "W_Q", c.n_heads, d, dh)),
                rows(t.take(f"{a}{u}W_K", c.n_kv_heads, d, dh)),
                rows(t.take(f"{a}{u}W_V", c.n_kv_heads, d, dh)),
            ),
            qkv_bias=stack_qkv(
                bias(a + "b_Q", c.n_heads, dh).flatten(),
                bias(f"{a}{u}b_K", c.n_kv_heads, dh).flatten(),
                bias(f"{a}{u}b_V", c.n_kv_heads, dh).flatten(),
            ),
            out=t.take(a + "W_O", c.n_heads, dh, d).flatten(0, 1).T,
            out_bias=bias(a + "b_O", d),
            ln1=ln1,
            ln1_bias=ln1_bias,
        )
        if mlp is not None:
            m = f"blocks.{i}.mlp."
            layer.ln2, layer.ln2_bias = norm(f"blocks.{i}.ln2", c.norm)
            layer.mlp_in = t.take(m + "W_in", d, mlp).T
            layer.mlp_out = t.take(m + "W_out", mlp, d).T
            if c.gated:
                layer.mlp_gate = t.take(m + "W_gate", d, mlp).T
            else:
                layer.mlp_in_bias, layer.mlp_out_bias = bias(m + "b_in", mlp), bias(m + "b_out", d)
        layers.append(layer)
    ln_final, ln_final_bias = norm("ln_final", c.final_norm)
    return Weights(
        embed=t.take("embed.W_E", c.d_vocab, d),
        unembed=t.take("unembed.W_U", d, c.d_vocab_out).T,
        unembed_bias=t.take("unembed.b_U", c.d_vocab_out) if c.unembed_bias else None,
        pos=t.take("pos_embed.W_pos", c.n_ctx, d) if c.rotary is None else None,
        layers=layers,
        ln_final=ln_final,
        ln_final_bias=ln_final_bias,
    )


def write(weights: Weights, c: ModelConfig) -> dict[str, Tensor]:
    """The inverse of :func:`read`: canonical weights under TransformerLens' names, copied."""
    tensors: dict[str, Tensor | None] = {
        "embed.W_E": weights.embed,
        "pos_embed.W_pos": weights.pos,
        "unembed.W_U": weights.unembed.T,
        "unembed.b_U": weights.unembed_bias,
        "ln_final.w": weights.ln_final,
        "ln_final.b": weights.ln_final_bias,
    }
    for i, layer in enumerate(weights.layers):
        a, m = f"blocks.{i}.attn.", f"blocks.{i}.mlp."
        u = "_" if c.group > 1 else ""
        tensors |= {
            a + "W_Q": weights.query(i, c).transpose(1, 2),
            f"{a}{u}W_K": weights.key(i, c).transpose(1, 2),
            f"{a}{u}W_V": weights.value(i, c).transpose(1, 2),
            a + "W_O": weights.output(i, c).transpose(1, 2),
            a + "b_O": layer.out_bias,
            f"blocks.{i}.ln1.w": layer.ln1,
            f"blocks.{i}.ln1.b": layer.ln1_bias,
            f"blocks.{i}.ln2.w": layer.ln2,
            f"blocks.{i}.ln2.b": layer.ln2_bias,
            m + "W_in": None if layer.mlp_in is None else layer.mlp_in.T,
            m + "W_gate": None if layer.mlp_gate is None else layer.mlp_gate.T,
            m + "W_out": None if layer.mlp_out is None else layer.mlp_out.T,
            m + "b_in": layer.mlp_in_bias,
            m + "b_out": layer.mlp_out_bias,
        }
        if layer.qkv_bias is not None:
            queries, shared = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
            q, k, v = layer.qkv_bias.split([queries, shared, shared])
            tensors |= {
                a + "b_Q": q.view(c.n_heads, c.d_head),
                f"{a}{u}b_K": k.view(c.n_kv_heads, c.d_head),
                f"{a}{u}b_V": v.view(c.n_kv_heads, c.d_head),
            }
    return {
        name: value.detach().cpu().clone().contiguous()
        for name, value in tensors.items()
        if value is not None
    }


def refuse_unused(source: Source, read: set[str], ignored: frozenset[str]) -> None:
    """Raise if a tensor that is not zero is left out: its name is known, so it means something.

    Raises:
        CheckpointError: Naming the tensor.
    """
    for name in sorted(set(source.tensors) - read - ignored):
        if source.tensors[name].contiguous().reshape(-1).view(torch.uint8).any():  # of any dtype
            raise CheckpointError(
                f"{source.origin}: tensor {name!r} is not part of the model that config.json "
                "describes, and it is not zero: correct config.json or remove the tensor"
            )


def check_tables(source: Source, c: ModelConfig) -> None:
    """Raise if a table that older releases kept beside the weights is not what the model has.

    HookedTransformer computes with the mask and the rotary tables of its file. Here they follow
    from the configuration, so they must be those.

    Raises:
        CheckpointError: Naming the tensor.
    """
    for name, table in source.tensors.items():
        kind = name.rpartition(".attn.")[2]
        if kind == "mask" and c.causal:
            size = table.shape[-1] if table.ndim else 0
            right = torch.equal(table.bool().reshape(-1, size), _causal(size))
        elif kind in ("rotary_sin", "rotary_cos") and c.rotary is not None:
            right = _close(table.double(), _turns(kind, c.rotary, table.shape[0]))
        else:
            continue
        if not right:
            raise CheckpointError(
                f"{source.origin}: tensor {name!r} is not what config.json describes, and releases "
                "of transformer-lens before 4 compute with it: correct config.json or remove the "
                "tensor"
            )


def _causal(size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).tril()


def _turns(kind: str, rotary: Rotary, length: int) -> Tensor:
    exponents = torch.arange(0, rotary.dim, 2, dtype=torch.float64) / rotary.dim
    angles = torch.outer(torch.arange(length, dtype=torch.float64), rotary.base**-exponents)
    angles = angles.repeat_interleave(2, dim=1)
    return angles.sin() if kind == "rotary_sin" else angles.cos()


def _close(table: Tensor, right: Tensor) -> bool:
    # Angles of float32 tables are off by an eighth of a millionth of themselves; half precision
    # rounds what is left.
    return table.shape == right.shape and bool((table - right).abs().max() < 5e-3)


def rename_module(state: Mapping[str, Tensor], c: ModelConfig) -> dict[str, Tensor]:
    """TransformerLens' names for the parameters of its own native module.

    Args:
        state: State of the module (``layers.0.attn.q.weight`` …), wrappers' names removed.
        c: The module's configuration.
    """
    d, dh = c.d_model, c.d_head
    renamed: dict[str, Tensor] = {
        "embed.W_E": state["tok_embed.weight"],
        "unembed.W_U": state["head.weight"].T,
    }
    if "head.bias" in state:
        renamed["unembed.b_U"] = state["head.bias"]
    if c.rotary is None:
        renamed["pos_embed.W_pos"] = state["pos.weight"]
    norms = {"ln_out": "ln_final"}
    for i in range(c.n_layers):
        a, b = f"layers.{i}.attn.", f"blocks.{i}.attn."
        u = "_" if c.group > 1 else ""
        for port, heads in (("q", c.n_heads), ("k", c.n_kv_heads), ("v", c.n_kv_heads)):
            under = "" if port == "q" else u
            weight = state[f"{a}{port}.weight"].view(heads, dh, d).transpose(1, 2)
            renamed[f"{b}{under}W_{port.upper()}"] = weight
            renamed[f"{b}{under}b_{port.upper()}"] = state[f"{a}{port}.bias"].view(heads, dh)
        renamed[b + "W_O"] = state[a + "o.weight"].T.unflatten(0, (c.n_heads, dh))
        renamed[b + "b_O"] = state[a + "o.bias"]
        norms |= {f"layers.{i}.{n}": f"blocks.{i}.{n}" for n in ("ln1", "ln2")}
        m = f"layers.{i}.mlp."
        for old in ("fc_in", "fc_out", "in", "out", "gate"):
            new = old.removeprefix("fc_")
            if f"{m}{old}.weight" in state:
                renamed[f"blocks.{i}.mlp.W_{new}"] = state[f"{m}{old}.weight"].T
            if f"{m}{old}.bias" in state:
                renamed[f"blocks.{i}.mlp.b_{new}"] = state[f"{m}{old}.bias"]
    for old, new in norms.items():
        for suffix, letter in (("weight", "w"), ("bias", "b")):
            if f"{old}.{suffix}" in state:
                renamed[f"{new}.{letter}"] = state[f"{old}.{suffix}"]
    return renamed

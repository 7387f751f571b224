"""The slow, obvious forward pass: every architecture from its definition, from the saved names.

Float64 throughout, a loop over layers and heads, explicit masks, softmax, norms and rotations.
It shares no code with the package and is what the fast forward pass is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from plain_parts import (
    Run,
    activation_of,
    attention,
    causal,
    layer_norm,
    output_bias,
    rms_norm,
    rotary_of,
    split,
    turn,
    window_of,
)
from torch import Tensor

from circuit_econ.model.source import Format

__all__ = ["plain_logits", "plain_trace"]

Config = Mapping[str, Any]


def plain_logits(
    format: Format,
    config: Config,
    tensors: Mapping[str, Tensor],
    tokens: Tensor,
    replacements: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Logits ``[sequence, position, output vocabulary]``; see :func:`plain_trace`."""
    return plain_trace(format, config, tensors, tokens, replacements)["logits"]


def plain_trace(
    format: Format,
    config: Config,
    tensors: Mapping[str, Tensor],
    tokens: Tensor,
    replacements: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Everything that a forward pass writes, in float64.

    Args:
        format: Whose names ``config`` and ``tensors`` use.
        config: The content of ``config.json``, with today's or older keys.
        tensors: Weights by their names in the file.
        tokens: ``[sequence, position]``.
        replacements: What components contribute instead of what they compute, by name
            (``a0.h1``, ``m0``, ``embed``, ``pos``): ``[sequence, position, d_model]``.

    Returns:
        ``logits``; per layer ``stream.{l}`` before the block (and ``stream.{n_layers}`` before the
        final norm), ``heads.{l}`` ``[sequence, position, head, d_model]``, ``z.{l}``
        ``[sequence, position, head, d_head]``, ``pattern.{l}`` ``[sequence, head, query, key]``,
        ``b_O.{l}`` ``[d_model]``, ``mlp.{l}``; ``embed`` and, where there is one, ``pos``. These
        are what components compute, before any replacement.
    """
    weights = {
        name: tensor.detach().double()
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }
    run = Run(weights, replacements or {})
    with torch.no_grad():
        if format is Format.TRANSFORMER_LENS:
            _transformer_lens(config, tokens, run)
        else:
            _HUGGING_FACE[config["model_type"]](config, tokens, run)
    unused = set(run.replacements) - run.written
    assert not unused, f"nothing is called {sorted(unused)}"
    return run.trace


def _gpt2(config: Config, tokens: Tensor, run: Run) -> None:
    prefix = "transformer." if "transformer.wte.weight" in run.weights else ""
    n_heads, eps = config["n_head"], config.get("layer_norm_epsilon", 1e-5)
    d_head = config["n_embd"] // n_heads
    activation = activation_of(config.get("activation_function", "gelu_new"))
    positions = run[f"{prefix}wpe.weight"][: tokens.shape[1]]
    x = run.write("embed", run[f"{prefix}wte.weight"][tokens], "embed")
    x = x + run.write("pos", positions.expand(len(tokens), -1, -1), "pos")
    for layer in range(config["n_layer"]):
        run.trace[f"stream.{layer}"] = x
        block = f"{prefix}h.{layer}"
        scale = d_head**-0.5 if config.get("scale_attn_weights", True) else 1.0
        if config.get("scale_attn_by_inverse_layer_idx", False):
            scale = scale / (layer + 1)
        h = layer_norm(x, run[f"{block}.ln_1.weight"], run[f"{block}.ln_1.bias"], eps)
        qkv = h @ run[f"{block}.attn.c_attn.weight"] + run[f"{block}.attn.c_attn.bias"]
        q, k, v = (split(part, n_heads) for part in qkv.chunk(3, dim=-1))
        w_o = run[f"{block}.attn.c_proj.weight"]  # [heads * d_head, d_model]
        x = x + attention(run, layer, q, k, v, w_o, causal(tokens), scale)
        x = x + output_bias(run, layer, run[f"{block}.attn.c_proj.bias"])
        h = layer_norm(x, run[f"{block}.ln_2.weight"], run[f"{block}.ln_2.bias"], eps)
        h = activation(h @ run[f"{block}.mlp.c_fc.weight"] + run[f"{block}.mlp.c_fc.bias"])
        out = h @ run[f"{block}.mlp.c_proj.weight"] + run[f"{block}.mlp.c_proj.bias"]
        x = x + run.write(f"m{layer}", out, f"mlp.{layer}")
    run.trace[f"stream.{config['n_layer']}"] = x
    x = layer_norm(x, run[f"{prefix}ln_f.weight"], run[f"{prefix}ln_f.bias"], eps)
    tied = config.get("tie_word_embeddings", True)
    run.trace["logits"] = x @ run[f"{prefix}wte.weight" if tied else "lm_head.weight"].T


def _gpt_neox(config: Config, tokens: Tensor, run: Run) -> None:
    n_heads, eps = config["num_attention_heads"], config.get("layer_norm_eps", 1e-5)
    d_head = config["hidden_size"] // n_heads
    activation = activation_of(config.get("hidden_act", "gelu"))
    rotate = rotary_of(config, d_head, default_fraction=0.25)
    x = run.write("embed", run["gpt_neox.embed_in.weight"][tokens], "embed")
    for layer in range(config["num_hidden_layers"]):
        run.trace[f"stream.{layer}"] = x
        block = f"gpt_neox.layers.{layer}"
        attn, mlp, ln = f"{block}.attention", f"{block}.mlp", f"{block}.input_layernorm"
        h = layer_norm(x, run[f"{ln}.weight"], run[f"{ln}.bias"], eps)
        qkv = h @ run[f"{attn}.query_key_value.weight"].T
        qkv = qkv + run.bias(f"{attn}.query_key_value.bias", qkv)
        # Saved head by head: the rows of a head are its queries, its keys, its values.
        heads = [part.chunk(3, dim=-1) for part in split(qkv, n_heads)]
        q, k = [rotate(head[0]) for head in heads], [rotate(head[1]) for head in heads]
        v = [head[2] for head in heads]
        w_o = run[f"{attn}.dense.weight"].T
        written = attention(run, layer, q, k, v, w_o, causal(tokens), d_head**-0.5)
        written = written + output_bias(run, layer, run.bias(f"{attn}.dense.bias", w_o))
        # In a parallel block the MLP reads what the attention read, not what it wrote.
        read = x if config.get("use_parallel_residual", True) else x + written
        ln = f"{block}.post_attention_layernorm"
        h = layer_norm(read, run[f"{ln}.weight"], run[f"{ln}.bias"], eps)
        h = activation(h @ run[f"{mlp}.dense_h_to_4h.weight"].T + run[f"{mlp}.dense_h_to_4h.bias"])
        out = h @ run[f"{mlp}.dense_4h_to_h.weight"].T + run[f"{mlp}.dense_4h_to_h.bias"]
        x = x + written + run.write(f"m{layer}", out, f"mlp.{layer}")
    run.trace[f"stream.{config['num_hidden_layers']}"] = x
    ln = "gpt_neox.final_layer_norm"
    x = layer_norm(x, run[f"{ln}.weight"], run[f"{ln}.bias"], eps)
    saved = "embed_out.weight" if "embed_out.weight" in run.weights else "lm_head.weight"
    tied = config.get("tie_word_embeddings", False)
    run.trace["logits"] = x @ run["gpt_neox.embed_in.weight" if tied else saved].T


def _llama_like(config: Config, tokens: Tensor, run: Run) -> None:
    """Llama, Mistral, OLMo, Qwen-2 and Qwen-3: gated MLP, rotary, grouped keys, own norms."""
    model = config["model_type"]
    n_heads = config["num_attention_heads"]
    n_kv = config.get("num_key_value_heads", _UNSAID_KV_HEADS.get(model)) or n_heads
    unsaid = 128 if model == "qwen3" else None
    d_head = config.get("head_dim", unsaid) or config["hidden_size"] // n_heads
    activation = activation_of(config.get("hidden_act", "silu"))
    rotate = rotary_of(config, d_head, default_fraction=1.0)

    def norm(x: Tensor, name: str) -> Tensor:
        if model == "olmo":  # no parameters, and no setting for its epsilon
            one = torch.ones(x.shape[-1], dtype=torch.float64)
            return layer_norm(x, one, 0 * one, 1e-5)
        return rms_norm(x, run[f"{name}.weight"], config.get("rms_norm_eps", 1e-6))

    def linear(x: Tensor, name: str) -> Tensor:
        out = x @ run[f"{name}.weight"].T
        return out + run.bias(f"{name}.bias", out)

    x = run.write("embed", run["model.embed_tokens.weight"][tokens], "embed")
    for layer in range(config["num_hidden_layers"]):
        run.trace[f"stream.{layer}"] = x
        block = f"model.layers.{layer}"
        attn, mlp = f"{block}.self_attn", f"{block}.mlp"
        h = norm(x, f"{block}.input_layernorm")
        q, k, v = (linear(h, f"{attn}.{port}_proj") for port in "qkv")
        clip = config.get("clip_qkv") if model == "olmo" else None
        if clip is not None:
            q, k, v = (part.clamp(-clip, clip) for part in (q, k, v))
        q, k, v = split(q, n_heads), split(k, n_kv), split(v, n_kv)
        if model == "qwen3":
            eps = config.get("rms_norm_eps", 1e-6)
            q = [rms_norm(head, run[f"{attn}.q_norm.weight"], eps) for head in q]
            k = [rms_norm(head, run[f"{attn}.k_norm.weight"], eps) for head in k]
        q, k = [rotate(head) for head in q], [rotate(head) for head in k]
        visible = causal(tokens)
        window = window_of(config, layer)
        if window is not None:
            position = torch.arange(tokens.shape[1])
            visible = visible & (position[:, None] - position[None, :] < window)
        w_o = run[f"{attn}.o_proj.weight"].T
        x = x + attention(run, layer, q, k, v, w_o, visible, d_head**-0.5)
        x = x + output_bias(run, layer, run.bias(f"{attn}.o_proj.bias", w_o))
        h = norm(x, f"{block}.post_attention_layernorm")
        h = activation(linear(h, f"{mlp}.gate_proj")) * linear(h, f"{mlp}.up_proj")
        x = x + run.write(f"m{layer}", linear(h, f"{mlp}.down_proj"), f"mlp.{layer}")
    run.trace[f"stream.{config['num_hidden_layers']}"] = x
    tied = config.get("tie_word_embeddings", False)
    unembedding = run["model.embed_tokens.weight" if tied else "lm_head.weight"]
    run.trace["logits"] = norm(x, "model.norm") @ unembedding.T


_UNSAID_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}  # where the configuration is silent

_HUGGING_FACE = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    **dict.fromkeys(("llama", "mistral", "olmo", "qwen2", "qwen3"), _llama_like),
}


def _transformer_lens(config: Config, tokens: Tensor, run: Run) -> None:
    d_model, d_head = config["d_model"], config["d_head"]
    n_heads = config.get("n_heads", d_model // d_head)
    kind, eps = config.get("normalization_type", "LN"), config.get("eps", 1e-5)
    activation = activation_of(config.get("act_fn", "relu"))
    scale = 1 / math.sqrt(d_head)
    if config.get("attn_scale", -1.0) > 0:
        scale = 1 / config["attn_scale"]  # what scores are divided by
    visible = causal(tokens)
    if config.get("attention_dir", "causal") == "bidirectional":
        visible = torch.ones_like(visible)
    rotary = config.get("positional_embedding_type", "standard") == "rotary"

    def rotate(x: Tensor) -> Tensor:
        if not rotary:
            return x
        dim = config.get("rotary_dim") or d_head
        pairs = torch.arange(dim // 2, dtype=torch.float64)
        frequencies = float(config.get("rotary_base", 10000)) ** (-2 * pairs / dim)
        turned = turn(x[..., 0:dim:2], x[..., 1:dim:2], frequencies)  # adjacent pairs
        return torch.cat([torch.stack(turned, dim=-1).flatten(-2), x[..., dim:]], dim=-1)

    def norm(x: Tensor, name: str, rms: bool = False) -> Tensor:
        if kind is None and not rms:
            return x
        gain = run.weights.get(f"{name}.w", torch.ones(d_model, dtype=torch.float64))
        if rms or kind in ("RMS", "RMSPre"):
            return rms_norm(x, gain, eps)
        return layer_norm(x, gain, run.bias(f"{name}.b", x), eps)

    def project(h: Tensor, attn: str, port: str) -> list[Tensor]:
        """What each query head's port gets; grouped keys and values are shared by neighbours."""
        under = "_" if f"{attn}._W_{port}" in run.weights else ""
        matrices = run[f"{attn}.{under}W_{port}"]
        biases = run.weights.get(f"{attn}.{under}b_{port}")
        heads = [h @ matrix for matrix in matrices]
        if biases is not None:
            heads = [head + bias for head, bias in zip(heads, biases, strict=True)]
        return heads

    x = run.write("embed", run["embed.W_E"][tokens], "embed")
    if not rotary:
        positions = run["pos_embed.W_pos"][: tokens.shape[1]]
        x = x + run.write("pos", positions.expand(len(tokens), -1, -1), "pos")
    for layer in range(config["n_layers"]):
        run.trace[f"stream.{layer}"] = x
        attn, mlp = f"blocks.{layer}.attn", f"blocks.{layer}.mlp"
        h = norm(x, f"blocks.{layer}.ln1")
        q, k, v = (project(h, attn, port) for port in "QKV")
        q, k = [rotate(head) for head in q], [rotate(head) for head in k]
        w_o = run[f"{attn}.W_O"].reshape(n_heads * d_head, d_model)
        x = x + attention(run, layer, q, k, v, w_o, visible, scale)
        x = x + output_bias(run, layer, run.bias(f"{attn}.b_O", w_o))
        if config.get("attn_only", False):
            continue
        h = norm(x, f"blocks.{layer}.ln2")
        inner = h @ run[f"{mlp}.W_in"]
        inner = inner + run.bias(f"{mlp}.b_in", inner)
        if config.get("gated_mlp", False):
            inner = activation(h @ run[f"{mlp}.W_gate"]) * inner
        else:
            inner = activation(inner)
        out = inner @ run[f"{mlp}.W_out"]
        out = out + run.bias(f"{mlp}.b_out", out)
        x = x + run.write(f"m{layer}", out, f"mlp.{layer}")
    run.trace[f"stream.{config['n_layers']}"] = x
    x = norm(x, "ln_final", rms=config.get("final_rms", False))
    logits = x @ run["unembed.W_U"]
    run.trace["logits"] = logits + run.bias("unembed.b_U", logits)

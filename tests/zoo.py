"""Small random models of every supported architecture, which every fast path is compared over.

The weights are random and large: every bias, gain and head matters, no attention pattern is
uniform and nothing that is compared is near zero.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from zoo_case import Case, Saver
from zoo_fields import (
    GPT2,
    INVERSE,
    LLAMA,
    LLAMA3,
    MISTRAL,
    N_CTX,
    NEOX,
    OLMO,
    PYTHIA,
    QWEN2,
    QWEN3,
    ROPE,
)

from circuit_econ.model.source import Format

__all__ = [
    "BRIDGE_WRONG",
    "CASES",
    "Case",
    "case_named",
    "shared_bridge",
    "targets_of",
    "tokens_of",
]


def tokens_of(case: Case, sequences: int, seed: int, length: int = N_CTX) -> Tensor:
    """Random tokens ``[sequence, position]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(case.d_vocab, (sequences, length), generator=generator)


def targets_of(case: Case, tokens: Tensor, seed: int) -> Tensor:
    """Random targets in the output vocabulary, shaped like ``tokens``; about a fifth are -100."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(case.d_vocab_out, tokens.shape, generator=generator)
    unscored = torch.rand(tokens.shape, generator=generator) < 0.2
    unscored[:, 1] = False  # every sequence is scored somewhere
    return targets.masked_fill(unscored, -100)


def case_named(name: str) -> Case:
    """The case of that name."""
    return next(case for case in CASES if case.name == name)


@cache
def shared_bridge(case: Case, seed: int = 0) -> TransformerBridge:
    """A float64 bridge built once per test session; leave no hooks on it."""
    return case.bridge(seed)


def _as_gpt2_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The files of GPT-2 lack the prefix and hold the causal masks."""
    mask = torch.ones(N_CTX, N_CTX, dtype=torch.uint8).tril()[None, None]
    saved = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    layers = sum(name.endswith("attn.c_attn.weight") for name in saved)
    return saved | {f"h.{layer}.attn.bias": mask.clone() for layer in range(layers)}


def _as_neox_saved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is ``lm_head`` in memory is ``embed_out`` in every file of ``save_pretrained``."""
    return {name.replace("lm_head.", "embed_out."): tensor for name, tensor in weights.items()}


def _as_pythia_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The files of Pythia hold masks and rotary tables as well."""
    mask = torch.ones(N_CTX, N_CTX, dtype=torch.bool).tril()[None, None]
    saved = _as_neox_saved(weights)
    for layer in range(sum(name.endswith("query_key_value.weight") for name in weights)):
        attention = f"gpt_neox.layers.{layer}.attention"
        saved[f"{attention}.bias"] = mask.clone()
        saved[f"{attention}.masked_bias"] = torch.tensor(-1e9, dtype=torch.float64)
        saved[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1, dtype=torch.float64)
    return saved


def _as_hooked_saved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dicts of HookedTransformer hold masks and a bias of the unembedding, often zero."""
    saved = dict(weights)
    for layer in range(sum(name.endswith("attn.W_Q") for name in weights)):
        attention = f"blocks.{layer}.attn"
        saved[f"{attention}.mask"] = torch.ones(N_CTX, N_CTX, dtype=torch.bool).tril()
        saved[f"{attention}.IGNORE"] = torch.tensor(-torch.inf, dtype=torch.float64)
    d_vocab_out = weights["unembed.W_U"].shape[1]
    return saved | {"unembed.b_U": torch.zeros(d_vocab_out, dtype=torch.float64)}


def _hf(name: str, exact: bool, fields: dict[str, Any], **rest: Any) -> Case:
    return Case(name, Format.HUGGING_FACE, fields, exact, **rest)


def _tl(
    name: str,
    exact: bool,
    as_saved: Saver = dict,
    unsaved: tuple[str, ...] = (),
    **fields: Any,
) -> Case:
    sizes = {"n_layers": 2, "d_model": 18, "n_heads": 3, "d_head": 6, "n_ctx": N_CTX, "d_vocab": 19}
    fields = {**sizes, **fields}
    return Case(name, Format.TRANSFORMER_LENS, fields, exact, as_saved, unsaved)


CASES: tuple[Case, ...] = (
    _hf("gpt2", True, GPT2),
    _hf("gpt2-published", True, GPT2, as_saved=_as_gpt2_published),
    _hf("gpt2-inverse", True, INVERSE),
    # As published. The bridge then has float32 scores, and Hugging Face refuses float64.
    _hf("gpt2-stanford", False, {**INVERSE, "reorder_and_upcast_attn": True}),
    _hf("gpt2-untied", True, {**GPT2, "tie_word_embeddings": False}),
    _hf("gpt2-relu", True, {**GPT2, "activation_function": "relu", "n_inner": 28}),
    _hf("neox-published", False, PYTHIA, as_saved=_as_pythia_published),
    _hf("neox", False, {**NEOX, "rope_parameters": ROPE}, as_saved=_as_neox_saved),
    _hf(
        "neox-sequential",
        False,
        {**PYTHIA, "use_parallel_residual": False},
        as_saved=_as_neox_saved,
    ),
    _hf(
        "neox-unbiased",  # and its tensors by the names in memory, as torch.save leaves them
        False,
        {**PYTHIA, "attention_bias": False},
        bridge_fields={"attention_bias": True},
    ),
    _hf("llama", False, {**LLAMA, "rope_theta": 100.0, "rope_scaling": None}),
    _hf(
        "llama-llama3-tied",
        False,
        {**LLAMA, "rope_theta": 100.0, "rope_scaling": LLAMA3, "tie_word_embeddings": True},
    ),
    _hf(
        "llama-linear",
        False,
        {**LLAMA, "rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    _hf(
        "llama-biased",
        False,
        {
            **LLAMA,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    _hf("llama-head-dim", False, {**LLAMA, "head_dim": 10, "rope_theta": 100.0}),
    _hf("mistral", False, MISTRAL),
    _hf("mistral-no-window", False, {**MISTRAL, "sliding_window": None, "head_dim": 4}),
    _hf("olmo", False, OLMO),
    _hf("olmo-clip", False, {**OLMO, "clip_qkv": 1.2, "tie_word_embeddings": True}),
    _hf("qwen2", False, QWEN2),
    _hf("qwen2-window", False, {**QWEN2, "use_sliding_window": True, "tie_word_embeddings": True}),
    _hf("qwen3", False, QWEN3),
    _hf(
        "qwen3-biased-window",
        False,
        {
            **{k: v for k, v in QWEN3.items() if k != "rope_theta"},
            "attention_bias": True,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 200.0},
            "sliding_window": 4,
            "use_sliding_window": True,
        },
    ),
    _tl("tl-attn-only", True, attn_only=True, normalization_type="LN", n_layers=3),
    _tl("tl-ln-gelu", True, act_fn="gelu", d_mlp=30, eps=1e-3),
    _tl("tl-published", True, _as_hooked_saved, act_fn="gelu", d_mlp=30),
    _tl(
        "tl-unbiased",
        True,
        unsaved=(".b_Q", ".b_K", ".b_V", ".b_O", ".b_in", ".b_out"),
        act_fn="silu",
        d_mlp=30,
    ),
    _tl("tl-lnpre", True, act_fn="gelu_new", d_mlp=30, normalization_type="LNPre"),
    _tl("tl-rms", False, act_fn="silu", d_mlp=30, normalization_type="RMS", eps=1e-3),
    _tl("tl-rmspre", True, act_fn="relu", normalization_type="RMSPre"),
    _tl("tl-no-norm", True, act_fn="relu", d_mlp=30, normalization_type=None),
    _tl("tl-final-rms", False, act_fn="relu", d_mlp=30, final_rms=True),
    _tl(
        "tl-rotary",
        False,
        act_fn="gelu",
        d_mlp=30,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=True,
        rotary_base=100,
        rotary_dim=4,
    ),
    _tl(
        "tl-grouped-gated",
        False,
        act_fn="silu",
        d_mlp=30,
        d_model=20,
        gated_mlp=True,
        n_heads=4,
        n_key_value_heads=2,
        normalization_type="RMS",
    ),
    _tl("tl-bidirectional", True, act_fn="relu", d_mlp=30, attention_dir="bidirectional"),
    _tl("tl-output", True, act_fn="relu", d_mlp=30, d_vocab_out=13),
    _tl(
        "tl-output-bidirectional",
        True,
        attention_dir="bidirectional",
        attn_only=True,
        d_vocab_out=27,
    ),
    _tl("tl-attn-scale", True, act_fn="gelu", attn_scale=1.5, d_head=8, d_mlp=30),
)

BRIDGE_WRONG: tuple[Case, ...] = (
    _hf("gpt2-unscaled", True, {**GPT2, "scale_attn_weights": False}),
)
"""What Hugging Face computes and the bridge gets wrong: it scales the scores all the same."""

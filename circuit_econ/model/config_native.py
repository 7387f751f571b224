"""Configurations of TransformerLens' own models: the fields of ``TransformerBridgeConfig``."""

from __future__ import annotations

from typing import Any, Final

from circuit_econ.model.config import Activation, ModelConfig, Norm, Rotary
from circuit_econ.model.fields import MOST_LAYERS, Fields
from circuit_econ.model.foreign import refuse_foreign
from circuit_econ.model.source import Source

__all__ = ["NATIVE", "bridge_fields", "read_native"]

NATIVE: Final = "TransformerLens-native"
"""What the architecture is called."""

_NULL_SAYS_SOMETHING: Final = ("normalization_type", "act_fn")

_INIT_MODES: Final = (
    "gpt2", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"
)  # fmt: skip

# Fields of a TransformerLens configuration that say how a model is built, run or trained, not what
# it computes; some come from releases before the bridge.
_NATIVE_HARMLESS: Final = frozenset(
    {
        "model_name", "device", "n_devices", "dtype", "seed", "init_weights", "n_params",
        "tokenizer_name", "tokenizer_prepends_bos", "tokenizer_appends_eos",
        "default_padding_side", "default_prepend_bos", "use_attn_result", "use_split_qkv_input",
        "use_hook_mlp_in", "use_attn_in", "use_hook_tokens", "original_architecture",
        "architecture", "from_checkpoint", "checkpoint_index", "checkpoint_label_type",
        "checkpoint_value", "trust_remote_code", "attn_implementation", "load_in_4bit",
        "decoder_start_token_id", "layer_norm_folding", "is_layer_norm_activation",
        "split_attention_weights", "tie_word_embeddings", "model_type", "uses_rms_norm",
        "ungroup_grouped_query_attention", "dtype_str",
    }
)  # fmt: skip

# Fields that count only where another one switches them on. Releases before the bridge wrote all
# of them, whatever the model.
_ROTARY: Final = (
    "rotary_dim", "rotary_base", "rotary_base_local", "rotary_adjacent_pairs",
    "rotary_interleaved_cos_sin", "rope_scaling", "use_NTK_by_parts_rope",
)  # fmt: skip
_SWITCHED: Final[dict[str, tuple[str, ...]]] = {
    "use_NTK_by_parts_rope": (
        "NTK_by_parts_factor", "NTK_by_parts_low_freq_factor", "NTK_by_parts_high_freq_factor",
        "NTK_original_ctx_len",
    ),
    "use_local_attn": ("window_size", "attn_types"),
    "use_qk_norm": ("qk_norm_after_rope",),
    "is_multimodal": ("mm_tokens_per_image",),
    "is_visual_model": ("vision_hidden_size", "vision_num_layers", "vision_num_heads"),
}  # fmt: skip
_OF_EXPERTS: Final = ("experts_per_token", "norm_topk_prob")
_OF_RELATIVE_POSITIONS: Final = (
    "relative_attention_max_distance", "relative_attention_num_buckets"
)  # fmt: skip


def read_native(source: Source) -> ModelConfig:
    """The function of a checkpoint whose ``config.json`` is TransformerLens'.

    Raises:
        CheckpointError: If a field that changes the function is not implemented, or a field's
            value is not of its type and range.
    """
    return _read(source)[0]


def bridge_fields(source: Source) -> dict[str, Any]:
    """The fields that were read, as ``TransformerBridgeConfig`` takes them, and no others.

    Raises:
        CheckpointError: As :func:`read_native`.
    """
    config, f = _read(source)
    given = {
        k: v
        for k, v in source.config.items()
        if k in f.seen and k not in _ROTARY and (v is not None or k in _NULL_SAYS_SOMETHING)
    }
    if config.rotary is not None:
        given |= {
            "rotary_dim": config.rotary.dim,
            "rotary_base": int(config.rotary.base),
            "rotary_adjacent_pairs": True,
        }
    return given | {"n_heads": config.n_heads, "d_vocab_out": config.d_vocab_out}


def _read(source: Source) -> tuple[ModelConfig, Fields]:
    from transformer_lens.config import TransformerBridgeConfig

    refuse_foreign(source.config, source.origin)
    f = Fields(source.config, source.origin)
    width, d_head = f.size("d_model"), f.size("d_head")
    layers = f.size("n_layers", most=MOST_LAYERS)
    heads = width // d_head if _unset(f, "n_heads") else f.size("n_heads")
    if not heads:
        raise f.wrong("d_head", f"at most d_model = {width}")
    groups = f.size_or_none("n_key_value_heads") or heads
    if heads % groups:
        raise f.wrong("n_key_value_heads", f"a divisor of n_heads = {heads}")
    norm, final_norm, gains = _native_norms(f)
    attn_only = f.flag("attn_only", False)
    if not f.flag("use_attn_scale", True):
        raise f.refuse("use_attn_scale", "is ignored by TransformerLens' own model")
    asked = f.number("attn_scale", -1.0)
    vocabulary = f.size("d_vocab")
    config = ModelConfig(
        architecture=NATIVE,
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=groups,
        d_head=d_head,
        n_ctx=f.size("n_ctx"),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary if _unset(f, "d_vocab_out") else f.size("d_vocab_out"),
        norm=norm,
        final_norm=final_norm,
        eps=f.number("eps", 1e-5, least=0.0, most=1.0),
        parallel=False,
        causal=f.text("attention_dir", "causal", ("causal", "bidirectional")) == "causal",
        rotary=_native_rotary(f, d_head),
        attention_scales=(1 / asked if asked > 0 else d_head**-0.5,) * layers,
        windows=(None,) * layers,
        tied=False,
        norm_gains=gains,
        qkv_bias=True,
        out_bias=True,
        unembed_bias="unembed.b_U" in source.tensors,
        **_native_mlp(f, width, attn_only),
    )
    f.number("initializer_range", -1.0)  # with the mode, of untrained models
    f.text("init_mode", "gpt2", _INIT_MODES)
    _skip_what_is_off(f)
    # The defaults by way of the smallest configuration: what equals them is switched off.
    defaults = TransformerBridgeConfig(d_model=1, d_head=1, n_layers=1, n_ctx=1).to_dict()
    f.all_seen(defaults, _NATIVE_HARMLESS)
    return config, f


def _native_mlp(f: Fields, width: int, attn_only: bool) -> dict[str, Any]:
    if attn_only:
        # No activation and no MLP: whatever the fields say of them changes nothing.
        f.unused("act_fn", "d_mlp", "gated_mlp")
        return {"d_mlp": None, "activation": Activation.RELU, "gated": False, "mlp_bias": True}
    gated = f.flag("gated_mlp", False)
    # Absent is the configuration's default, null the model's own.
    missing = ("silu" if gated else "gelu") if "act_fn" in f.values else "relu"
    activation = f.activation("act_fn", missing)
    d_mlp = f.size_or_none("d_mlp") or 4 * width
    return {"d_mlp": d_mlp, "activation": activation, "gated": gated, "mlp_bias": not gated}


def _native_rotary(f: Fields, d_head: int) -> Rotary | None:
    kind = f.text("positional_embedding_type", "standard", ("standard", "rotary"))
    if kind == "standard":
        f.unused(*_ROTARY, *_SWITCHED["use_NTK_by_parts_rope"])
        return None
    if not f.flag("rotary_adjacent_pairs", True):
        raise f.refuse(
            "rotary_adjacent_pairs",
            "is not what TransformerLens' own model does (pairs are always adjacent); set it "
            "to true if the model was trained there",
        )
    base = f.number("rotary_base", 10000.0, 1.0, 1e15)
    if base != int(base):
        raise f.refuse("rotary_base", "is cut to a whole number by transformer-lens")
    dim = f.size("rotary_dim", d_head, most=d_head)
    if dim % 2:
        raise f.wrong("rotary_dim", "even")
    return Rotary(dim, base, adjacent=True)


def _skip_what_is_off(f: Fields) -> None:
    """Pass over fields whose switch is off; a switch that is on is itself refused by name."""
    for switch, fields in _SWITCHED.items():
        if f.values.get(switch) in (None, False):
            f.unused(switch, *fields)
    if f.values.get("num_experts") is None:
        f.unused(*_OF_EXPERTS)
    # Only relative positions use these, and they are refused above.
    f.unused(*_OF_RELATIVE_POSITIONS)
    # Nobody knows these, and they say nothing.
    f.unused(*(name for name, value in f.values.items() if value is None))


def _unset(f: Fields, name: str) -> bool:
    return f.absent(name) or f.values[name] == -1


def _native_norms(f: Fields) -> tuple[Norm, Norm, bool]:
    # Absent means the bridge's default; null means no norm. The two must not be confused.
    given = f.values.get("normalization_type", "LN")
    f.unused("normalization_type")
    layer, rms = Norm.LAYER, Norm.RMS
    kinds = {None: Norm.NONE, "LN": layer, "LNPRE": layer, "RMS": rms, "RMSPRE": rms}
    key = given.upper() if isinstance(given, str) else given
    if not isinstance(key, str | None) or key not in kinds:
        raise f.refuse("normalization_type", "is not implemented (LN, LNPre, RMS, RMSPre, null)")
    final_rms = f.flag("final_rms", False)
    if final_rms and key is None:
        raise f.refuse("final_rms", "without norms in the blocks is not implemented")
    gains = key in ("LN", "RMS")
    return kinds[key], Norm.RMS if final_rms else kinds[key], gains

"""Configurations of TransformerLens' own models: the fields of ``TransformerBridgeConfig``."""

from __future__ import annotations

from typing import Final

from circuit_econ.model.config import Activation, ModelConfig, Norm, Rotary
from circuit_econ.model.fields import Fields
from circuit_econ.model.source import Source

__all__ = ["NATIVE", "read_native"]

NATIVE: Final = "TransformerLens-native"
"""What the architecture is called."""

# Fields of a TransformerLens configuration that say how a model is built, run or trained, not what
# it computes; some come from releases before the bridge.
_NATIVE_HARMLESS: Final = frozenset(
    {
        "model_name", "device", "n_devices", "dtype", "seed", "init_mode", "initializer_range",
        "init_weights", "n_params", "tokenizer_name", "tokenizer_prepends_bos",
        "tokenizer_appends_eos", "default_padding_side", "default_prepend_bos", "use_attn_result",
        "use_split_qkv_input", "use_hook_mlp_in", "use_attn_in", "use_hook_tokens",
        "original_architecture", "architecture", "from_checkpoint", "checkpoint_index",
        "checkpoint_label_type", "checkpoint_value", "trust_remote_code", "attn_implementation",
        "load_in_4bit", "decoder_start_token_id", "layer_norm_folding",
        "is_layer_norm_activation", "split_attention_weights", "tie_word_embeddings",
        "model_type", "uses_rms_norm", "ungroup_grouped_query_attention", "dtype_str",
    }
)  # fmt: skip


def read_native(source: Source) -> ModelConfig:
    """The function of a checkpoint whose ``config.json`` is TransformerLens'.

    Raises:
        CheckpointError: If a field that changes the function is not implemented.
    """
    from transformer_lens.config import TransformerBridgeConfig

    f = Fields(source.config, source.origin)
    width, d_head, layers = f.need("d_model"), f.need("d_head"), f.need("n_layers")
    heads = f.get("n_heads", -1)
    heads = width // d_head if heads == -1 else heads
    norm, final_norm, gains = _native_norms(f)
    attn_only, gated = bool(f.get("attn_only", False)), bool(f.get("gated_mlp", False))
    if not f.get("use_attn_scale", True):
        raise f.refuse("use_attn_scale", "is ignored by TransformerLens' own model")
    asked = f.get("attn_scale", -1.0)
    kind = str(f.get("positional_embedding_type", "standard")).lower()
    if kind not in ("standard", "rotary"):
        raise f.refuse("positional_embedding_type", "is not implemented (standard, rotary)")
    rotary = None
    adjacent = f.get("rotary_adjacent_pairs", True)
    if kind == "rotary":
        if not adjacent:
            raise f.refuse(
                "rotary_adjacent_pairs",
                "is not what TransformerLens' own model does (pairs are always adjacent); set it "
                "to true if the model was trained there",
            )
        base = f.get("rotary_base", 10000)
        if base != int(base):
            raise f.refuse("rotary_base", "is cut to a whole number by transformer-lens")
        rotary = Rotary(f.get("rotary_dim", d_head), float(base), adjacent=True)
    else:
        f.seen.update({"rotary_dim", "rotary_base"})
    vocabulary = f.need("d_vocab")
    out = f.get("d_vocab_out", -1)
    config = ModelConfig(
        architecture=NATIVE,
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=f.get("n_key_value_heads", heads),
        d_head=d_head,
        d_mlp=None if attn_only else f.get("d_mlp", 4 * width),
        n_ctx=f.need("n_ctx"),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary if out in (-1, None) else out,
        norm=norm,
        final_norm=final_norm,
        eps=f.get("eps", 1e-5),
        # An attention-only model has no activation: whatever the field says changes nothing.
        activation=Activation.RELU
        if attn_only
        else f.activation("act_fn", "silu" if gated else "relu"),
        gated=gated,
        parallel=False,
        causal=f.get("attention_dir", "causal") == "causal",
        rotary=rotary,
        attention_scales=(1 / asked if asked > 0 else d_head**-0.5,) * layers,
        windows=(None,) * layers,
        tied=False,
        norm_gains=gains,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=not gated,
        unembed_bias="unembed.b_U" in source.tensors,
    )
    if attn_only:
        f.seen.update({"act_fn", "d_mlp"})
    # The defaults by way of the smallest configuration: what equals them is switched off.
    defaults = TransformerBridgeConfig(d_model=1, d_head=1, n_layers=1, n_ctx=1).to_dict()
    f.all_seen(defaults, _NATIVE_HARMLESS)
    return config


def _native_norms(f: Fields) -> tuple[Norm, Norm, bool]:
    # Absent means the bridge's default; null means no norm. The two must not be confused.
    given = f.values.get("normalization_type", "LN")
    f.seen.add("normalization_type")
    layer, rms = Norm.LAYER, Norm.RMS
    kinds = {None: Norm.NONE, "LN": layer, "LNPRE": layer, "RMS": rms, "RMSPRE": rms}
    key = given.upper() if isinstance(given, str) else given
    if key not in kinds:
        raise f.refuse("normalization_type", "is not implemented (LN, LNPre, RMS, RMSPre, null)")
    final_rms = f.get("final_rms", False)
    if final_rms and key is None:
        raise f.refuse("final_rms", "without norms in the blocks is not implemented")
    gains = key in ("LN", "RMS")
    return kinds[key], Norm.RMS if final_rms else kinds[key], gains

"""Configurations of Transformers' models: GPT-2, GPT-NeoX, Llama and its relatives."""

from __future__ import annotations

from typing import Any, Final

from circuit_econ.errors import CheckpointError
from circuit_econ.model.config import ModelConfig, Norm, Rotary
from circuit_econ.model.fields import Fields
from circuit_econ.model.source import Source

__all__ = ["FAMILIES", "read_hugging_face"]

# Fields that leave the function of a model in evaluation mode alone. Dropouts act in training only;
# pretraining_tp and reorder_and_upcast_attn change the order of the same sums.
_HARMLESS: Final = frozenset(
    {
        "transformers_version", "architectures", "output_hidden_states", "output_attentions",
        "return_dict", "dtype", "torch_dtype", "chunk_size_feed_forward", "id2label", "label2id",
        "problem_type", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
        "_name_or_path", "model_type", "initializer_range", "is_decoder", "_attn_implementation",
        "_attn_implementation_internal", "_experts_implementation_internal", "resid_pdrop",
        "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "classifier_dropout",
        "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
        "summary_first_dropout", "reorder_and_upcast_attn", "pretraining_tp", "sep_token_id",
        "decoder_start_token_id", "gradient_checkpointing",
    }
)  # fmt: skip


def read_hugging_face(source: Source, supported: tuple[str, ...]) -> ModelConfig:
    """The function of a checkpoint whose ``config.json`` is Transformers'.

    Args:
        source: The checkpoint.
        supported: Every architecture that works, for the message.

    Raises:
        CheckpointError: If the family or a field is not supported.
    """
    kind = source.config.get("model_type")
    reader = _READERS.get(str(kind))
    if reader is None:
        raise CheckpointError(
            f"{source.origin}: architecture {kind!r} is not supported; supported are: "
            f"{', '.join(supported)}"
        )
    # Transformers' class fills in defaults and translates the names of older releases.
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[str(kind)]
    given = {k: v for k, v in source.config.items() if k != "model_type"}
    expected = _LANGUAGE_MODELS[str(kind)]
    for name in given.get("architectures") or [expected]:
        if name != expected:
            raise CheckpointError(
                f"{source.origin}: architectures = {name!r} is not a language model of this family "
                f"(expected {expected!r})"
            )
    for name in ("auto_map", "quantization_config"):
        if given.get(name):
            raise CheckpointError(
                f"{source.origin}: {name} is set: code or quantisation that comes with a "
                "checkpoint is never run; convert the model to plain weights first"
            )
    try:
        parsed = cls.from_dict(given).to_dict()
        defaults = cls().to_dict()
    except Exception as error:  # whatever Transformers' validation raises, the file is at fault
        raise CheckpointError(f"{source.origin}: config.json is not valid: {error}") from error
    # Keys the class does not know are ignored by the source's implementation: so are they here.
    fields = Fields({k: v for k, v in parsed.items() if k in defaults}, source.origin)
    config = reader(fields)
    fields.all_seen(defaults, _HARMLESS)
    return config


def _gpt2(f: Fields) -> ModelConfig:
    layers, width, heads = f.need("n_layer"), f.need("n_embd"), f.need("n_head")
    if f.get("scale_attn_weights") is False:
        raise f.refuse("scale_attn_weights", "is ignored by transformer-lens: nothing to check by")
    scale = (width // heads) ** -0.5
    inverse = bool(f.get("scale_attn_by_inverse_layer_idx", False))
    return ModelConfig(
        architecture="gpt2",
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=width // heads,
        d_mlp=f.get("n_inner", 4 * width),
        n_ctx=f.need("n_positions"),
        d_vocab=f.need("vocab_size"),
        d_vocab_out=f.need("vocab_size"),
        norm=Norm.LAYER,
        final_norm=Norm.LAYER,
        eps=f.need("layer_norm_epsilon"),
        activation=f.activation("activation_function"),
        gated=False,
        parallel=False,
        causal=True,
        rotary=None,
        attention_scales=tuple(scale / (i + 1) if inverse else scale for i in range(layers)),
        windows=(None,) * layers,
        tied=f.get("tie_word_embeddings", True),
        norm_gains=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _gpt_neox(f: Fields) -> ModelConfig:
    layers, width, heads = (
        f.need("num_hidden_layers"), f.need("hidden_size"), f.need("num_attention_heads")
    )  # fmt: skip
    bias = f.get("attention_bias", True)
    return ModelConfig(
        architecture="gpt_neox",
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=width // heads,
        d_mlp=f.need("intermediate_size"),
        n_ctx=f.need("max_position_embeddings"),
        d_vocab=f.need("vocab_size"),
        d_vocab_out=f.need("vocab_size"),
        norm=Norm.LAYER,
        final_norm=Norm.LAYER,
        eps=f.need("layer_norm_eps"),
        activation=f.activation("hidden_act"),
        gated=False,
        parallel=bool(f.get("use_parallel_residual", True)),
        causal=True,
        rotary=_hf_rotary(f, width // heads),
        attention_scales=((width // heads) ** -0.5,) * layers,
        windows=(None,) * layers,
        tied=f.get("tie_word_embeddings", False),
        norm_gains=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
    )


def _llama_family(f: Fields, architecture: str, **changes: Any) -> ModelConfig:
    layers, width, heads = (
        f.need("num_hidden_layers"), f.need("hidden_size"), f.need("num_attention_heads")
    )  # fmt: skip
    d_head = f.get("head_dim", width // heads)
    bias = f.get("attention_bias", False)
    fields: dict[str, Any] = {
        "architecture": architecture,
        "n_layers": layers,
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": f.get("num_key_value_heads", heads),
        "d_head": d_head,
        "d_mlp": f.need("intermediate_size"),
        "n_ctx": f.need("max_position_embeddings"),
        "d_vocab": f.need("vocab_size"),
        "d_vocab_out": f.need("vocab_size"),
        "norm": Norm.RMS,
        "final_norm": Norm.RMS,
        "eps": f.get("rms_norm_eps", 1e-5),
        "activation": f.activation("hidden_act"),
        "gated": True,
        "parallel": False,
        "causal": True,
        "rotary": _hf_rotary(f, d_head),
        "attention_scales": (d_head**-0.5,) * layers,
        "windows": (None,) * layers,
        "tied": f.get("tie_word_embeddings", False),
        "norm_gains": True,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": f.get("mlp_bias", False),
    }
    return ModelConfig(**(fields | changes))


def _mistral(f: Fields) -> ModelConfig:
    layers = f.need("num_hidden_layers")
    return _llama_family(f, "mistral", windows=(f.get("sliding_window"),) * layers)


def _olmo(f: Fields) -> ModelConfig:
    return _llama_family(
        f,
        "olmo",
        norm=Norm.LAYER,
        final_norm=Norm.LAYER,
        norm_gains=False,
        eps=1e-5,
        clip_qkv=f.get("clip_qkv"),
    )


def _qwen(f: Fields, architecture: str) -> ModelConfig:
    layers = f.need("num_hidden_layers")
    window = f.get("sliding_window") if f.get("use_sliding_window", False) else None
    f.get("max_window_layers")  # already spelled out in layer_types
    types = f.get("layer_types", ["full_attention"] * layers)
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise f.refuse("layer_types")
    windows = tuple(window if kind == "sliding_attention" else None for kind in types)
    if architecture == "qwen2":
        return _llama_family(f, architecture, windows=windows, qkv_bias=True)
    return _llama_family(f, architecture, windows=windows, qk_norm=True)


_READERS: Final = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": lambda f: _llama_family(f, "llama"),
    "mistral": _mistral,
    "olmo": _olmo,
    "qwen2": lambda f: _qwen(f, "qwen2"),
    "qwen3": lambda f: _qwen(f, "qwen3"),
}

_LANGUAGE_MODELS: Final = {
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "olmo": "OlmoForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def _hf_rotary(f: Fields, d_head: int) -> Rotary:
    rope = dict(f.need("rope_parameters"))
    older = rope.pop("type", "default")
    kind = rope.pop("rope_type", older)
    base, dim = float(rope.pop("rope_theta", 10000.0)), rope.pop("partial_rotary_factor", 1.0)
    scaling: tuple[Any, ...] | None = None
    if kind == "linear":
        scaling = ("linear", float(rope.pop("factor")))
    elif kind == "llama3":
        names = "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"
        scaling = ("llama3", *(float(rope.pop(name)) for name in names))
    elif kind != "default":
        raise f.refuse("rope_parameters", "is not implemented (there is: default, linear, llama3)")
    if rope:
        raise f.refuse("rope_parameters", f"has fields that are not implemented ({sorted(rope)})")
    return Rotary(int(d_head * dim), base, adjacent=False, scaling=scaling)


FAMILIES: Final = tuple(_READERS)
"""Values of ``model_type`` that work."""

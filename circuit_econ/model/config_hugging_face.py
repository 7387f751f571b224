"""Configurations of Transformers' models: GPT-2, GPT-NeoX, Llama and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, Final

from circuit_econ.errors import CheckpointError
from circuit_econ.model.config import ModelConfig, Norm, Rotary
from circuit_econ.model.fields import MOST_LAYERS, Fields, shown
from circuit_econ.model.foreign import refuse_foreign
from circuit_econ.model.source import Source

__all__ = ["FAMILIES", "read_hugging_face", "transformers_config"]

# Fields that leave the function of a model in evaluation mode alone, whatever they hold. Dropouts
# act in training only; pretraining_tp and reorder_and_upcast_attn change the order of the same
# sums; summaries belong to heads that a language model lacks.
_HARMLESS: Final = frozenset(
    {
        "transformers_version", "architectures", "output_hidden_states", "output_attentions",
        "return_dict", "dtype", "torch_dtype", "chunk_size_feed_forward", "id2label", "label2id",
        "problem_type", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "model_type",
        "is_decoder", "resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout",
        "hidden_dropout", "classifier_dropout", "summary_type", "summary_use_proj",
        "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
        "reorder_and_upcast_attn", "pretraining_tp",
    }
)  # fmt: skip

# What Transformers' code reads although the family's class does not declare it, with the values
# that change nothing. Other keys that a class does not declare are read by nobody: ignored there
# and here. (Found by recording every attribute that building and running a model asks for.)
_UNDECLARED: Final[dict[str, tuple[Any, ...]]] = {
    "is_causal": (True,),
    "per_layer_config": ({},),
    "attention_chunk_size": (),
    "sliding_window": (),
    "kv_sharing_modes": ({}, []),
    "text_config": (),
    "decoder": (),
    "generator": (),
    "_rope_type_labels": (),
    "default_rope_type": ("default",),
    "default_theta": (10000.0,),
}

_ROPE_KINDS: Final = {
    "default": frozenset({"rope_theta"}),
    "linear": frozenset({"rope_theta", "factor"}),
    "llama3": frozenset(
        {
            "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
            "original_max_position_embeddings",
        }
    ),
}  # fmt: skip
"""Kinds of rotary embedding, and which of their parameters count."""

_ROPE_PARAMETERS: Final = frozenset().union(*_ROPE_KINDS.values()) | {
    "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
    "short_factor", "long_factor",
}  # fmt: skip
"""Parameters of any kind: those of another kind than the one that is on count for nothing."""

_BY_SEVERAL_NAMES: Final = (
    "rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_emb_base",
    "rotary_pct", "head_dim",
)  # fmt: skip
"""Read in whichever family asks for them, whether its class declares them or not."""


def read_hugging_face(source: Source, supported: tuple[str, ...]) -> ModelConfig:
    """The function of a checkpoint whose ``config.json`` is Transformers'.

    Args:
        source: The checkpoint.
        supported: Every architecture that works, for the message.

    Raises:
        CheckpointError: If the family or a field is not supported, a field's value is not of its
            type and range, or code or quantisation is asked for.
    """
    kind = source.config.get("model_type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise CheckpointError(
            f"{source.origin}: architecture {shown(kind)} is not supported; supported are: "
            f"{', '.join(supported)}"
        )
    return _read(source, kind)[0]


def transformers_config(source: Source) -> Any:
    """Transformers' own configuration of a checkpoint: of the fields that were read, no others.

    Raises:
        CheckpointError: As :func:`read_hugging_face`.
    """
    return _read(source, source.config["model_type"])[1]


def _read(source: Source, kind: str) -> tuple[ModelConfig, Any]:
    from transformers import CONFIG_MAPPING

    cls, origin = CONFIG_MAPPING[kind], source.origin
    refuse_foreign(source.config, origin)
    _check_class(source, kind)
    defaults = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
    given = dict(source.config)
    # Some fields have two names; where both are there, Transformers goes by the common one.
    for common, own in cls.attribute_map.items():
        if common in given:
            given[own] = given.pop(common)
    known = {k: v for k, v in given.items() if k in defaults or k in _BY_SEVERAL_NAMES}
    f = Fields({**defaults, **known}, origin)
    config = _READERS[kind](f)
    for name, nothing in _UNDECLARED.items():
        value = None if name in defaults else given.get(name)
        if value is not None and value not in nothing:
            raise Fields(given, origin).refuse(name)
    if any(one != "full_attention" for one in _undeclared_layers(given, defaults)):
        raise Fields(given, origin).refuse("layer_types")
    f.number("initializer_range", 0.02, least=0.0, most=1.0)  # of untrained models
    f.unused(*(name for name in _BY_SEVERAL_NAMES if name not in defaults))
    f.all_seen(defaults, _HARMLESS)
    return config, _parsed(cls, f, known, config)


def _undeclared_layers(given: dict[str, Any], defaults: dict[str, Any]) -> list[Any]:
    value = None if "layer_types" in defaults else given.get("layer_types")
    return value if isinstance(value, list) else [] if value is None else [value]


def _parsed(cls: Any, f: Fields, known: dict[str, Any], config: ModelConfig) -> Any:
    """Transformers' class over what was read, and nothing else of what the file says."""
    safe = {k: v for k, v in known.items() if k in f.seen and k not in _BY_SEVERAL_NAMES}
    if config.rotary is not None:
        safe["rope_parameters"] = _rope_of(config)
        if config.architecture != "gpt_neox":
            safe["head_dim"] = config.d_head
    pad = f.values.get("pad_token_id")  # its row is zero in an untrained model
    fits = isinstance(pad, int) and not isinstance(pad, bool) and 0 <= pad < config.d_vocab
    safe |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": pad if fits else None}
    try:
        return cls.from_dict(safe)
    except Exception as error:  # whatever Transformers' validation raises, the file is at fault
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{f.origin}: config.json is not valid: {reason}") from error


def _check_class(source: Source, kind: str) -> None:
    expected = _LANGUAGE_MODELS[kind]
    named = source.config.get("architectures")
    for name in [expected] if named is None else named if isinstance(named, list) else [named]:
        if name != expected:
            raise CheckpointError(
                f"{source.origin}: architectures = {shown(name)} is not a language model of this "
                f"family (expected {expected!r})"
            )


def _gpt2(f: Fields) -> ModelConfig:
    layers, width, heads = f.size("n_layer", most=MOST_LAYERS), f.size("n_embd"), f.size("n_head")
    d_head = _even_share(f, "n_embd", width, heads)
    if not f.flag("scale_attn_weights", True):
        raise f.refuse("scale_attn_weights", "is ignored by transformer-lens: nothing to check by")
    scale = d_head**-0.5
    inverse = f.flag("scale_attn_by_inverse_layer_idx", False)
    vocabulary = f.size("vocab_size")
    return ModelConfig(
        architecture="gpt2",
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=d_head,
        d_mlp=f.size_or_none("n_inner") or 4 * width,
        n_ctx=f.size("n_positions"),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary,
        norm=Norm.LAYER,
        final_norm=Norm.LAYER,
        eps=f.number("layer_norm_epsilon", least=0.0, most=1.0),
        activation=f.activation("activation_function"),
        gated=False,
        parallel=False,
        causal=True,
        rotary=None,
        attention_scales=tuple(scale / (i + 1) if inverse else scale for i in range(layers)),
        windows=(None,) * layers,
        tied=f.flag("tie_word_embeddings", True),
        norm_gains=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _gpt_neox(f: Fields) -> ModelConfig:
    layers, width, heads = _sizes(f)
    d_head = _even_share(f, "hidden_size", width, heads)
    if not f.absent("head_dim") and f.size("head_dim") != d_head:
        raise f.refuse("head_dim", f"is not hidden_size / num_attention_heads ({d_head})")
    bias, vocabulary = f.flag("attention_bias", True), f.size("vocab_size")
    return ModelConfig(
        architecture="gpt_neox",
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=d_head,
        d_mlp=f.size("intermediate_size"),
        n_ctx=f.size("max_position_embeddings"),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary,
        norm=Norm.LAYER,
        final_norm=Norm.LAYER,
        eps=f.number("layer_norm_eps", least=0.0, most=1.0),
        activation=f.activation("hidden_act"),
        gated=False,
        parallel=f.flag("use_parallel_residual", True),
        causal=True,
        rotary=_rotary(f, d_head, "rotary_emb_base", "rotary_pct", 0.25),
        attention_scales=(d_head**-0.5,) * layers,
        windows=(None,) * layers,
        tied=f.flag("tie_word_embeddings", False),
        norm_gains=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
    )


def _llama_family(f: Fields, architecture: str, **changes: Any) -> ModelConfig:
    layers, width, heads = _sizes(f)
    d_head = f.size_or_none("head_dim") or _even_share(f, "hidden_size", width, heads)
    groups = f.size_or_none("num_key_value_heads") or heads
    if heads % groups:
        raise f.wrong("num_key_value_heads", f"a divisor of num_attention_heads = {heads}")
    bias, vocabulary = f.flag("attention_bias", False), f.size("vocab_size")
    found: dict[str, Any] = {
        "architecture": architecture,
        "n_layers": layers,
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": groups,
        "d_head": d_head,
        "d_mlp": f.size("intermediate_size"),
        "n_ctx": f.size("max_position_embeddings"),
        "d_vocab": vocabulary,
        "d_vocab_out": vocabulary,
        "norm": Norm.RMS,
        "final_norm": Norm.RMS,
        "eps": f.number("rms_norm_eps", 1e-5, least=0.0, most=1.0),
        "activation": f.activation("hidden_act"),
        "gated": True,
        "parallel": False,
        "causal": True,
        "rotary": _rotary(f, d_head, "rope_theta", "partial_rotary_factor", None),
        "attention_scales": (d_head**-0.5,) * layers,
        "windows": (None,) * layers,
        "tied": f.flag("tie_word_embeddings", False),
        "norm_gains": True,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": f.flag("mlp_bias", False),
    }
    return ModelConfig(**(found | changes))


def _mistral(f: Fields) -> ModelConfig:
    layers = f.size("num_hidden_layers", most=MOST_LAYERS)
    return _llama_family(f, "mistral", windows=(f.size_or_none("sliding_window"),) * layers)


def _olmo(f: Fields) -> ModelConfig:
    return _llama_family(
        f,
        "olmo",
        norm=Norm.LAYER,
        final_norm=Norm.LAYER,
        norm_gains=False,
        eps=1e-5,
        clip_qkv=None if f.absent("clip_qkv") else f.number("clip_qkv", least=0.0),
    )


def _qwen(f: Fields, architecture: str) -> ModelConfig:
    layers = f.size("num_hidden_layers", most=MOST_LAYERS)
    sliding = f.flag("use_sliding_window", False)
    f.unused("sliding_window", "max_window_layers")
    window = f.size_or_none("sliding_window") if sliding else None
    types = f.names("layer_types", layers, ("full_attention", "sliding_attention"))
    if types is None:
        first = layers if window is None else f.size("max_window_layers", least=0)
        types = ("full_attention",) * min(first, layers)
        types += ("sliding_attention",) * (layers - len(types))
    windows = tuple(window if kind == "sliding_attention" else None for kind in types)
    if architecture == "qwen2":
        return _llama_family(f, architecture, windows=windows, qkv_bias=True)
    return _llama_family(f, architecture, windows=windows, qk_norm=True)


def _sizes(f: Fields) -> tuple[int, int, int]:
    return (
        f.size("num_hidden_layers", most=MOST_LAYERS),
        f.size("hidden_size"),
        f.size("num_attention_heads"),
    )


def _even_share(f: Fields, name: str, width: int, heads: int) -> int:
    if width % heads:
        raise f.wrong(name, f"a multiple of the number of heads, {heads}")
    return width // heads


_READERS: Final[dict[str, Callable[[Fields], ModelConfig]]] = {
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


def _rotary(f: Fields, d_head: int, base: str, share: str, usual: float | None) -> Rotary:
    """The rotary embedding of a family.

    Args:
        f: The configuration.
        d_head: Dimensions of a head.
        base: Where older releases put ``rope_theta``.
        share: Where they put ``partial_rotary_factor``.
        usual: The share where none is given; None in families that rotate all of a head. They
            ignore a share, but for scaled frequencies, where Transformers stumbles over one.
    """
    older, newer = f.table("rope_scaling"), f.table("rope_parameters")
    place = "rope_scaling" if older else "rope_parameters"
    rope: dict[str, Any] = {"rope_theta": f.number(base, 10000.0, 1e-3, 1e15)}
    if not f.absent(share):
        rope["partial_rotary_factor"] = f.number(share, 1.0, least=0.0, most=1.0)
    r = Fields({**rope, **(older or newer)}, f"{f.origin}: in {place}")
    kind = r.text("rope_type", r.text("type", "default", _ROPE_KINDS), _ROPE_KINDS)
    part = r.number("partial_rotary_factor", usual or 1.0, least=0.0, most=1.0)
    dim = int(d_head * part)
    if usual is None and dim != d_head:
        if kind != "default":
            raise r.refuse("partial_rotary_factor", f"does not go with rope_type = {kind!r}")
        dim = d_head
    if dim <= 0 or dim % 2:
        raise r.refuse(
            "partial_rotary_factor", f"turns {dim} of {d_head} dimensions, which must be even"
        )
    theta = r.number("rope_theta", 10000.0, 1e-3, 1e15)
    scaling: tuple[Any, ...] | None = None
    if kind == "linear":
        scaling = ("linear", r.number("factor", least=1e-6))
    elif kind == "llama3":
        low = r.number("low_freq_factor", least=1e-6)
        high = r.number("high_freq_factor", least=1e-6)
        if high <= low:
            raise r.wrong("high_freq_factor", f"more than low_freq_factor = {low:g}")
        # Transformers fills in the context where the original one is not told.
        context = r.size("original_max_position_embeddings", f.size("max_position_embeddings"))
        scaling = ("llama3", r.number("factor", least=1e-6), low, high, float(context))
    r.unused(*_ROPE_PARAMETERS)
    r.all_seen({}, frozenset())
    return Rotary(dim, theta, adjacent=False, scaling=scaling)


def _rope_of(config: ModelConfig) -> dict[str, Any]:
    """Transformers' parameters of a rotary embedding that was read."""
    rotary = config.rotary
    assert rotary is not None
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": rotary.base}
    if config.architecture == "gpt_neox":
        # Half a dimension more: what is cut to a whole number is not cut to one less.
        rope["partial_rotary_factor"] = min(1.0, (rotary.dim + 0.5) / config.d_head)
    if rotary.scaling is not None:
        kind, *numbers = rotary.scaling
        names = "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"
        rope |= {"rope_type": kind} | dict(zip(names, numbers, strict=False))
        if kind == "llama3":
            rope[names[-1]] = int(numbers[-1])
    return rope


FAMILIES: Final = tuple(_READERS)
"""Values of ``model_type`` that work."""

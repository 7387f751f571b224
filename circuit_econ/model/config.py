"""What a model computes, read from the source's own configuration: implemented, or refused by name.

The source's configuration is read directly because bridges say less than the truth (a bridge of a
Qwen-3 reports no q/k norm, one of a Mistral no window). Every field that the source's own
implementation knows is either *read* here, known to leave the function alone, or at the value that
switches it off; anything else is an error that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from circuit_econ.errors import CheckpointError
from circuit_econ.model.source import Format, Source

__all__ = ["ARCHITECTURES", "Activation", "ModelConfig", "Norm", "Rotary", "read_config"]


class Norm(StrEnum):
    """Normalisation before each sublayer; gains and biases are weights, and may be absent."""

    LAYER = "layer"
    RMS = "rms"
    NONE = "none"


class Activation(StrEnum):
    """Pointwise nonlinearity of an MLP."""

    RELU = "relu"
    GELU = "gelu"  # exact, by the error function
    GELU_TANH = "gelu_tanh"
    SILU = "silu"


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding.

    Attributes:
        dim: Rotated dimensions of each head, the first ones; even.
        base: Base of the geometric frequencies.
        adjacent: Whether coordinates (0, 1), (2, 3) … rotate together, else i and i + dim/2.
        scaling: ``None``, or ``("linear", factor)``, or
            ``("llama3", factor, low_freq_factor, high_freq_factor, original_context)``.
    """

    dim: int
    base: float
    adjacent: bool
    scaling: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.dim <= 0 or self.dim % 2:
            raise CheckpointError(f"rotary dimensions must be positive and even, not {self.dim}")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The function a model computes, its weights apart.

    ``windows[l]`` is how many positions a query of layer l sees, itself included (None = all);
    ``attention_scales[l]`` multiplies the scores of layer l.
    """

    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int | None  # None: attention only
    n_ctx: int
    d_vocab: int
    d_vocab_out: int
    norm: Norm
    final_norm: Norm
    eps: float
    activation: Activation
    gated: bool
    parallel: bool
    causal: bool
    rotary: Rotary | None  # None: learned positions are added to the stream
    attention_scales: tuple[float, ...]
    windows: tuple[int | None, ...]
    # Which optional tensors there are.
    tied: bool  # the unembedding is the embedding
    norm_gains: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    unembed_bias: bool = False
    clip_qkv: float | None = None
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"{self.n_heads} heads cannot share {self.n_kv_heads} key-value heads evenly"
            )
        if not len(self.attention_scales) == len(self.windows) == self.n_layers:
            raise CheckpointError("attention_scales and windows need one entry per layer")

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.n_heads // self.n_kv_heads


# Fields that leave the function of a model in evaluation mode alone. Dropouts act in training only;
# pretraining_tp and reorder_and_upcast_attn change the order of the same sums.
_HARMLESS: Final = frozenset(
    """
    transformers_version architectures output_hidden_states output_attentions return_dict dtype
    torch_dtype chunk_size_feed_forward id2label label2id problem_type use_cache bos_token_id
    eos_token_id pad_token_id _name_or_path model_type initializer_range is_decoder
    _attn_implementation _attn_implementation_internal _experts_implementation_internal
    resid_pdrop embd_pdrop attn_pdrop attention_dropout hidden_dropout classifier_dropout
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
    reorder_and_upcast_attn pretraining_tp sep_token_id decoder_start_token_id gradient_checkpointing
    """.split()
)

_ACTIVATIONS: Final = {
    "relu": Activation.RELU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}


class _Fields:
    """A configuration that remembers what was read, so that the rest can be refused by name."""

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self.values, self.origin, self.seen = values, origin, set()

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise CheckpointError(f"{self.origin}: config.json says no {name!r}, which is needed")
        return value

    def refuse(self, name: str, why: str = "is not implemented") -> CheckpointError:
        return CheckpointError(
            f"{self.origin}: {name} = {self.values.get(name)!r} {why}, and it changes what the "
            "model computes"
        )

    def activation(self, name: str, default: str | None = None) -> Activation:
        value = str(self.get(name, default)).lower()
        if value not in _ACTIVATIONS:
            raise self.refuse(name, f"is not implemented (there is: {', '.join(_ACTIVATIONS)})")
        return _ACTIVATIONS[value]

    def all_seen(self, defaults: Mapping[str, Any], harmless: frozenset[str]) -> None:
        for name, value in self.values.items():
            if name in self.seen or name in harmless or value == defaults.get(name):
                continue
            raise self.refuse(name)


def read_config(source: Source) -> ModelConfig:
    """The function that a checkpoint computes.

    Raises:
        CheckpointError: If the architecture is not among :data:`ARCHITECTURES`, or a field that
            changes the function is not implemented: the field is named.
    """
    if source.format is Format.TRANSFORMER_LENS:
        return _native(source)
    kind = source.config.get("model_type")
    reader = _READERS.get(str(kind))
    if reader is None:
        raise CheckpointError(
            f"{source.origin}: architecture {kind!r} is not supported; supported are: "
            f"{', '.join(ARCHITECTURES)}"
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
                f"{source.origin}: {name} is set: code or quantisation that comes with a checkpoint "
                "is never run; convert the model to plain weights first"
            )
    try:
        parsed = cls.from_dict(given).to_dict()
        defaults = cls().to_dict()
    except Exception as error:  # whatever Transformers' validation raises, the file is at fault
        raise CheckpointError(f"{source.origin}: config.json is not valid: {error}") from error
    # Keys the class does not know are ignored by the source's implementation: so are they here.
    fields = _Fields({k: v for k, v in parsed.items() if k in defaults}, source.origin)
    config = reader(fields)
    fields.all_seen(defaults, _HARMLESS)
    return config


def _gpt2(f: _Fields) -> ModelConfig:
    layers, width, heads = f.need("n_layer"), f.need("n_embd"), f.need("n_head")
    if f.get("scale_attn_weights") is False:
        raise f.refuse("scale_attn_weights", "is ignored by transformer-lens, so it cannot be checked")
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


def _gpt_neox(f: _Fields) -> ModelConfig:
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


def _llama_family(f: _Fields, architecture: str, **changes: Any) -> ModelConfig:
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


def _mistral(f: _Fields) -> ModelConfig:
    layers = f.need("num_hidden_layers")
    return _llama_family(f, "mistral", windows=(f.get("sliding_window"),) * layers)


def _olmo(f: _Fields) -> ModelConfig:
    return _llama_family(
        f,
        "olmo",
        norm=Norm.LAYER,
        final_norm=Norm.LAYER,
        norm_gains=False,
        eps=1e-5,
        clip_qkv=f.get("clip_qkv"),
    )


def _qwen(f: _Fields, architecture: str) -> ModelConfig:
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

ARCHITECTURES: Final = (*_READERS, "TransformerLens-native")
"""What can be measured, by the names of ``model_type`` in ``config.json``."""


def _hf_rotary(f: _Fields, d_head: int) -> Rotary:
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


# Fields of a TransformerLens configuration that say how a model is built, run or trained, not what
# it computes; some come from releases before the bridge.
_NATIVE_HARMLESS: Final = frozenset(
    """
    model_name device n_devices dtype seed init_mode initializer_range init_weights n_params
    tokenizer_name tokenizer_prepends_bos tokenizer_appends_eos default_padding_side
    default_prepend_bos use_attn_result use_split_qkv_input use_hook_mlp_in use_attn_in
    use_hook_tokens original_architecture architecture from_checkpoint checkpoint_index
    checkpoint_label_type checkpoint_value trust_remote_code attn_implementation load_in_4bit
    decoder_start_token_id layer_norm_folding is_layer_norm_activation split_attention_weights
    tie_word_embeddings model_type uses_rms_norm ungroup_grouped_query_attention dtype_str
    """.split()
)


def _native(source: Source) -> ModelConfig:
    from transformer_lens.config import TransformerBridgeConfig

    f = _Fields(source.config, source.origin)
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
                "is not what TransformerLens' own model does (pairs are always adjacent); set it to "
                "true if the model was trained there",
            )
        base = f.get("rotary_base", 10000)
        if base != int(base):
            raise f.refuse("rotary_base", "is cut to a whole number by transformer-lens")
        rotary = Rotary(f.get("rotary_dim", d_head), float(base), adjacent=True)
    else:
        f.get("rotary_dim"), f.get("rotary_base")
    vocabulary = f.need("d_vocab")
    out = f.get("d_vocab_out", -1)
    config = ModelConfig(
        architecture="TransformerLens-native",
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


def _native_norms(f: _Fields) -> tuple[Norm, Norm, bool]:
    # Absent means the bridge's default; null means no norm. The two must not be confused.
    given = f.values.get("normalization_type", "LN")
    f.seen.add("normalization_type")
    kinds = {None: Norm.NONE, "LN": Norm.LAYER, "LNPRE": Norm.LAYER, "RMS": Norm.RMS, "RMSPRE": Norm.RMS}
    key = given.upper() if isinstance(given, str) else given
    if key not in kinds:
        raise f.refuse("normalization_type", "is not implemented (LN, LNPre, RMS, RMSPre, null)")
    final_rms = f.get("final_rms", False)
    if final_rms and key is None:
        raise f.refuse("final_rms", "without norms in the blocks is not implemented")
    gains = key in ("LN", "RMS")
    return kinds[key], Norm.RMS if final_rms else kinds[key], gains

"""Configurations: every field has a type, a range and a meaning, and nothing in one is run."""

from __future__ import annotations

import math
import random
import re
import tracemalloc
from typing import Any

import pytest
import torch
import zoo
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, dynamic_module_utils
from transformers.integrations import hub_kernels

from circuit_econ.errors import CheckpointError
from circuit_econ.model import Format, Model, Source, inventory, read_config
from circuit_econ.model.check import check_against_bridge
from circuit_econ.model.untrained import untrained

TOKENS = torch.arange(10)[None]


def changed(name: str, **fields: object) -> Source:
    source = zoo.case_named(name).source(0)
    return Source(source.format, {**source.config, **fields}, source.tensors, "run/step5")


# ── what values may be ────────────────────────────────────────────────────────────────────────

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, -5, 10**9, 2**63, 10**30, 0.5, 1e300, math.nan, math.inf, "", "x",
    "1", "a" * 10_000, [], [1], [None], [[[]]], {}, {"a": 1}, ["full_attention"], [1] * 10_000,
    {"rope_type": ["x"]}, {"type": "linear", "factor": "2"}, {"rope_theta": None},
    {"full_attention": {"rope_type": "default"}}, "owner/kernel", "\0", "é",
)  # fmt: skip
BESIDE = (
    "head_dim", "layer_types", "is_causal", "per_layer_config", "sliding_window", "num_labels",
    "partial_rotary_factor", "rope_theta", "rope_scaling", "rope_parameters", "hidden_size",
    "n_embd", "attn_implementation", "to_dict", "text_config", "num_key_value_heads", "rotary_pct",
    "rotary_emb_base", "pad_token_id", "initializer_range", "dtype", "architectures",
    "attention_dir", "rotary_dim", "rotary_base", "positional_embedding_type", "attn_scale",
    "n_heads", "d_vocab_out", "act_fn", "eps", "normalization_type", "init_mode", "sub_configs",
)  # fmt: skip


def test_a_mutated_configuration_is_read_or_refused_in_one_line() -> None:
    draw, refused, read = random.Random(0), 0, 0
    plain = [case.source(0) for case in zoo.CASES]
    for _ in range(200):
        source = draw.choice(plain)
        field = draw.choice([*source.config, *BESIDE])
        config = {**source.config, field: draw.choice(HOSTILE)}
        for tensors in ({}, source.tensors):  # with and without weights to compare sizes with
            mutated = Source(source.format, config, tensors, "run/step5")
            try:
                read_config(mutated)
                if tensors:
                    inventory(mutated)
                    Model.from_source(mutated)
                    read += 1
            except CheckpointError as error:
                text = str(error)
                assert text.startswith("run/step5: ") and "\n" not in text and len(text) < 600
                refused += 1
    assert refused > 100 and read > 40


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("gpt2", "n_layer"), ("gpt2", "n_head"), ("gpt2", "vocab_size"), ("gpt2", "n_positions"),
        ("llama", "num_hidden_layers"), ("llama", "num_key_value_heads"), ("llama", "head_dim"),
        ("qwen2-window", "num_hidden_layers"), ("mistral", "num_hidden_layers"),
        ("neox", "num_attention_heads"), ("tl-ln-gelu", "n_layers"), ("tl-ln-gelu", "n_heads"),
        ("tl-ln-gelu", "d_mlp"), ("tl-rotary", "rotary_dim"), ("tl-ln-gelu", "d_vocab_out"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1_000_000_000, 0, -3, 2.5, "12", True, [4]])
def test_sizes_are_whole_numbers_within_reason(name: str, field: str, size: object) -> None:
    if field == "n_heads" and size == 0:
        size = -2  # -1 and its like stand for "as many as fit"
    for source in (changed(name, **{field: size}),):
        bare = Source(source.format, source.config, {}, source.origin)
        said = rf"run/step5: (in \w+: )?{field} = {re.escape(repr(size))} in config.json is not"
        with pytest.raises(CheckpointError, match=said):
            read_config(bare)


def test_sizes_are_compared_with_the_tensors_before_anything_is_built() -> None:
    tracemalloc.start()
    for size in (9000, 1_000_000_000):
        with pytest.raises(CheckpointError, match=r"says 9000 layers, but there are no|n_layer = "):
            inventory(changed("gpt2", n_layer=size))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6
    with pytest.raises(CheckpointError, match="9000 layers of 6000 heads; more than 1000000"):
        read_config(Source(Format.HUGGING_FACE, {
            "model_type": "gpt2", "n_layer": 9000, "n_head": 6000, "n_embd": 6000}, {}, "here"),
        )  # fmt: skip
    with pytest.raises(CheckpointError, match="asks for MLPs of 200000000 dimensions"):
        read_config(changed("llama", intermediate_size=200_000_000))


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("gpt2", {"layer_norm_epsilon": math.nan}, "layer_norm_epsilon = nan in config.json is no"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps = '1e-5' in config.json is not a number"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings = 1 in config.json is not true"),
        ("llama", {"rope_theta": math.inf}, "rope_theta = inf in config.json is not a number"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads = 3 .* a divisor of .* = 4"),
        ("gpt2", {"n_embd": 19}, "n_embd = 19 .* a multiple of the number of heads, 3"),
        ("mistral", {"sliding_window": 0}, "sliding_window = 0 in config.json is not a whole"),
        ("qwen2-window", {"layer_types": ["full_attention"]}, "is not a list of 2 names"),
        ("tl-ln-gelu", {"attention_dir": "casual"}, "attention_dir = 'casual' is not implemented"),
        ("tl-rotary", {"rotary_dim": 5}, "rotary_dim = 5 in config.json is not even"),
        ("neox", {"rope_parameters": {"partial_rotary_factor": 0.1}}, "turns 1 of 16 dimensions"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "in rope_scaling: .* no 'factor'"),
        ("gpt2", {"n_layer": None}, "says no 'n_layer', which is needed"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_expected(
    name: str, fields: dict[str, object], text: str
) -> None:
    with pytest.raises(CheckpointError, match=text):
        read_config(changed(name, **fields))


# ── what a field does is what the source does ─────────────────────────────────────────────────


def transformers_logits(source: Source) -> torch.Tensor:
    """Of Transformers' own model of the configuration as it stands."""
    fields = {k: v for k, v in source.config.items() if k != "model_type"}
    config = CONFIG_MAPPING[source.config["model_type"]].from_dict(fields)
    module, _ = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
        None, config=config, state_dict={k: v.float() for k, v in source.tensors.items()},
        dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
    )  # fmt: skip
    with torch.no_grad():
        return module.eval()(TOKENS).logits


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama", {"partial_rotary_factor": 0.5}),
        ("mistral", {"partial_rotary_factor": 0.25}),
        ("qwen3", {"rope_parameters": {"rope_theta": 77.0, "partial_rotary_factor": 0.5}}),
        ("olmo", {"rope_parameters": {"rope_theta": 77.0, "factor": 3.0, "beta_fast": 2}}),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 3.0, "low_freq_factor": 1.0}}),
        ("llama", {"rope_parameters": {"rope_theta": 500.0}, "rope_theta": 7.0}),
        ("neox", {"rope_theta": 7.0, "partial_rotary_factor": 1.0}),
        ("neox-published", {"rotary_pct": 0.5, "rotary_emb_base": 30}),
        ("neox-published", {"head_dim": 16}),
        ("olmo", {"head_dim": 6}),
        ("qwen2", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}),
        ("qwen3", {"sliding_window": 3, "layer_types": ["full_attention"] * 2}),
        ("mistral", {"attention_bias": True, "clip_qkv": 0.1}),
        ("llama", {"layer_types": ["full_attention"] * 2, "clip_qkv": 0.1, "window_size": 2}),
        ("gpt2", {"head_dim": 2, "rope_theta": 3.0, "num_key_value_heads": 1, "n_ctx": 3}),
        ("gpt2-relu", {"hidden_size": 18, "num_attention_heads": 3}),
        ("gpt2", {"resid_pdrop": 0.9, "summary_type": "none", "use_cache": False}),
    ],
)
def test_the_function_is_the_one_that_transformers_computes(
    name: str, fields: dict[str, Any]
) -> None:
    source = changed(name, **fields)
    model = Model.from_source(source)
    with torch.no_grad():
        ours = model.logits(model.run(model.embed(TOKENS)))
    theirs = transformers_logits(source)
    assert float((ours - theirs).abs().max()) < 2e-5 * float(theirs.abs().max())
    assert check_against_bridge(source, TOKENS, TOKENS) < 1e-5


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("llama", {"is_causal": False}, "is_causal = False"),
        ("llama", {"sliding_window": 3}, "sliding_window = 3"),
        ("llama", {"attention_chunk_size": 4}, "attention_chunk_size = 4"),
        ("olmo", {"per_layer_config": {"0": {"clip_qkv": 1.0}}}, "per_layer_config = {'0': "),
        ("llama", {"layer_types": ["sliding_attention"] * 2}, "layer_types = "),
        ("neox", {"head_dim": 8}, r"head_dim = 8 is not hidden_size / num_attention_heads \(16\)"),
        ("llama", {"text_config": {"hidden_size": 3}}, "text_config = "),
        ("llama-linear", {"partial_rotary_factor": 0.5}, "does not go with rope_type = 'linear'"),
        ("llama", {"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}, "mrope_secti"),
    ],
)
def test_what_transformers_reads_beside_its_fields_is_refused_by_name(
    name: str, fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(CheckpointError, match=text):
        read_config(changed(name, **fields))


# ── TransformerLens before the bridge ─────────────────────────────────────────────────────────

OLDER = {
    "NTK_by_parts_factor": 8.0, "NTK_by_parts_high_freq_factor": 4.0,
    "NTK_by_parts_low_freq_factor": 1.0, "NTK_original_ctx_len": 8192, "act_fn": "gelu",
    "attention_dir": "causal", "attn_only": False, "attn_scale": 6**0.5,
    "attn_scores_soft_cap": -1.0, "attn_types": None, "checkpoint_index": None,
    "checkpoint_label_type": None, "checkpoint_value": None, "d_head": 6, "d_mlp": 30,
    "d_model": 18, "d_vocab": 19, "d_vocab_out": 19, "decoder_start_token_id": None,
    "default_prepend_bos": True, "device": "cuda", "dtype": "torch.float32", "eps": 1e-5,
    "experts_per_token": None, "final_rms": False, "from_checkpoint": False, "gated_mlp": False,
    "init_mode": "gpt2", "init_weights": True, "initializer_range": 0.8 / 18**0.5,
    "load_in_4bit": False, "model_name": "custom", "n_ctx": zoo.N_CTX, "n_devices": 1,
    "n_heads": 3, "n_key_value_heads": None, "n_layers": 2, "n_params": 4752,
    "normalization_type": "LN", "num_experts": None, "original_architecture": None,
    "output_logits_soft_cap": -1.0, "parallel_attn_mlp": False,
    "positional_embedding_type": "standard", "post_embedding_ln": False,
    "relative_attention_max_distance": None, "relative_attention_num_buckets": None,
    "rotary_adjacent_pairs": False, "rotary_base": 10000, "rotary_base_local": None,
    "rotary_dim": None, "scale_attn_by_inverse_layer_idx": False, "seed": None,
    "tie_word_embeddings": False, "tokenizer_name": None, "tokenizer_prepends_bos": None,
    "trust_remote_code": False, "ungroup_grouped_query_attention": False,
    "use_NTK_by_parts_rope": False, "use_attn_in": False, "use_attn_result": False,
    "use_attn_scale": True, "use_hook_mlp_in": False, "use_hook_tokens": False,
    "use_local_attn": False, "use_normalization_before_and_after": False, "use_qk_norm": False,
    "use_split_qkv_input": False, "window_size": None,
}  # fmt: skip
"""All that ``HookedTransformerConfig.to_dict()`` wrote in the last releases before the bridge."""


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tl-published", {}),
        ("tl-published", {"window_size": 4, "attn_types": ["local", "global"]}),
        ("tl-published", {"experts_per_token": 2, "relative_attention_num_buckets": 32}),
        ("tl-attn-only", {"attn_only": True, "act_fn": None, "d_mlp": None, "n_layers": 3}),
        ("tl-lnpre", {"normalization_type": "LNPre", "act_fn": "gelu_new"}),
        ("tl-output", {"act_fn": "relu", "d_vocab_out": 13}),
        ("tl-rotary", {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": True,
                       "rotary_base": 100, "rotary_dim": 4}),
        ("tl-grouped-gated", {"gated_mlp": True, "act_fn": "silu", "n_key_value_heads": 2,
                              "n_heads": 4, "d_model": 20, "normalization_type": "RMS"}),
    ],
)  # fmt: skip
def test_all_that_older_releases_wrote_is_read_and_what_is_off_counts_for_nothing(
    name: str, fields: dict[str, Any]
) -> None:
    plain = zoo.case_named(name).source(0)
    source = Source(plain.format, {**OLDER, **fields}, plain.tensors, "here")
    assert check_against_bridge(source, TOKENS, TOKENS) < 1e-5
    new = [Model.from_source(s, torch.float64) for s in (plain, source)]
    losses = [float(m.loss(TOKENS, TOKENS)) for m in new]
    assert losses[1] == pytest.approx(losses[0], rel=1e-14)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"act_fn": "solu_ln"}, "act_fn = 'solu_ln' is not implemented"),
        ({"use_local_attn": True, "window_size": 4}, "use_local_attn = True|window_size = 4"),
        ({"num_experts": 4, "experts_per_token": 2}, "num_experts = 4|experts_per_token = 2"),
        ({"positional_embedding_type": "shortformer"}, "positional_embedding_type = 'shortformer'"),
        ({"positional_embedding_type": "rotary", "rotary_adjacent_pairs": True,
          "use_NTK_by_parts_rope": True}, "NTK_"),
        ({"output_logits_soft_cap": 30.0}, "output_logits_soft_cap = 30.0"),
        ({"post_embedding_ln": True}, "post_embedding_ln = True"),
        ({"parallel_attn_mlp": True}, "parallel_attn_mlp = True"),
    ],
)  # fmt: skip
def test_what_older_releases_switched_on_is_refused_by_name(
    fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(CheckpointError, match=text):
        read_config(Source(Format.TRANSFORMER_LENS, {**OLDER, **fields}, {}, "here"))


# ── nothing that a configuration names is run ─────────────────────────────────────────────────

FOREIGN = (
    {"attn_implementation": "owner/kernel"},
    {"_attn_implementation": "kernels-community/flash-attn"},
    {"attn_implementation": {"": "eager", "text_config": "owner/kernel@main"}},
    {"_attn_implementation_internal": "owner/kernel"},
    {"_experts_implementation": "owner/kernel"},
    {"auto_map": {"AutoModelForCausalLM": "owner/code--modeling.Model"}},
    {"text_config": {"auto_map": {"AutoConfig": "configuration.Config"}}},
    {"some_list": [{"deeper": {"auto_map": {"AutoConfig": "a.B"}}}]},
    {"trust_remote_code": True},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"load_in_8bit": True},
    {"use_kernels": True},
    {"kernel_config": {"kernel_mapping": {"RMSNorm": "owner/kernel:RMSNorm"}}},
    {"custom_pipelines": {"x": {"impl": "a.B"}}},
    {"transformers_weights": "../elsewhere.safetensors"},
)


@pytest.mark.parametrize("name", ["llama", "gpt2", "tl-ln-gelu"])
def test_code_that_a_configuration_names_is_refused_and_never_loaded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def spy(what: str) -> Any:
        return lambda *_, **__: called.append(what)

    for module, functions in (
        (hub_kernels, ("load_and_register_attn_kernel", "get_kernel", "lazy_load_kernel")),
        (dynamic_module_utils, ("get_class_from_dynamic_module", "get_class_in_module")),
    ):
        for function in functions:
            monkeypatch.setattr(module, function, spy(function))
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", spy("flash"))
    for fields in FOREIGN:
        source = changed(name, **fields)
        field = re.search(r"\w+$", next(iter(fields)))
        for what in (read_config, Model.from_source, lambda s: untrained(s.format, s.config, 0)):
            with pytest.raises(CheckpointError, match="never (fetched or )?run") as caught:
                what(source)
            assert field is not None and field[0] in str(caught.value)
        with pytest.raises(CheckpointError):
            check_against_bridge(source, TOKENS, TOKENS)
    # What the libraries bring along may be named, and is not used: everything runs eagerly.
    plain = changed(name, attn_implementation="flash_attention_2", quantization_config=None)
    check_against_bridge(plain, TOKENS, TOKENS)
    untrained(plain.format, plain.config, 0)
    assert not called


def test_untrained_models_are_drawn_without_what_the_file_says_of_running() -> None:
    odd = {"attn_implementation": "flash_attention_3", "num_labels": 10**9, "torch_dtype": "x",
           "pad_token_id": -7, "id2label": [1], "use_cache": "maybe"}  # fmt: skip
    for name in ("llama", "gpt2", "neox"):
        plain, source = changed(name), changed(name, **odd)
        one, other = (untrained(s.format, s.config, 3).tensors for s in (plain, source))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)

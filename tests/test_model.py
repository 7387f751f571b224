"""The forward pass: every architecture against a plain float64 one, the bridge, and itself."""

from __future__ import annotations

import plain
import pytest
import torch
import zoo

from circuit_econ.errors import CheckpointError
from circuit_econ.model import Edit, Format, Model, Rounding, Source, inventory, read_config
from circuit_econ.model.bridge import boot
from circuit_econ.model.check import (
    DisagreementError,
    check_against_bridge,
    check_identity,
    compare,
)
from circuit_econ.model.intervene import components

CASES = pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)


def model_of(case: zoo.Case, dtype: torch.dtype = torch.float64) -> Model:
    return Model.from_source(case.source(0), dtype)


def logits_of(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.run(model.embed(tokens)))


@CASES
def test_logits_are_those_of_a_plain_forward_and_of_the_bridge(case: zoo.Case) -> None:
    tokens = zoo.tokens_of(case, 3, seed=1)
    ours = logits_of(model_of(case), tokens)
    source = case.source(0)
    expected = plain.plain_logits(case.format, source.config, source.tensors, tokens)
    scale = float(expected.abs().max())
    assert scale > 0.1
    assert float((ours - expected).abs().max()) <= 1e-9 * scale
    with torch.no_grad():
        bridged = zoo.shared_bridge(case)(tokens)
    assert float((ours - bridged).abs().max()) <= (1e-9 if case.exact else 1e-5) * scale


@CASES
def test_a_bridge_booted_from_the_source_and_one_read_back_agree(case: zoo.Case) -> None:
    source, tokens = case.source(0), zoo.tokens_of(case, 2, seed=2)
    model = model_of(case)
    with torch.no_grad():
        booted = boot(source, torch.float64)(tokens)
    ours = logits_of(model, tokens)
    scale = float(ours.abs().max())
    assert float((ours - booted).abs().max()) <= (1e-9 if case.exact else 1e-5) * scale
    again = Model.from_bridge(zoo.shared_bridge(case), torch.float64)
    assert float((logits_of(again, tokens) - ours).abs().max()) <= 1e-12 * scale


@CASES
def test_contributions_are_the_plain_ones_and_sum_to_the_stream(case: zoo.Case) -> None:
    model, source, tokens = model_of(case), case.source(0), zoo.tokens_of(case, 2, seed=3)
    trace = plain.plain_trace(case.format, source.config, source.tensors, tokens)
    with torch.no_grad():
        found = dict(model.contributions(tokens))
        final = model.run(model.embed(tokens))
    assert float((sum(found.values()) - final).abs().max()) < 1e-12
    for layer in range(model.config.n_layers):
        heads = torch.stack([found[f"a{layer}.h{h}"] for h in range(model.config.n_heads)], 2)
        assert float((heads - trace[f"heads.{layer}"]).abs().max()) < 1e-9
        pattern = model.pattern(layer, trace[f"stream.{layer}"])
        assert float((pattern - trace[f"pattern.{layer}"]).abs().max()) < 1e-9
    check_identity(model, tokens)


@CASES
def test_a_pass_started_anywhere_ends_in_the_same_stream(case: zoo.Case) -> None:
    model, tokens = model_of(case), zoo.tokens_of(case, 3, seed=4)
    with torch.no_grad():
        trace = model.trace(tokens)
        final = trace.streams[model.last_place]
        for place, stream in trace.streams.items():
            assert torch.equal(model.run(stream, place), final), place
    middles = 0 if model.config.parallel or model.config.d_mlp is None else model.config.n_layers
    assert len(trace.streams) == model.config.n_layers + 1 + middles


@CASES
def test_every_component_bites_at_its_place_and_as_an_edit(case: zoo.Case) -> None:
    model, tokens = model_of(case), zoo.tokens_of(case, 2, seed=5)
    with torch.no_grad():
        trace = model.trace(tokens)
        final = trace.streams[model.last_place]
        for part in components(model.config):
            output = part.output(model, trace, tokens)
            place = part.place(model)
            moved = trace.streams[place] - part.write(model, output)
            by_place = model.run(moved, place)
            assert float((by_place - final).abs().max()) > 1e-6, part.name
            if part.layer is not None:
                edit = Edit(part.layer, part.head, slice(0, 2), torch.zeros_like(output))
                by_edit = model.run(trace.streams[0], 0, [edit])
                assert float((by_edit - by_place).abs().max()) < 1e-11, part.name


@CASES
def test_sequence_losses_are_cross_entropies_of_the_logits(case: zoo.Case) -> None:
    model, tokens = model_of(case), zoo.tokens_of(case, 4, seed=6)
    targets = zoo.targets_of(case, tokens, seed=6)
    targets[0] = -100
    with torch.no_grad():
        stream = model.run(model.embed(tokens))
        losses = model.sequence_losses(stream, targets)
        plainly = torch.nn.functional.cross_entropy(
            model.logits(stream).transpose(1, 2), targets, reduction="none", ignore_index=-100
        ).sum(1)
    assert torch.allclose(losses, plainly, rtol=1e-12)
    assert losses[0] == 0 and (losses[1:] > 0).all()


@CASES
def test_the_inventory_reads_everything_and_misses_nothing(case: zoo.Case) -> None:
    source = case.source(0)
    found = inventory(source)
    assert not found.missing
    assert set(source.tensors) == found.read | found.ignored
    name = sorted(found.read)[0]
    rest = {k: v for k, v in source.tensors.items() if k != name}
    lacking = Source(source.format, source.config, rest, "here")
    if ".b" not in name and "bias" not in name:
        assert name in inventory(lacking).missing
        with pytest.raises(CheckpointError, match="is missing"):
            Model.from_source(lacking)


@pytest.mark.parametrize("name", ["tl-ln-gelu", "tl-grouped-gated", "tl-rotary", "tl-attn-only"])
def test_transformer_lens_names_are_written_as_they_are_read(name: str) -> None:
    case = zoo.case_named(name)
    model, source = model_of(case), case.source(0)
    again = Source(source.format, source.config, model.to_transformer_lens(), "again")
    tokens = zoo.tokens_of(case, 2, seed=7)
    assert torch.equal(
        logits_of(Model.from_source(again, torch.float64), tokens), logits_of(model, tokens)
    )


def test_a_new_model_has_the_bridges_own_initialisation() -> None:
    config = {"d_model": 16, "d_head": 4, "n_layers": 1, "n_ctx": 8, "d_vocab": 11, "d_mlp": 8}
    one, same, other = (Model.initialise(config, seed=s) for s in (3, 3, 4))
    assert all(torch.equal(a, same.parameters()[k]) for k, a in one.parameters().items())
    assert not torch.equal(one.weights.embed, other.weights.embed)
    assert 0.1 < float(one.weights.embed.std()) < 0.3  # 0.8 / √d_model


def test_training_reaches_every_parameter() -> None:
    config = {"d_model": 16, "d_head": 4, "n_layers": 1, "n_ctx": 8, "d_vocab": 11, "d_mlp": 8}
    model = Model.initialise(config)
    for leaf in model.parameters().values():
        leaf.requires_grad_(True)
    tokens = torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(0))
    model.loss(tokens, tokens).backward()
    # Key biases shift all scores of a query alike: their gradient is zero, but it is there.
    assert all(leaf.grad is not None for leaf in model.parameters().values())


# ── what is refused ───────────────────────────────────────────────────────────────────────────


def changed(name: str, **fields: object) -> Source:
    case = zoo.case_named(name)
    source = case.source(0)
    return Source(source.format, {**source.config, **fields}, source.tensors, "run/step5")


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("gpt2", {"model_type": "mamba"}, "architecture 'mamba' is not supported; supported are: "
         "gpt2, gpt_neox, llama, mistral, olmo, qwen2, qwen3, TransformerLens-native"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention = True is not implemented"),
        ("gpt2", {"activation_function": "quick_gelu"}, "activation_function = 'quick_gelu'"),
        ("gpt2", {"architectures": ["GPT2ForSequenceClassification"]}, "not a language model"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ("llama", {"auto_map": {"AutoModel": "x.y"}}, "auto_map is set"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
         "in rope_scaling: rope_type = 'yarn' is not implemented"),
        ("qwen2-window", {"layer_types": ["full_attention", "chunked"]}, "layer_types|not valid"),
        ("tl-ln-gelu", {"parallel_attn_mlp": True}, "parallel_attn_mlp = True is not implemented"),
        ("tl-ln-gelu", {"use_attn_scale": False}, "use_attn_scale = False is ignored by"),
        ("tl-ln-gelu", {"use_qk_norm": True}, "use_qk_norm = True is not implemented"),
        ("tl-ln-gelu", {"use_local_attn": True}, "use_local_attn = True is not implemented"),
        ("tl-ln-gelu", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer"),
        ("tl-ln-gelu", {"normalization_type": "Batch"}, "normalization_type = 'Batch'"),
        ("tl-ln-gelu", {"act_fn": "solu_ln"}, "act_fn = 'solu_ln' is not implemented"),
        ("tl-ln-gelu", {"attn_scores_soft_cap": 30.0}, "attn_scores_soft_cap = 30.0"),
        ("tl-ln-gelu", {"no_such_field": 1}, "no_such_field = 1 is not implemented"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights = False is ignored by"),
        ("tl-rotary", {"rotary_base": 100.5}, "rotary_base = 100.5 is cut to a whole number"),
        ("tl-rotary", {"rotary_adjacent_pairs": False}, "pairs are always adjacent"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused_by_name(
    name: str, fields: dict[str, object], text: str
) -> None:
    with pytest.raises(CheckpointError, match=text) as caught:
        read_config(changed(name, **fields))
    assert str(caught.value).startswith("run/step5: ")


def test_keys_that_the_sources_class_does_not_know_change_nothing() -> None:
    tokens = zoo.tokens_of(zoo.case_named("gpt2"), 2, seed=1)
    model = Model.from_source(changed("gpt2", my_lab_notes="v3"), torch.float64)
    assert torch.equal(
        logits_of(model, tokens), logits_of(model_of(zoo.case_named("gpt2")), tokens)
    )


def test_nan_weights_are_refused() -> None:
    source = zoo.case_named("gpt2").source(0)
    name = "transformer.h.0.ln_1.weight"
    source.tensors[name] = source.tensors[name].clone()
    source.tensors[name][1] = torch.nan
    with pytest.raises(CheckpointError, match=f"tensor '{name}' holds 1 values that are NaN"):
        Model.from_source(source)


def test_a_misshapen_tensor_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"has shape .* config.json asks for"):
        Model.from_source(changed("llama", intermediate_size=99))


def test_a_tensor_of_no_known_use_is_refused_unless_it_is_zero() -> None:
    source = zoo.case_named("tl-attn-only").source(0)
    extra = {**source.tensors, "blocks.0.mlp.W_in": torch.zeros(2, 2)}
    Model.from_source(Source(source.format, source.config, extra, "here"))
    extra["blocks.0.mlp.W_in"] = torch.ones(2, 2)
    with pytest.raises(CheckpointError, match=r"'blocks.0.mlp.W_in' is not part of the model"):
        Model.from_source(Source(source.format, source.config, extra, "here"))


def test_tokens_that_do_not_fit_are_refused() -> None:
    model = model_of(zoo.CASES[0])
    with pytest.raises(CheckpointError, match="sequences of 13 tokens are longer than .* of 12"):
        model.embed(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(CheckpointError, match="token id 999 is outside the model's vocabulary"):
        model.embed(torch.full((1, 2), 999))


def test_a_bridge_in_compatibility_mode_is_refused() -> None:
    case = zoo.case_named("tl-ln-gelu")
    bridge = case.bridge(0)
    bridge.enable_compatibility_mode()
    with pytest.raises(CheckpointError, match="compatibility mode folds"):
        Model.from_bridge(bridge)


# ── the checks of every load ──────────────────────────────────────────────────────────────────


def test_the_check_against_the_bridge_passes_and_can_fail() -> None:
    case = zoo.case_named("neox")
    source, tokens = case.source(0), zoo.tokens_of(case, 2, seed=1)
    assert check_against_bridge(source, tokens, tokens) < 1e-6
    model = model_of(case)
    model.weights.layers[1].out_bias = model.weights.layers[1].out_bias * 1.01
    with pytest.raises(DisagreementError, match=r"our loss is \d+\.\d+ and that of transformer"):
        compare(model, boot(source, torch.float64), tokens, tokens, "here")


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_identity_1_holds_and_can_fail_in_all_numbers(
    name: str, rounding: Rounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = zoo.case_named(name)
    model = Model.from_source(case.source(0), torch.float32, rounding=rounding)
    tokens = zoo.tokens_of(case, 2, seed=1)
    check_identity(model, tokens)
    whole = dict(model.contributions(tokens))
    for changed in whole:
        # Of a head, the whole or a twentieth; of what the pass does not round, as little.
        for factor in (0.0, 0.95, -1.0):
            wrong = {n: w * factor if n == changed else w for n, w in whole.items()}
            with monkeypatch.context() as patch:
                patch.setattr(model, "contributions", lambda _, w=wrong: iter(w.items()))
                with pytest.raises(DisagreementError, match="identity 1 fails"):
                    check_identity(model, tokens)


@pytest.mark.parametrize("rounding", Rounding)
def test_the_function_is_compared_whatever_is_rounded(rounding: Rounding) -> None:
    case = zoo.case_named("gpt2")
    model = Model.from_source(case.source(0), torch.float32, rounding=rounding)
    tokens, bridge = zoo.tokens_of(case, 2, seed=1), case.bridge(0)
    assert compare(model, bridge, tokens, tokens, "here") < 1e-5
    model.weights.layers[0].out.mul_(1.01)
    with pytest.raises(DisagreementError, match="our loss is"):
        compare(model, bridge, tokens, tokens, "here")


def test_a_head_bias_of_the_unembedding_is_part_of_the_function() -> None:
    source = zoo.case_named("tl-ln-gelu").source(0)
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(source.config["d_vocab"], generator=generator, dtype=torch.float64)
    source = Source(
        Format.TRANSFORMER_LENS, source.config, {**source.tensors, "unembed.b_U": bias}, "here"
    )
    tokens = zoo.tokens_of(zoo.case_named("tl-ln-gelu"), 2, seed=1)
    assert check_against_bridge(source, tokens, tokens) < 1e-9

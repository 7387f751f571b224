"""The oracles agree with each other, with the bridge and with Hugging Face, and nothing is zero."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hooks import (
    baseline_replacements,
    components_of,
    hook_logits,
    hook_losses,
    losses_of,
    reference_activations,
)
from plain import plain_logits, plain_trace
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from zoo import BRIDGE_WRONG, CASES, Case, case_named, shared_bridge, targets_of, tokens_of

from circuit_econ.model.source import Format

HUGGING_FACE = [c for c in (*CASES, *BRIDGE_WRONG) if c.format is Format.HUGGING_FACE]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_hf_case = pytest.mark.parametrize("case", HUGGING_FACE, ids=lambda case: case.name)


def _plain(case: Case, tokens: Tensor, replacements: dict[str, Tensor] | None = None) -> Tensor:
    return plain_logits(case.format, case.config(), case.tensors(0), tokens, replacements)


def _error(seen: Tensor, expected: Tensor) -> float:
    """Largest difference in units of the largest expected entry."""
    assert seen.shape == expected.shape
    return ((seen - expected).abs().max() / expected.abs().max()).item()


def _tolerance(case: Case) -> float:
    return 1e-9 if case.exact else 1e-5


# --- forward passes ------------------------------------------------------------------------------


@each_case
def test_plain_logits_are_the_bridges(case: Case) -> None:
    tokens = tokens_of(case, 3, seed=1)
    logits = _plain(case, tokens)
    with torch.no_grad():
        error = _error(shared_bridge(case)(tokens), logits)
    assert logits.std() > 0.5
    assert error < _tolerance(case)
    assert case.exact == (error < 1e-9), f"not as exact as the case says: {error:.1e}"


@each_hf_case
def test_plain_logits_are_hugging_faces(case: Case) -> None:
    tokens = tokens_of(case, 3, seed=1)
    # Hugging Face upcasts its scores only in 32 bits or less; in float64 it must not be asked to.
    plainly: dict[str, Any] = {}
    if case.config()["model_type"] == "gpt2":
        plainly = {"reorder_and_upcast_attn": False}
    with torch.no_grad():
        logits = case.hf_model(0, **plainly)(tokens).logits
    assert _error(logits, _plain(case, tokens)) < 1e-6


@pytest.mark.parametrize("case", BRIDGE_WRONG, ids=lambda case: case.name)
def test_the_bridge_is_wrong_where_we_say_so(case: Case) -> None:
    tokens = tokens_of(case, 3, seed=1)
    with torch.no_grad():
        assert _error(case.bridge(0)(tokens), _plain(case, tokens)) > 0.1


@each_case
def test_trace_is_what_the_bridge_shows(case: Case) -> None:
    tokens, bridge = tokens_of(case, 3, seed=1), shared_bridge(case)
    trace = plain_trace(case.format, case.config(), case.tensors(0), tokens)
    activations = reference_activations(bridge, tokens)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens)
    for component, seen in activations.items():
        assert _error(seen, _computed(trace, component)) < _tolerance(case), component
    for layer in range(bridge.cfg.n_layers):
        for hook, key in (("attn.hook_pattern", "pattern"), ("hook_resid_pre", "stream")):
            seen = cache[f"blocks.{layer}.{hook}"]
            assert _error(seen, trace[f"{key}.{layer}"]) < _tolerance(case), hook
        # Identity 1: the stream is the sum of what was written, biases included.
        written = trace[f"heads.{layer}"].sum(2) + trace[f"b_O.{layer}"]
        written = written + trace.get(f"mlp.{layer}", torch.zeros(()))
        assert _error(trace[f"stream.{layer}"] + written, trace[f"stream.{layer + 1}"]) < 1e-12


def _computed(trace: dict[str, Tensor], component: str) -> Tensor:
    """What the bridge's hook of the component carries."""
    if component in ("embed", "pos"):
        return trace[component]
    if component.startswith("m"):
        return trace[f"mlp.{component[1:]}"]
    layer, head = component[1:].split(".h")
    return trace[f"z.{layer}"][:, :, int(head)]


def _contributed(trace: dict[str, Tensor], component: str) -> Tensor:
    """What the component adds to the stream."""
    if not component.startswith("a"):
        return _computed(trace, component)
    layer, head = component[1:].split(".h")
    return trace[f"heads.{layer}"][:, :, int(head)]


# --- nothing is near zero ------------------------------------------------------------------------


@each_case
def test_every_component_matters(case: Case) -> None:
    tokens, bridge = tokens_of(case, 4, seed=1), shared_bridge(case)
    targets = targets_of(case, tokens, seed=2)
    scored = (targets != -100).sum()
    full = hook_losses(bridge, tokens, targets, {})
    for component, activation in reference_activations(bridge, tokens).items():
        zero = {component: torch.zeros_like(activation)}
        change = hook_losses(bridge, tokens, targets, zero) - full
        assert change.abs().min() > 1e-4, component
        assert (change.sum() / scored).abs() > 1e-4, component


@each_case
def test_attention_is_neither_uniform_nor_all_on_one_key(case: Case) -> None:
    tokens = tokens_of(case, 4, seed=1)
    trace = plain_trace(case.format, case.config(), case.tensors(0), tokens)
    for layer in range(sum(name.startswith("pattern") for name in trace)):
        last = trace[f"pattern.{layer}"][:, :, -1]
        visible = (last > 0).sum(-1)
        entropy = -torch.special.xlogy(last, last).sum(-1)
        assert (entropy.mean(0) < 0.98 * visible.log().mean(0)).all()
        assert (entropy.mean(0) > 0.1).all()


@each_case
def test_every_tensor_matters(case: Case) -> None:
    tokens = tokens_of(case, 3, seed=1)
    tensors, logits = case.tensors(0), _plain(case, tokens)
    for name, tensor in tensors.items():
        if (
            name.endswith((".masked_bias", "inv_freq", "IGNORE", "b_U"))
            or not tensor.is_floating_point()
        ):
            continue  # what published files hold besides the parameters
        gain = tensor.ndim == 1 and tensor.min() >= 0.5
        without = torch.ones_like(tensor) if gain else torch.zeros_like(tensor)
        changed = plain_logits(case.format, case.config(), tensors | {name: without}, tokens)
        error = _error(changed, logits)
        if name.endswith("b_K") and case.name != "tl-rotary":
            assert error < 1e-12  # without rotation a query gives all keys the same for it
        else:
            assert error > 1e-3, name


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"activation_function": "gelu"}),
    ("gpt2", {"layer_norm_epsilon": 1e-5}),
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt2-inverse", {"scale_attn_by_inverse_layer_idx": False}),
    ("neox-published", {"rotary_emb_base": 10000}),
    ("neox-published", {"rotary_pct": 0.5}),
    ("neox-published", {"use_parallel_residual": False}),
    ("llama", {"rms_norm_eps": 1e-6}),
    ("llama", {"rope_theta": 10000.0}),
    ("llama-llama3-tied", {"rope_scaling": None}),
    ("llama-linear", {"rope_scaling": None}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 6}),
    ("olmo-clip", {"clip_qkv": None}),
    ("qwen2", {"use_sliding_window": True}),
    ("qwen2-window", {"max_window_layers": 0}),
    ("qwen3-biased-window", {"layer_types": ["full_attention", "full_attention"]}),
    ("tl-ln-gelu", {"act_fn": "gelu_new"}),
    ("tl-ln-gelu", {"eps": 1e-5}),
    ("tl-ln-gelu", {"attn_scale": 2.0}),
    ("tl-lnpre", {"normalization_type": "RMSPre"}),
    ("tl-lnpre", {"normalization_type": None}),
    ("tl-final-rms", {"final_rms": False}),
    ("tl-rotary", {"rotary_dim": 6}),
    ("tl-rotary", {"rotary_base": 10000}),
    ("tl-bidirectional", {"attention_dir": "causal"}),
    ("tl-attn-scale", {"attn_scale": -1.0}),
]


@pytest.mark.parametrize(("name", "changed"), SETTINGS, ids=str)
def test_every_setting_matters(name: str, changed: dict[str, Any]) -> None:
    case = case_named(name)
    tokens = tokens_of(case, 3, seed=1)
    other = plain_logits(case.format, case.config() | changed, case.tensors(0), tokens)
    # Ten times what a bridge in float32 may be off: ignoring the setting would be seen there too.
    assert _error(other, _plain(case, tokens)) > 1e-4


# --- ablations -----------------------------------------------------------------------------------


def _replacement(trace: dict[str, Tensor], component: str, baseline: str, donors: Tensor) -> Tensor:
    """A baseline in contribution space, from the plain trace of the reference sequences."""
    reference = _contributed(trace, component)
    if baseline == "resample":
        return reference[donors]
    mean = reference.mean(0)
    if baseline == "mean":
        mean = torch.cat([mean[:1], mean[1:].mean(0, keepdim=True).expand_as(mean[1:])])
    if baseline == "zero":
        mean = torch.zeros_like(mean)
    return mean.expand(len(donors), -1, -1)


@each_case
def test_ablations_by_hook_are_the_plain_ones(case: Case) -> None:
    bridge, donors = shared_bridge(case), torch.tensor([2, 0, 2])
    tokens, reference = tokens_of(case, 3, seed=1), tokens_of(case, 4, seed=3)
    trace = plain_trace(case.format, case.config(), case.tensors(0), reference)
    logits = _plain(case, tokens)
    pairs = [(name, "resample") for name in components_of(bridge) if name != "pos"]
    pairs += [("a0.h1", other) for other in ("mean", "mean-position", "zero")]
    pairs += [("embed", "mean"), ("embed", "mean-position")]
    if "pos" in trace:
        pairs += [("pos", "mean"), ("pos", "zero")]  # the rest would put there what was there
    for component, baseline in pairs:
        replacement = _replacement(trace, component, baseline, donors)
        expected = _plain(case, tokens, {component: replacement})
        assert _error(expected, logits) > 1e-3, (component, baseline)
        given = [baseline_replacements(bridge, tokens, reference, component, baseline, donors)]
        if component.endswith("h0"):  # heads can be replaced in both spaces
            given.append(replacement)
        for tensor in given:
            seen = hook_logits(bridge, tokens, {component: tensor})
            assert _error(seen, expected) < _tolerance(case), (component, baseline)


@each_case
def test_joint_ablations_by_hook_are_the_plain_ones(case: Case) -> None:
    bridge, donors = shared_bridge(case), torch.tensor([2, 0, 2])
    tokens, reference = tokens_of(case, 3, seed=1), tokens_of(case, 4, seed=3)
    trace = plain_trace(case.format, case.config(), case.tensors(0), reference)
    last = "a1.h0" if bridge.cfg.attn_only else "m1"
    joint = ["embed", "a0.h0", "a0.h1", last]
    replacements = {name: _replacement(trace, name, "resample", donors) for name in joint}
    expected = _plain(case, tokens, replacements)
    seen = hook_logits(bridge, tokens, replacements)
    assert _error(seen, expected) < _tolerance(case)
    # One head of the two in z-space: both ways of replacing work together.
    z = baseline_replacements(bridge, tokens, reference, "a0.h0", "resample", donors)
    mixed = hook_logits(bridge, tokens, replacements | {"a0.h0": z})
    assert _error(mixed, expected) < _tolerance(case)


def test_losses_are_cross_entropies_of_scored_positions() -> None:
    case = case_named("tl-output")
    tokens = tokens_of(case, 3, seed=1)
    targets, logits = targets_of(case, tokens, seed=2), _plain(case, tokens)
    assert (targets == -100).any()
    expected = [
        torch.nn.functional.cross_entropy(row, goal, ignore_index=-100, reduction="sum")
        for row, goal in zip(logits, targets, strict=True)
    ]
    torch.testing.assert_close(losses_of(logits, targets), torch.stack(expected))
    seen = hook_losses(shared_bridge(case), tokens, targets, {})
    torch.testing.assert_close(seen, torch.stack(expected))


def test_a_mean_keeps_position_0_apart() -> None:
    case = case_named("tl-rms")
    bridge, tokens = shared_bridge(case), tokens_of(case, 2, seed=1)
    reference = tokens_of(case, 3, seed=3)
    embedded = reference_activations(bridge, reference)["embed"]
    mean = baseline_replacements(bridge, tokens, reference, "embed", "mean")
    torch.testing.assert_close(mean[1, 0], embedded[:, 0].mean(0))
    torch.testing.assert_close(mean[1, 5], embedded[:, 1:].flatten(0, 1).mean(0))
    torch.testing.assert_close(mean[0], mean[1])


def test_a_component_that_does_not_exist_is_refused() -> None:
    case = case_named("tl-attn-only")
    tokens = tokens_of(case, 2, seed=1)
    nothing = torch.zeros(2, tokens.shape[1], 18)
    with pytest.raises(AssertionError, match=r"no such component: \['m0'\]"):
        hook_logits(shared_bridge(case), tokens, {"m0": nothing})
    with pytest.raises(AssertionError, match=r"nothing is called \['m0'\]"):
        _plain(case, tokens, {"m0": nothing})


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("embed", "stream before layer 0"),
        ("blocks.0.mlp", "stream after layer 0"),
        ("blocks.1.attn.o", "stream after layer 1"),
        ("blocks.1", "stream at ln_final.hook_in"),
    ],
)
def test_a_replacement_that_does_not_last_is_caught(place: str, complaint: str) -> None:
    case = case_named("gpt2")
    tokens, bridge = tokens_of(case, 2, seed=1), case.bridge(0)
    others = reference_activations(bridge, tokens_of(case, 2, seed=4))
    replacements = {name: others[name] for name in ("embed", "m0", "a1.h1")}
    hook_logits(bridge, tokens, replacements)
    # What a bridge does that fires a hook and then goes on with something else.
    bridge.get_submodule(place).register_forward_hook(_add_one)
    with pytest.raises(AssertionError, match=complaint):
        hook_logits(bridge, tokens, replacements)


def _add_one(module: Any, inputs: Any, output: Any) -> Any:
    return output + 1


def test_a_hook_that_never_fires_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_named("tl-rms")
    tokens, bridge, mute = tokens_of(case, 2, seed=1), case.bridge(0), "blocks.0.hook_mlp_out"
    run = bridge.run_with_hooks

    def run_without_one(tokens: Tensor, fwd_hooks: list[Any]) -> Tensor:
        return run(tokens, fwd_hooks=[hook for hook in fwd_hooks if hook[0] != mute])

    monkeypatch.setattr(type(bridge), "run_with_hooks", staticmethod(run_without_one))
    with pytest.raises(AssertionError, match=f"{mute} fired 0 times"):
        hook_logits(bridge, tokens, {})


@each_case
def test_saved_folders_open(case: Case, tmp_path: Any) -> None:
    tokens = tokens_of(case, 2, seed=1)
    file = case.save(tmp_path, step=7, seed=0)
    config = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
    saved = load_file(file)
    assert config == case.config()
    assert all(t.dtype == torch.float32 for t in saved.values() if t.is_floating_point())
    expected = plain_logits(case.format, config, saved, tokens)
    assert _error(expected, _plain(case, tokens)) < 1e-5
    if case.format is Format.HUGGING_FACE:
        assert file == tmp_path / "step7" / "model.safetensors"
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, attn_implementation="eager", local_files_only=True
        )
        with torch.no_grad():
            assert _error(model.eval()(tokens).logits.double(), expected) < 1e-4
    else:
        assert file == tmp_path / "step_7.safetensors"


def test_a_source_holds_the_files_names_in_the_asked_dtype() -> None:
    source = case_named("gpt2-published").source(3, dtype=torch.bfloat16)
    assert source.format is Format.HUGGING_FACE
    assert source.origin == "gpt2-published (seed 3)"
    assert source.tensors["wte.weight"].dtype == torch.bfloat16
    assert source.tensors["h.1.attn.bias"].dtype == torch.uint8

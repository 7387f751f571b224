"""Names under wrappers, and numbers that are no real ones: read, or refused by name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from zoo import case_named, targets_of, tokens_of

import circuit_econ as ce
from circuit_econ.errors import CheckpointError
from circuit_econ.model import Source, inventory, read_config
from circuit_econ.model.weights import as_saved, read_weights
from circuit_econ.trajectory import audit, open_trajectory


def read(source: Source, lines: list[str] | None = None) -> dict[str, Tensor]:
    """The canonical weights of a source as a folder would give it."""
    saved = as_saved(source, [].append if lines is None else lines.append)
    return dict(read_weights(saved, read_config(saved)).named())


def renamed(source: Source, name: str) -> Source:
    """The same source with ``{}`` in ``name`` standing for each tensor's own."""
    tensors = {name.format(own): tensor for own, tensor in source.tensors.items()}
    return Source(source.format, source.config, tensors, source.origin)


ARCHITECTURES = ("gpt2", "gpt2-untied", "gpt2-published", "neox", "llama", "tl-ln-gelu")
PREFIXES = (
    "_orig_mod.", "module.", "model.", "_fsdp_wrapped_module.", "module._orig_mod.",
    "_orig_mod.module.", "model._orig_mod.module.", "student.net.", "model.model.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_prefix_on_every_name_is_no_difference(name: str, prefix: str) -> None:
    source = case_named(name).source(0)
    plain, lines = read(source), []
    wrapped = read(renamed(source, prefix + "{}"), lines)
    assert wrapped.keys() == plain.keys()
    assert all(torch.equal(wrapped[key], plain[key]) for key in plain)
    assert len(lines) == 1
    assert lines[0].startswith("names of tensors are read without the prefix ")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_without_a_wrapper_stay_as_they_are(name: str) -> None:
    """Llama's own ``model.`` above all."""
    source, lines = case_named(name).source(0), []
    assert as_saved(source, lines.append) is source
    assert lines == []


def test_wrappers_within_names_go_too() -> None:
    source = case_named("gpt2").source(0)
    inside = {
        "_fsdp_wrapped_module."
        + name.replace(".h.", "._fsdp_wrapped_module.h.").replace(
            ".attn.", "._checkpoint_wrapped_module.attn."
        ): tensor
        for name, tensor in source.tensors.items()
    }
    found = read(Source(source.format, source.config, inside, "here"))
    assert all(torch.equal(found[key], tensor) for key, tensor in read(source).items())


def test_what_lies_beside_the_model_keeps_its_name() -> None:
    """Lightning's module holds more than the model: losses, a teacher's head."""
    source = renamed(case_named("llama").source(0), "model.{}")
    source.tensors["criterion.weight"] = torch.ones(2)
    lines: list[str] = []
    saved = as_saved(source, lines.append)
    assert "criterion.weight" in saved.tensors
    assert inventory(saved).missing == frozenset()
    assert lines == ["names of tensors are read without the prefix model."]


def test_two_models_in_one_file_are_not_chosen_between() -> None:
    source = case_named("gpt2").source(0)
    both = renamed(source, "a.{}").tensors | renamed(source, "b.{}").tensors
    with pytest.raises(CheckpointError, match=r"beneath several prefixes \(a\., b\.\)"):
        as_saved(Source(source.format, source.config, both, "here"), [].append)


def test_a_missing_tensor_is_named_without_its_prefix() -> None:
    source = renamed(case_named("gpt2").source(0), "module.{}")
    del source.tensors["module.transformer.h.1.mlp.c_fc.weight"]
    with pytest.raises(CheckpointError, match=r"'transformer\.h\.1\.mlp\.c_fc\.weight' is missing"):
        read(source)


def test_adapters_that_are_not_merged() -> None:
    source = case_named("gpt2").source(0)
    source.tensors["transformer.h.0.attn.c_attn.lora_A.default.weight"] = torch.ones(2, 2)
    with pytest.raises(CheckpointError) as caught:
        as_saved(source, [].append)
    assert str(caught.value) == (
        f"{source.origin} holds adapters beside their base model "
        "(transformer.h.0.attn.c_attn.lora_A.default.weight); merge them (peft: "
        "merge_and_unload(), then save_pretrained())"
    )


# Numbers

NAME = "transformer.h.0.mlp.c_proj.weight"


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.bool, torch.uint8, torch.complex64, torch.float8_e5m2]
)
def test_weights_are_real_floating_point_numbers(dtype: torch.dtype) -> None:
    source = case_named("gpt2").source(0)
    source.tensors[NAME] = source.tensors[NAME].to(dtype)
    message = (
        f"{source.origin}: tensor '{NAME}' is {str(dtype).removeprefix('torch.')}, and weights are "
        "real floating-point numbers (float16, bfloat16, float32, float64); save the model in one "
        "of these"
    )
    for call in (read, inventory):
        with pytest.raises(CheckpointError) as caught:
            call(source)
        assert str(caught.value) == message


def test_shapes_are_compared_before_anything_is_touched() -> None:
    source = case_named("gpt2").source(0)
    source.tensors[NAME] = torch.empty(1, device="meta").expand(1 << 40)
    with pytest.raises(CheckpointError, match=r"has shape \(1099511627776,\); config\.json asks"):
        inventory(source)


def test_what_is_not_read_may_hold_anything() -> None:
    """Masks are boolean, positions whole, other people's buffers complex."""
    source = case_named("gpt2").source(0)
    plain = read(source)
    source.tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    source.tensors["position_ids"] = torch.arange(8)
    source.tensors["freqs_cis"] = torch.ones(8, dtype=torch.complex64)
    assert all(
        torch.equal(a, b) for a, b in zip(read(source).values(), plain.values(), strict=True)
    )
    assert "freqs_cis" not in inventory(source).read


def test_an_unused_tensor_of_any_dtype_that_is_not_zero_is_named() -> None:
    source = case_named("tl-ln-gelu").source(0)
    source.tensors["blocks.9.odd"] = torch.zeros(2).to(torch.float8_e4m3fn)
    read(source)
    source.tensors["blocks.9.odd"] = torch.ones(2).to(torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match=r"tensor 'blocks\.9\.odd' is not part of the model"):
        read(source)


def quantised(wanted: Tensor, scale: Tensor) -> Tensor:
    return (wanted / scale).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("suffix", ["_scale", "_scale_inv"])
@pytest.mark.parametrize("shape", ["()", "(1,)", "rows", "column"])
def test_float8_is_multiplied_by_its_scale(suffix: str, shape: str) -> None:
    source = case_named("gpt2").source(0, torch.float32)
    rows = len(source.tensors[NAME])
    # Powers of two, so that the product is exact.
    each = 2.0 ** (torch.arange(rows) % 5 - 2.0)
    scale = {
        "()": torch.tensor(0.25), "(1,)": torch.tensor([0.25]), "rows": each,
        "column": each[:, None],
    }[shape]  # fmt: skip
    codes = source.tensors[NAME].to(torch.float8_e4m3fn)
    source.tensors[NAME] = codes
    source.tensors[NAME + suffix] = scale
    lines: list[str] = []
    saved = as_saved(source, lines.append)
    by_row = scale.reshape(-1, 1) if scale.numel() > 1 else scale
    assert torch.equal(saved.tensors[NAME], codes.float() * by_row)
    assert NAME + suffix not in saved.tensors
    assert lines == ["float8 tensors are multiplied by their scales, in float32"]
    read_weights(saved, read_config(saved))


def test_float8_in_blocks() -> None:
    source = case_named("gpt2").source(0)
    codes = torch.randn(130, 257).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    source.tensors.update({"x.weight": codes, "x.weight_scale_inv": scale})
    found = as_saved(source, [].append).tensors["x.weight"]
    for row, column in ((0, 0), (127, 128), (128, 127), (129, 256)):
        factor = scale[row // 128, column // 128]
        assert found[row, column] == codes.float()[row, column] * factor
    source.tensors["x.weight_scale_inv"] = scale[:1]
    with pytest.raises(CheckpointError, match="which is no known way of scaling"):
        as_saved(source, [].append)


# Through the front door


def test_a_wrapped_run_and_one_in_whole_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The wrapped one has the plain one's loss, the prefix is said once, others go on."""
    case = case_named("gpt2")
    for step in (0, 1, 2):
        path = case.save(tmp_path / "run", step, seed=step)
        tensors = load_file(path)
        if step == 2:
            name = "transformer.h.0.mlp.c_proj.weight"
            tensors[name] = (tensors[name] * 100).to(torch.int8)
        prefix = "module._orig_mod." if step else ""
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    plain = case.save(tmp_path / "plain", 1, seed=1)
    tokens = tokens_of(case, 3, 0)
    evaluation = ce.Evaluation(tokens, targets_of(case, tokens, 0))
    with caplog.at_level(logging.INFO, logger="circuit_econ.trajectory"):
        trajectory = open_trajectory(tmp_path / "run")
        ledger = ce.walk(trajectory, evaluation, ["capacity"], out=tmp_path / "out", device="cpu")
    said = [line for line in caplog.messages if "prefix" in line]
    assert said == [
        f"{tmp_path / 'run'}: names of tensors are read without the prefix module._orig_mod."
    ]
    rows = ledger.table("checkpoints").select("step", "status", "loss", "reason").collect().rows()
    assert [row[1] for row in rows] == ["measured", "measured", "failed"]
    assert "c_proj.weight' is int8" in rows[2][3]
    alone = ce.walk(
        open_trajectory(plain.parent), evaluation, ["capacity"], out=tmp_path / "o", device="cpu"
    )
    assert alone.table("checkpoints").collect()["loss"].to_list() == [rows[1][2]]
    found = audit(open_trajectory(tmp_path / "run"), inventory)
    assert found.select("step", "finding").rows() == [(2, "unreadable")]


def test_lightning_files_beside_a_hugging_face_configuration(tmp_path: Path) -> None:
    case = case_named("llama")
    (tmp_path / "config.json").write_text(json.dumps(case.config()))
    source = case.source(0, torch.float32)
    state = renamed(source, "model.{}").tensors
    optimiser = [{"state": {0: {"exp_avg": torch.ones(2, 2)}}, "param_groups": [{"lr": 0.1}]}]
    saved = {"epoch": 1, "state_dict": state, "optimizer_states": optimiser}
    torch.save(saved, tmp_path / "epoch=1-step=300.ckpt")
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (300,)
    assert trajectory.read(300).tensors.keys() == source.tensors.keys()
    assert audit(trajectory, inventory).height == 0


def test_numbers_beyond_those_of_the_walk_are_refused_there_alone(tmp_path: Path) -> None:
    case = case_named("tl-lnpre")
    for step in (1, 2, 3):
        file = case.save(tmp_path / "run", step, seed=step, dtype=torch.float64)
    name = "blocks.1.attn.W_K"
    tensors = load_file(file)
    tensors[name][0, 0, 0] = 1e300  # an infinity in float32, whose loss may well be finite
    save_file(tensors, file)
    data = ce.Evaluation(tokens_of(case, 3, seed=1))
    found = {
        dtype: ce.walk(open_trajectory(tmp_path / "run"), data, ["capacity"], ["zero"],
                       tmp_path / dtype, "cpu", dtype=dtype).table("checkpoints").collect()
        for dtype in ("float32", "float64")
    }  # fmt: skip
    assert found["float32"]["status"].to_list() == ["measured", "measured", "failed"]
    assert found["float32"]["reason"][2] == (
        f"{file}: tensor {name!r} holds values beyond float32, where they are infinite; walk with "
        "dtype=float64"
    )
    assert found["float64"]["status"].to_list() == ["measured"] * 3

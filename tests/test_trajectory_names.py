"""Steps told from names: the usual ones are understood, others are listed, nothing is silent."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from trajectory_folders import checkpoint

from circuit_econ.errors import ConfigurationError
from circuit_econ.model import Format
from circuit_econ.trajectory import open_trajectory


def folders(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        checkpoint(root / name, seed)
    return root


def files(root: Path, *names: str, config: dict[str, object] | None = None) -> Path:
    (root / "config.json").write_text(json.dumps(config or {"n_layers": 1}))
    for name in names:
        torch.save({"w": torch.ones(2)}, root / name)
    return root


def asked(root: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        open_trajectory(root)
    return str(caught.value)


USUAL = [
    (["checkpoint_epoch_1", "checkpoint_epoch_12"], (1, 12)),
    (["ckpt_100", "ckpt_2000"], (100, 2000)),
    (["ckpt-100-final"], (100,)),
    (["epoch=3-step=100", "epoch=4-step=200"], (100, 200)),
    (["epoch=3-step=100-val_loss=2.31", "epoch=3-step=150-val_loss=2.2"], (100, 150)),
    (["global_step1000", "global_step20"], (20, 1000)),
    (["globalstep_7"], (7,)),
    (["iter_0000100", "iter_0000200"], (100, 200)),
    (["step-000100", "step-000200"], (100, 200)),
    (["gpt2-v2-step_100"], (100,)),
    (["checkpoint-100", "step200", "ckpt_300"], (100, 200, 300)),
    (["step1000-tokens4B", "step2000-tokens8B"], (1000, 2000)),
    (["epoch_3_iter_50"], (50,)),
    (["model_2_at_100", "model_2_at_200"], (100, 200)),
    (["100", "200"], (100, 200)),
    (["Epoch 1", "Epoch 2"], (1, 2)),
]


@pytest.mark.parametrize(("names", "steps"), USUAL, ids=lambda value: str(value))
def test_usual_names_are_understood(
    tmp_path: Path, names: list[str], steps: tuple[int, ...]
) -> None:
    (tmp_path / "folders").mkdir()
    assert open_trajectory(folders(tmp_path / "folders", *names)).steps == steps
    for suffix in (".pt", ".ckpt"):
        root = tmp_path / suffix
        root.mkdir()
        assert open_trajectory(files(root, *(name + suffix for name in names))).steps == steps


UNCLEAR = [
    ["epoch_1_loss_2", "epoch_2_loss_1"],
    ["step_1_iter_2"],
    ["seed0", "seed1"],
    ["gpt2"],
    ["a_1", "b_2"],
]


@pytest.mark.parametrize("names", UNCLEAR, ids=str)
def test_names_that_leave_the_step_open_are_listed(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "f").mkdir()
    assert asked(folders(tmp_path, *names)) == (
        f"{tmp_path}: the steps of {', '.join(names)} cannot be told (which number is the step?); "
        "name them checkpoint-<step>, or move what is no checkpoint elsewhere"
    )
    root = files(tmp_path / "f", *(f"{name}.pth" for name in names))
    listed = ", ".join(f"{name}.pth" for name in names)
    assert f"the steps of {listed} cannot be told (which number is the step?); name them " in (
        asked(root)
    )
    assert "name them step_<step>.pth, or" in asked(root)


def test_epochs_and_steps_do_not_mix(tmp_path: Path) -> None:
    assert asked(files(tmp_path, "epoch_1.pt", "step_500.pt")) == (
        f"{tmp_path}: the steps of epoch_1.pt, step_500.pt cannot be told (some count epochs, "
        "others steps); name them step_<step>.pt, or move what is no checkpoint elsewhere"
    )


def test_what_lies_beside_checkpoints_is_no_step_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(folders(tmp_path, "checkpoint-10", "checkpoint-20", "best"))
    for name in ("runs", "tokenizer_v2", ".cache_3"):
        (tmp_path / name).mkdir()
    for name in ("optimizer_5.pt", "last.ckpt", "rng_state_0.pth", "notes.md", "logo.png"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO):
        assert open_trajectory(tmp_path).steps == (10, 20)
    assert caplog.messages == [
        f"{tmp_path}: left out as no checkpoint of the run: best/, runs/, tokenizer_v2/, "
        "last.ckpt, logo.png, model.safetensors and 2 more (8)"
    ]


def test_usual_files_beside_checkpoints_are_not_worth_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders(tmp_path, "checkpoint-10")
    for name in ("config.json", "tokenizer.json", "README.md", "training_args.bin", ".lock"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO):
        open_trajectory(tmp_path)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "beside", ["rng_state_{}.pth", "model-0000{}-of-00002.safetensors", "optimizer_{}.pt", "x{}.pt"]
)
def test_parts_of_a_single_checkpoint_are_no_steps(tmp_path: Path, beside: str) -> None:
    checkpoint(tmp_path)
    for number in (1, 2):
        (tmp_path / beside.format(number)).touch()
    assert open_trajectory(tmp_path).steps == (0,)


@pytest.mark.parametrize(
    ("name", "step"), [("ckpt_12", 12), ("epoch=1-step=8", 8), ("gpt2", 0), ("v2", 0)]
)
def test_the_step_of_a_single_checkpoint(tmp_path: Path, name: str, step: int) -> None:
    assert open_trajectory(checkpoint(tmp_path / name)).steps == (step,)


def test_an_incomplete_checkpoint_among_others_fails_by_name(tmp_path: Path) -> None:
    folders(tmp_path, "global_step10")
    (tmp_path / "global_step20").mkdir()
    assert open_trajectory(tmp_path).steps == (10, 20)


def test_folders_of_results_are_no_checkpoints(tmp_path: Path) -> None:
    folders(tmp_path, "checkpoint-10")
    (tmp_path / "epoch_1").mkdir()
    assert open_trajectory(tmp_path).steps == (10,)


def test_a_number_that_no_table_holds_is_a_wrong_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = 2**63 - 1
    folders(tmp_path, f"checkpoint-{last}", f"checkpoint-{last + 1}", "checkpoint-" + "9" * 200)
    with caplog.at_level(logging.INFO):
        assert open_trajectory(tmp_path).steps == (last,)
    assert caplog.messages[0].endswith("(2)")
    for spelled in (str(last + 1), "9" * 5000, f"log:{'9' * 5000}"):
        with pytest.raises(ConfigurationError):
            open_trajectory(tmp_path, steps=spelled)


def test_a_counting_number_without_a_word_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert open_trajectory(files(tmp_path, "gpt_1.pt", "gpt_20.pt")).steps == (1, 20)
    assert caplog.messages == [
        f"{tmp_path}: the number that counts up in gpt_1.pt, gpt_20.pt is taken for the step"
    ]


def test_step_files_have_the_format_of_their_configuration(tmp_path: Path) -> None:
    hugging = files(tmp_path, "step_1.pt", config={"model_type": "gpt2", "n_layer": 1})
    assert open_trajectory(hugging).format(1) is Format.HUGGING_FACE
    lens = files(tmp_path, config={"model_type": "gpt2", "d_model": 4})
    assert open_trajectory(lens).format(1) is Format.TRANSFORMER_LENS

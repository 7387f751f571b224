"""Folders of checkpoints: every form opens as it is, and wrong folders are described."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from trajectory_folders import CONFIG, checkpoint, neox, run, tensors

from circuit_econ.errors import CheckpointError, ConfigurationError
from circuit_econ.model import Format
from circuit_econ.trajectory import open_trajectory

FORMS = (
    "a trajectory is (1) folders checkpoint-<step>/ or step<step>/, each with config.json and "
    "model.safetensors or pytorch_model.bin, (2) config.json beside step_<step>.safetensors, .pt, "
    ".pth or .ckpt files, or (3) one checkpoint: config.json and its weights"
)


def said(source: str | Path, **arguments: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        open_trajectory(source, **arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


def lens_run(folder: Path, suffix: str = ".safetensors", config: object = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {"n_layers": 1}))
    for step in (0, 5, 10):
        weights = {"blocks.0.attn.W_Q": torch.full((2, 2), float(step))}
        if suffix == ".safetensors":
            save_file(weights, folder / f"step_{step:04d}{suffix}")
        else:
            torch.save({"model": weights, "step": step}, folder / f"step_{step}{suffix}")
    return folder


# Form 1


@pytest.mark.parametrize("name", ["checkpoint-{}", "step{}", "step{:06d}", "step_{}", "step-{}"])
def test_checkpoint_folders_open(tmp_path: Path, name: str) -> None:
    for step in (100, 20, 3):
        checkpoint(tmp_path / "my run" / name.format(step), seed=step)
    (tmp_path / "my run" / "logs").mkdir()
    (tmp_path / "my run" / "step_7.txt").touch()
    trajectory = open_trajectory(tmp_path / "my run")
    assert trajectory.steps == (3, 20, 100)
    assert trajectory.name == "my run"
    assert trajectory.format(3) is Format.HUGGING_FACE
    source = trajectory.read(20)
    assert source.config == CONFIG == trajectory.config(20)
    assert torch.equal(source.tensors["w"], tensors(20)["w"])
    assert source.origin == str(tmp_path / "my run" / name.format(20))
    assert trajectory.checkpoint(20).origin == source.origin


def test_a_saved_model_opens_from_text(tmp_path: Path) -> None:
    neox().save_pretrained(tmp_path / "step10")
    source = open_trajectory(str(tmp_path)).read(10)
    assert source.config["model_type"] == "gpt_neox"
    assert "embed_out.weight" in source.tensors


def test_steps_are_chosen_on_opening(tmp_path: Path) -> None:
    run(tmp_path, (0, 1, 2, 10, 100))
    assert open_trajectory(tmp_path, steps=[1, 100]).steps == (1, 100)
    assert open_trajectory(tmp_path, steps="log:3").steps == (0, 10, 100)
    assert said(tmp_path, steps=[7]) == (
        f"{tmp_path} has no checkpoint at step 7; there is: 0, 1, 2, 10, 100"
    )


def test_a_final_model_beside_checkpoints_is_not_a_checkpoint(tmp_path: Path) -> None:
    """As the Hugging Face trainer leaves it; which step it has is not recorded there."""
    checkpoint(run(tmp_path))
    assert open_trajectory(tmp_path).steps == (0, 1, 2)


def test_tokens_seen_come_from_the_trainer_where_it_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, (1, 2, 3, 4))
    for step, text in [(1, '{"num_input_tokens_seen": 640}'), (2, '{"num_input_tokens_seen": 0}')]:
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text('{"num_input')
    with caplog.at_level(logging.WARNING):
        trajectory = open_trajectory(tmp_path)
    assert [c.tokens_seen for c in trajectory.checkpoints] == [640, None, None, None]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("tokens seen are unknown: ")
    assert "checkpoint-3" in caplog.messages[0]


def test_bytes_are_those_of_the_weights(tmp_path: Path) -> None:
    neox().save_pretrained(tmp_path / "step1", max_shard_size="3KB")
    run(tmp_path, (2, 3))
    (tmp_path / "checkpoint-3" / "model.safetensors").unlink()
    trajectory = open_trajectory(tmp_path)
    shards = list((tmp_path / "step1").glob("*.safetensors"))
    assert len(shards) > 1
    assert trajectory.bytes(1) == sum(path.stat().st_size for path in shards)
    weights = tmp_path / "checkpoint-2" / "model.safetensors"
    assert trajectory.bytes(2) == weights.stat().st_size > 0
    assert trajectory.bytes(3) is None


def test_one_damaged_checkpoint_leaves_the_others(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "checkpoint-0" / "config.json").unlink()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_bytes(b"")
    trajectory = open_trajectory(tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint-0.config\.json is missing; put the one"):
        trajectory.read(0)
    with pytest.raises(CheckpointError, match=r"checkpoint-0.config\.json is missing; put the one"):
        trajectory.config(0)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        trajectory.read(1)
    assert trajectory.config(1) == CONFIG
    assert trajectory.read(2).tensors


def test_folders_that_hold_an_adapter_alone(tmp_path: Path) -> None:
    for step in (10, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        save_file({"lora_A.weight": torch.zeros(2, 4)}, folder / "adapter_model.safetensors")
    trajectory = open_trajectory(tmp_path)
    remedy = (
        "merge it into its base model (peft: merge_and_unload(), then save_pretrained()) and open "
        "what that saves"
    )
    for call in (trajectory.config, trajectory.read):
        with pytest.raises(CheckpointError) as caught:
            call(10)
        assert str(caught.value) == (
            f"{tmp_path / 'checkpoint-10'} holds an adapter alone (adapter_config.json); {remedy}"
        )
    assert said(tmp_path / "checkpoint-20") == (
        f"{tmp_path / 'checkpoint-20'} holds an adapter alone (adapter_config.json); {remedy}"
    )


# A single checkpoint


@pytest.mark.parametrize(("name", "step"), [("checkpoint-500", 500), ("step7", 7), ("final2", 0)])
def test_a_single_checkpoint_is_a_run_of_one(tmp_path: Path, name: str, step: int) -> None:
    trajectory = open_trajectory(checkpoint(tmp_path / name))
    assert trajectory.steps == (step,)
    assert trajectory.name == name
    assert trajectory.read(step).tensors.keys() == {"w", "b"}


def test_a_single_checkpoint_without_configuration(tmp_path: Path) -> None:
    (checkpoint(tmp_path) / "config.json").unlink()
    trajectory = open_trajectory(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        trajectory.read(0)
    assert str(caught.value) == (
        f"{tmp_path / 'config.json'} is missing; put the one saved with the weights there"
    )


# Form 2


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_step_files_open(tmp_path: Path, suffix: str) -> None:
    trajectory = open_trajectory(lens_run(tmp_path, suffix))
    assert trajectory.steps == (0, 5, 10)
    assert trajectory.format(5) is Format.TRANSFORMER_LENS
    source = trajectory.read(5)
    assert source.format is Format.TRANSFORMER_LENS
    assert source.config == {"n_layers": 1} == trajectory.config(5)
    assert torch.equal(source.tensors["blocks.0.attn.W_Q"], torch.full((2, 2), 5.0))
    assert trajectory.bytes(5) == Path(source.origin).stat().st_size
    Path(source.origin).unlink()
    assert trajectory.bytes(5) is None


def test_tokens_seen_come_from_the_training_settings(tmp_path: Path) -> None:
    lens_run(tmp_path)
    assert [c.tokens_seen for c in open_trajectory(tmp_path).checkpoints] == [None] * 3
    settings = tmp_path / "training.json"
    settings.write_text('{"lr": 0.001}')
    assert [c.tokens_seen for c in open_trajectory(tmp_path).checkpoints] == [None] * 3
    settings.write_text('{"tokens_per_step": 64}')
    assert [c.tokens_seen for c in open_trajectory(tmp_path).checkpoints] == [0, 320, 640]
    for wrong in ("0", "1.5", "true", '"64"'):
        settings.write_text(f'{{"tokens_per_step": {wrong}}}')
        assert said(tmp_path).startswith(
            f"{settings}: tokens_per_step must be a whole number above 0, not "
        )
    settings.write_text("{")
    assert said(tmp_path).startswith(f"{settings} is not JSON (")


def test_step_files_need_one_configuration(tmp_path: Path) -> None:
    config = lens_run(tmp_path) / "config.json"
    config.write_text("{")
    assert said(tmp_path).startswith(f"{config} is not JSON (")
    config.unlink()
    assert said(tmp_path) == f"{config} is missing; put the one saved with the weights there"


# Wrong folders


def test_no_such_folder(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    message = f"no such folder: {missing} (on the hub a name is owner/name); {FORMS}"
    assert said(missing) == message
    assert said(str(missing)) == message
    assert said("nowhere") == f"no such folder: nowhere (on the hub a name is owner/name); {FORMS}"


def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_name() -> None:
    assert said(Path("runs/nowhere")).startswith("no such folder: runs")


def test_a_file(tmp_path: Path) -> None:
    path = checkpoint(tmp_path) / "model.safetensors"
    assert said(path) == f"{path} is a file, not a folder; {FORMS}"


def test_an_empty_folder(tmp_path: Path) -> None:
    assert said(tmp_path) == f"{tmp_path} is empty; {FORMS}"


def test_a_folder_without_checkpoints_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "config.json").touch()
    assert said(tmp_path) == f"{tmp_path} holds logs/, config.json but no checkpoint; {FORMS}"
    for letter in "abcdefgh":
        (tmp_path / f"{letter}.txt").touch()
    assert said(tmp_path) == (
        f"{tmp_path} holds logs/, a.txt, b.txt, c.txt, config.json, d.txt and 4 more "
        f"but no checkpoint; {FORMS}"
    )


def test_two_checkpoints_of_one_step(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-10")
    checkpoint(tmp_path / "step0010")
    assert said(tmp_path) == (
        f"{tmp_path}: checkpoint-10 and step0010 are both step 10; move one of them elsewhere"
    )
    files = lens_run(tmp_path / "files")
    shutil.copy(files / "step_0005.safetensors", files / "step_5.pt")
    assert said(files) == (
        f"{files}: step_0005.safetensors and step_5.pt are both step 5; move one of them elsewhere"
    )


def test_two_forms_in_one_folder(tmp_path: Path) -> None:
    run(lens_run(tmp_path))
    assert said(tmp_path) == (
        f"{tmp_path} holds both checkpoint folders (checkpoint-0, checkpoint-1) and step files "
        "(step_0000.safetensors, step_0005.safetensors); move one kind elsewhere or name one "
        "checkpoint folder"
    )


def test_a_folder_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the user of a test run may be allowed everything."""

    def forbidden(_: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert said(tmp_path) == (
        f"{tmp_path} cannot be opened (Permission denied); check its permissions"
    )


def test_revisions_are_for_the_hub(tmp_path: Path) -> None:
    assert said(run(tmp_path), revisions={1: "main"}) == (
        f"revisions belong to a hub name (owner/name), and {tmp_path} is a folder's; "
        "leave them out or give the hub name"
    )

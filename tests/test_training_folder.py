"""The folder of a run: cached, whose it is, left alone where it is something else."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, files_of, interrupt, small_config, small_data

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation, training_data
from circuit_econ.training import train


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    train(SMALL, small_data(), tmp_path)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}

    def progress(_step: int, _total: int, _loss: float) -> None:
        raise AssertionError("trained again")

    # What is evaluated is no matter, nor whether a default is spelled out.
    same = small_config(d_head=8, d_mlp=64, n_ctx=16, checkpoint_steps=[12, 0, 1, 2, 5, 5])
    data = small_data(sequences=3, seed=9)
    assert train(same, data, tmp_path, progress=progress) == tmp_path
    assert {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == before
    (tmp_path / "step_2.safetensors").unlink()
    with pytest.raises(AssertionError, match="trained again"):
        train(SMALL, small_data(), tmp_path, progress=progress)


def test_two_at_once_train_once(tmp_path: Path) -> None:
    steps: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: train(
                SMALL, small_data(), tmp_path, progress=lambda step, *_: steps.append(step)
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps == list(range(1, 13))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"learning_rate": 1e-3}, "learning_rate is 0.002 there and 0.001 here"),
        ({"seed": 3}, "seed is 0 there and 3 here"),
        ({"d_mlp": 32}, "d_mlp is 64 there and 32 here"),
        ({"n_ctx": 20}, "n_ctx is 16 there and 20 here"),
        (
            {"attn_only": True},
            "attn_only is False there and True here; d_mlp is 64 there and nothing here;"
            " act_fn is gelu there and nothing here",
        ),
        (
            {"checkpoint_steps": [12]},
            "saved_steps is [0, 1, 2, 5, 12] there and [12] here",
        ),
    ],
)
def test_another_run_in_the_folder_is_named(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    data = small_data()
    train(SMALL, data, tmp_path)
    before = files_of(tmp_path)
    config = small_config(**changes)
    with pytest.raises(ConfigurationError) as error:
        train(config, data, tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds another run: {difference}; choose another folder, or delete this one"
    )
    assert files_of(tmp_path) == before
    assert config.digest(data) != SMALL.digest(data)


def test_other_data_in_the_folder_are_named(tmp_path: Path) -> None:
    train(SMALL, small_data(), tmp_path)
    with pytest.raises(ConfigurationError) as error:
        train(SMALL, training_data("embedded", {"length": 16}, 4, 5), tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds another run: data.stream_seed is 0 there and 5 here; choose another"
        " folder, or delete this one"
    )
    one, other = Evaluation([[1, 2, 3]]), Evaluation([[1, 3, 2]])
    train(SMALL, one, tmp_path / "tokens")
    with pytest.raises(ConfigurationError) as error:
        train(SMALL, other, tmp_path / "tokens")
    assert str(error.value) == (
        f"{tmp_path / 'tokens'} holds another run: the data differ in content; choose another"
        " folder, or delete this one"
    )


def test_folders_that_are_no_runs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    cases = [
        (
            tmp_path,
            f"{tmp_path} holds 'thesis.tex' but no training.json, so no training run; choose an"
            " empty or a new folder",
        ),
        (tmp_path / "thesis.tex", f"{tmp_path / 'thesis.tex'} is a file; a run needs a folder"),
        (
            tmp_path / "thesis.tex" / "run",
            f"cannot write to {tmp_path / 'thesis.tex' / 'run'} (NotADirectoryError: [Errno 20] ",
        ),
    ]
    for folder, message in cases:
        with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
            train(SMALL, small_data(), folder)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.json").write_text("{")
    for content in ("{", "[]", "3", '{"digest": 1}', '{"digest": "x", "identity": 3}'):
        (tmp_path / "run" / "training.json").write_text(content)
        with pytest.raises(ConfigurationError, match=r"^.*training\.json is no record of a train"):
            train(SMALL, small_data(), tmp_path / "run")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _content: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigurationError) as error:
        train(SMALL, small_data(), tmp_path)
    assert str(error.value).startswith(
        f"cannot write {tmp_path / 'training.json'} (OSError: [Errno 28] No space left on device"
    )


def test_a_checkpoint_that_training_did_not_write_is_named(tmp_path: Path) -> None:
    train(SMALL, small_data(), tmp_path)
    file = tmp_path / "step_2.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ConfigurationError, match=r"step_2\.safetensors is not what training wrote"):
        train(SMALL, small_data(), tmp_path)
    file.write_bytes(whole)
    assert train(SMALL, small_data(), tmp_path) == tmp_path


def test_what_training_goes_on_from_is_named_where_it_is_damaged(tmp_path: Path) -> None:
    interrupt(tmp_path, 4)
    resume = tmp_path / "resume.pt"
    saved = torch.load(resume, weights_only=True)
    for wrong in ([], {"parameters": {}}, {**saved, "losses": 3}, {**saved, "optimiser": {}}):
        torch.save(wrong, resume)
        with pytest.raises(ConfigurationError, match=r"resume\.pt is damaged; delete it to train"):
            train(SMALL, small_data(), tmp_path)
    resume.unlink()
    os.mkfifo(resume)  # nobody waits for what it may say
    with pytest.raises(ConfigurationError, match=r"resume\.pt is damaged; .*not a regular file"):
        train(SMALL, small_data(), tmp_path)

"""Training: it learns, it resumes bit for bit, it is cached, and what it writes can be opened."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation, TrainingData, training_data
from circuit_econ.model import Format, Model, Source
from circuit_econ.training import (
    Activation,
    Normalization,
    Optimiser,
    Positions,
    Schedule,
    TrainingConfig,
    learning_rate,
    loop,
    train,
)
from circuit_econ.training.config import _member

SMALL = TrainingConfig(
    n_layers=1, n_heads=2, d_model=16, steps=12, batch=4, warmup=3, checkpoints=5
)


def _data(config: TrainingConfig = SMALL, **settings: Any) -> TrainingData:
    return training_data("embedded", {"length": 16, **settings}, config.batch, config.seed)


def _config(**changes: Any) -> TrainingConfig:
    return dataclasses.replace(SMALL, **changes)


def _files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if not f.name.startswith(".")}


def _source(folder: Path, step: int) -> Source:
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / f"step_{step}.safetensors")
    return Source(Format.TRANSFORMER_LENS, config, tensors, str(folder))


def _losses(folder: Path) -> list[float]:
    with (folder / "training_loss.csv").open() as rows:
        return [float(row["loss"]) for row in csv.DictReader(rows)]


# ── it learns ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("optimiser", Optimiser)
def test_loss_falls_on_text(tmp_path: Path, optimiser: Optimiser) -> None:
    rate = {Optimiser.adamw: 1e-2, Optimiser.sgd: 0.3}[optimiser]
    config = _config(steps=60, batch=16, optimiser=optimiser, learning_rate=rate, d_model=32)
    folder = train(config, _data(config, length=32), tmp_path / "run")
    losses = _losses(folder)
    assert len(losses) == 60
    assert abs(losses[0] - math.log(256)) < 0.5  # it begins by knowing nothing
    assert sum(losses[-10:]) / 10 < 3.6


def test_an_evaluation_set_can_be_learnt_by_heart(tmp_path: Path) -> None:
    evaluation = Evaluation.from_task("two-cues", sequences=16, reference_sequences=0)
    config = _config(steps=60, batch=16, learning_rate=1e-2, attn_only=True)
    folder = train(config, evaluation, tmp_path / "run")
    assert _losses(folder)[0] > 3.5 and _losses(folder)[-1] < 0.5


# ── what it writes ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attn_only": True, "normalization_type": None},
        {"normalization_type": Normalization.LNPre, "act_fn": Activation.relu, "d_mlp": 24},
        {
            "normalization_type": Normalization.RMS,
            "positional_embedding_type": Positions.rotary,
            "act_fn": Activation.silu,
            "n_ctx": 40,
        },
        {"normalization_type": Normalization.RMSPre, "d_head": 6, "act_fn": Activation.gelu_new},
    ],
)
def test_checkpoints_open_as_models_with_the_loss_of_training(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = _config(**changes)
    data = _data(config)
    folder = train(config, data, tmp_path / "run")
    assert sorted(_files(folder)) == sorted(
        ["config.json", "training.json", "training_loss.csv"]
        + [f"step_{s}.safetensors" for s in (0, 1, 2, 5, 12)]
    )
    losses = _losses(folder)
    seen = []
    for step in (0, 1, 2, 5):
        model = Model.from_source(_source(folder, step))
        assert model.loss(*data.batch(step)).item() == losses[step]
        seen.append(losses[step])
    assert len(set(seen)) == 4
    config_json = json.loads((folder / "config.json").read_text())
    rotary = config.positional_embedding_type is Positions.rotary
    assert config_json.get("rotary_adjacent_pairs", False) is rotary
    assert config_json["d_vocab"] == 256 and config_json["n_ctx"] == (config.n_ctx or 16)


def test_training_json_says_what_was_trained(tmp_path: Path) -> None:
    data = _data()
    found = json.loads((train(SMALL, data, tmp_path) / "training.json").read_text())
    assert found["digest"] == SMALL.digest(data) and found["finished"] is True
    assert found["tokens_per_step"] == 4 * 16 and found["vocabulary"] == 256
    assert found["saved_steps"] == [0, 1, 2, 5, 12]
    assert found["data"]["tokenizer"] == "bytes" and found["data"]["part"] == "train"
    identity = found["identity"]
    assert (identity["optimiser"], identity["learning_rate"]) == ("adamw", 2e-3)


def test_weights_decay_and_gains_and_biases_do_not(tmp_path: Path) -> None:
    charged: dict[float, dict[str, Tensor]] = {}
    for decay in (0.0, 0.5):
        config = _config(weight_decay=decay, steps=1, warmup=0, optimiser=Optimiser.sgd)
        folder = train(config, _data(config), tmp_path / str(decay))
        charged[decay] = load_file(folder / "step_1.safetensors")
    before = load_file(tmp_path / "0.0" / "step_0.safetensors")
    for name, free in charged[0.0].items():
        paid = charged[0.5][name]
        matrix = ".W_" in name
        assert free.equal(paid) != matrix, name
        if matrix:
            # W' = W - η (u + λ W): the difference of the two is the rent alone.
            torch.testing.assert_close(free - paid, 2e-3 * 0.5 * before[name])


def test_adam_with_decay_is_adamw(tmp_path: Path) -> None:
    config = _config(weight_decay=0.3, warmup=0, gradient_clip=None, steps=5, checkpoint_steps=[5])
    data = _data(config)
    folder = train(config, data, tmp_path)
    model = Model.initialise(config.model_fields(data), seed=0)
    parameters = [p.requires_grad_(True) for p in model.parameters().values()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.3},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    oracle = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.99))
    for step in range(5):
        oracle.zero_grad()
        model.loss(*data.batch(step)).backward()
        oracle.step()
    written = load_file(folder / "step_5.safetensors")
    for name, tensor in model.to_transformer_lens().items():
        torch.testing.assert_close(written[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_clipped_gradient_moves_the_weights_no_further_than_asked(tmp_path: Path) -> None:
    config = _config(
        optimiser=Optimiser.sgd, gradient_clip=1e-3, weight_decay=0.0, warmup=0, steps=1
    )
    folder = train(config, _data(config), tmp_path)
    before, after = (load_file(folder / f"step_{s}.safetensors") for s in (0, 1))
    moved = math.sqrt(sum(float((after[n] - before[n]).double().square().sum()) for n in before))
    assert moved == pytest.approx(2e-3 * 1e-3, rel=0.01)


def test_the_seed_decides(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        runs.append(_files(train(_config(seed=seed), _data(), tmp_path / name)))
    assert runs[0] == runs[1]
    assert runs[0]["step_0.safetensors"] != runs[2]["step_0.safetensors"]


# ── it goes on after a kill ──────────────────────────────────────────────────────────────────


class _Killed(Exception):
    pass


@pytest.mark.parametrize("optimiser", Optimiser)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: Optimiser
) -> None:
    monkeypatch.setattr(loop, "_RESUME_EVERY", 4)
    config = _config(optimiser=optimiser, schedule=Schedule.cosine, checkpoint_steps=[0, 3, 9, 12])
    whole = _files(train(config, _data(), tmp_path / "whole"))
    begun: list[int] = []
    for stop in (1, 2, 4, 6, 10, 11, 12):
        first: list[int] = []

        def progress(
            step: int, total: int, loss: float, stop: int = stop, first: list[int] = first
        ) -> None:
            assert total == 12 and loss > 0
            first.append(step)
            if step >= stop:
                raise _Killed

        with pytest.raises(_Killed):
            train(config, _data(), tmp_path / "broken", progress=progress)
        begun.append(first[0])
    # Each attempt goes on from the last resume file: of steps 3, 4 and 9.
    assert begun == [1, 1, 1, 4, 5, 10, 10]
    assert "resume.pt" in _files(tmp_path / "broken")
    assert _files(train(config, _data(), tmp_path / "broken")) == whole
    assert "resume.pt" not in whole


def test_a_write_that_breaks_off_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop at every single write of the run, with half of the file written."""
    whole = _files(train(SMALL, _data(), tmp_path / "whole"))
    write, broken = Path.write_bytes, tmp_path / "broken"
    count = 0
    for stop in range(1, 1000):
        count = 0

        def half(path: Path, content: bytes, stop: int = stop) -> int:
            nonlocal count
            count += 1
            if count == stop:
                write(path, content[: len(content) // 2])
                raise _Killed
            return write(path, content)

        monkeypatch.setattr(Path, "write_bytes", half)
        try:
            train(SMALL, _data(), broken)
        except _Killed:
            for file in broken.glob("step_*.safetensors"):
                assert file.read_bytes() == whole[file.name]
            if stop % 3:
                continue  # sometimes the next attempt starts from an empty folder
            for file in list(broken.iterdir()):
                file.unlink()
            continue
        break
    monkeypatch.setattr(Path, "write_bytes", write)
    assert _files(broken) == whole
    assert {f.name for f in broken.iterdir() if f.name.startswith(".")} <= {".lock"}


def test_sigkill_in_the_middle_of_a_write(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import torch
        torch.set_num_threads(int(sys.argv[2]))
        from circuit_econ.evaluation import training_data
        from circuit_econ.training import TrainingConfig, train
        write, writes = Path.write_bytes, []
        def killing(path, content):
            writes.append(path)
            if len(writes) == 12:
                write(path, content[:100])
                os.kill(os.getpid(), signal.SIGKILL)
            return write(path, content)
        Path.write_bytes = killing
        config = TrainingConfig(
            n_layers=1, n_heads=2, d_model=16, steps=12, batch=4, warmup=3, checkpoints=5
        )
        train(config, training_data("embedded", {"length": 16}, 4, 0), sys.argv[1])
        """
    )
    folder = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(torch.get_num_threads())],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert {"step_5.safetensors", "resume.pt"} < set(_files(folder))
    assert "step_12.safetensors" not in _files(folder) and (folder / ".resume.pt").exists()
    whole = train(SMALL, _data(), tmp_path / "whole")
    assert _files(train(SMALL, _data(), folder)) == _files(whole)


def test_a_damaged_resume_file_says_what_to_do(tmp_path: Path) -> None:
    _interrupt(tmp_path, 7)
    path = tmp_path / "resume.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigurationError) as error:
        train(SMALL, _data(), tmp_path)
    assert re.fullmatch(
        re.escape(str(path)) + r" is damaged \(\w+\); delete it to train again from step 0",
        str(error.value),
    )


def _interrupt(folder: Path, stop: int) -> None:
    def progress(step: int, _total: int, _loss: float) -> None:
        if step == stop:
            raise _Killed

    with pytest.raises(_Killed):
        train(SMALL, _data(), folder, progress=progress)


# ── it is cached ─────────────────────────────────────────────────────────────────────────────


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    train(SMALL, _data(), tmp_path)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}

    def progress(_step: int, _total: int, _loss: float) -> None:
        raise AssertionError("trained again")

    # What is evaluated is no matter, nor whether a default is spelled out.
    same = _config(d_head=8, d_mlp=64, n_ctx=16, checkpoint_steps=[12, 0, 1, 2, 5, 5])
    data = _data(sequences=3, seed=9)
    assert train(same, data, tmp_path, progress=progress) == tmp_path
    assert {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == before
    (tmp_path / "step_2.safetensors").unlink()
    with pytest.raises(AssertionError, match="trained again"):
        train(SMALL, _data(), tmp_path, progress=progress)


def test_two_at_once_train_once(tmp_path: Path) -> None:
    steps: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: train(
                SMALL, _data(), tmp_path, progress=lambda step, *_: steps.append(step)
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
    data = _data()
    train(SMALL, data, tmp_path)
    before = _files(tmp_path)
    config = _config(**changes)
    with pytest.raises(ConfigurationError) as error:
        train(config, data, tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds another run: {difference}; choose another folder, or delete this one"
    )
    assert _files(tmp_path) == before
    assert config.digest(data) != SMALL.digest(data)


def test_other_data_in_the_folder_are_named(tmp_path: Path) -> None:
    train(SMALL, _data(), tmp_path)
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
            f"cannot write to {tmp_path / 'thesis.tex' / 'run'}: [Errno 20] Not a directory:",
        ),
    ]
    for folder, message in cases:
        with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
            train(SMALL, _data(), folder)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"^cannot read .*training\.json \(JSONDecodeErr"):
        train(SMALL, _data(), tmp_path / "run")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _content: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigurationError) as error:
        train(SMALL, _data(), tmp_path)
    assert str(error.value).startswith(
        f"cannot write {tmp_path / 'training.json'}: [Errno 28] No space left on device"
    )


# ── it stops where it must ───────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_is_there(tmp_path: Path) -> None:
    config = _config(
        learning_rate=1e25,
        optimiser=Optimiser.sgd,
        gradient_clip=None,
        warmup=0,
        normalization_type=None,
        checkpoint_steps=[0, 12],
    )
    with pytest.raises(ConfigurationError) as error:
        train(config, _data(), tmp_path)
    assert re.fullmatch(
        r"training diverged: the loss is (nan|inf) at step 1; lower learning_rate or set"
        r" gradient_clip\. Checkpoints before it are kept in " + re.escape(str(tmp_path)),
        str(error.value),
    )
    assert load_file(tmp_path / "step_0.safetensors")
    assert not (tmp_path / "step_12.safetensors").exists()


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    config = _config(learning_rate=1e25, weight_decay=1e25, warmup=0, steps=1)
    with pytest.raises(ConfigurationError, match=r"^training diverged: weights 'embed' are not"):
        train(config, _data(config), tmp_path)
    assert not (tmp_path / "step_1.safetensors").exists()


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        train(SMALL, training_data("embedded", {"length": 16}, 5, 0), tmp_path)
    assert str(error.value) == (
        "the data come in batches of 5 and the configuration says batch=4; make them equal"
    )
    with pytest.raises(ConfigurationError) as error:
        train(_config(n_ctx=15), _data(), tmp_path)
    assert str(error.value) == "n_ctx=15 is shorter than the data's sequences of 16 tokens"


# ── its settings ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("steps", "checkpoints", "expected"),
    [
        (1, 2, [0, 1]),
        (8, 2, [0, 8]),
        (8, 5, [0, 1, 2, 4, 8]),
        (1000, 5, [0, 1, 10, 100, 1000]),
        (3, 15, [0, 1, 2, 3]),
        (400, 15, [0, 1, 2, 3, 4, 6, 10, 16, 25, 40, 63, 100, 159, 252, 400]),
    ],
)
def test_checkpoints_are_log_spaced(steps: int, checkpoints: int, expected: list[int]) -> None:
    config = TrainingConfig(steps=steps, checkpoints=checkpoints, warmup=0)
    assert config.saved_steps == expected


def test_the_learning_rate_rises_and_then_keeps_to_its_schedule() -> None:
    for schedule, end in (
        (Schedule.constant, 1.0),
        (Schedule.linear, 0.1),
        (Schedule.cosine, 0.0245),
    ):
        config = _config(steps=14, warmup=4, schedule=schedule, learning_rate=2.0)
        rates = [learning_rate(config, step) / 2 for step in range(14)]
        assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
        assert rates[13] == pytest.approx(end, abs=1e-4)
        assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(_config(warmup=12), 11) == SMALL.learning_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 0}, "n_layers=0 must be at least 1"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"d_mlp": 0}, "d_mlp=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        (
            {"d_model": 15},
            "d_model=15 cannot be shared evenly by n_heads=2; change one of them or give d_head",
        ),
        (
            {"d_head": 3, "positional_embedding_type": Positions.rotary},
            "rotary positions turn pairs of coordinates: d_head=3 must be even",
        ),
        ({"betas": [0.9]}, "betas=[0.9] must be two numbers from 0 to below 1"),
        ({"betas": [0.9, 1.0]}, "betas=[0.9, 1.0] must be two numbers from 0 to below 1"),
        ({"momentum": 1.0}, "momentum=1.0 must be from 0 to below 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be at least 0"),
        ({"gradient_clip": 0.0}, "gradient_clip=0.0 must be above 0, or null for no limit"),
        ({"warmup": 13}, "warmup=13 must be from 0 to steps=12"),
        ({"checkpoints": 1}, "checkpoints=1 must be at least 2"),
        ({"checkpoint_steps": []}, "checkpoint_steps=[] must be steps from 0 to steps=12"),
        ({"checkpoint_steps": [13]}, "checkpoint_steps=[13] must be steps from 0 to steps=12"),
        ({"checkpoint_steps": [-1]}, "checkpoint_steps=[-1] must be steps from 0 to steps=12"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        _config(**changes)
    assert str(error.value) == message


def test_enums_are_found_by_name() -> None:
    assert _member(Optimiser, "sgd", "optimiser") is Optimiser.sgd
    with pytest.raises(ConfigurationError) as error:
        _member(Normalization, "BatchNorm", "normalization_type")
    assert str(error.value) == (
        "unknown normalization_type 'BatchNorm'; there is: LN, LNPre, RMS, RMSPre"
    )


def test_the_configuration_is_a_structured_one() -> None:
    from omegaconf import OmegaConf

    overrides = {"optimiser": "sgd", "normalization_type": None, "checkpoint_steps": [1, 2]}
    merged = OmegaConf.merge(OmegaConf.structured(TrainingConfig), overrides)
    assert OmegaConf.to_object(merged) == TrainingConfig(
        optimiser=Optimiser.sgd, normalization_type=None, checkpoint_steps=[1, 2]
    )

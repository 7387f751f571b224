"""Training: it learns, what it writes can be opened, and it stops where it must."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import SMALL, files_of, losses_of, small_config, small_data, source_of
from torch import Tensor

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation, training_data
from circuit_econ.model import Model
from circuit_econ.training import (
    Activation,
    Normalization,
    Optimiser,
    Positions,
    Schedule,
    learning_rate,
    train,
)


@pytest.mark.parametrize("optimiser", Optimiser)
def test_loss_falls_on_text(tmp_path: Path, optimiser: Optimiser) -> None:
    rate = {Optimiser.adamw: 1e-2, Optimiser.sgd: 0.3}[optimiser]
    config = small_config(steps=60, batch=16, optimiser=optimiser, learning_rate=rate, d_model=32)
    folder = train(config, small_data(config, length=32), tmp_path / "run")
    losses = losses_of(folder)
    assert len(losses) == 60
    assert abs(losses[0] - math.log(256)) < 0.5  # it begins by knowing nothing
    assert sum(losses[-10:]) / 10 < 3.6


def test_an_evaluation_set_can_be_learnt_by_heart(tmp_path: Path) -> None:
    evaluation = Evaluation.from_task("two-cues", sequences=16, reference_sequences=0)
    config = small_config(steps=60, batch=16, learning_rate=1e-2, attn_only=True)
    folder = train(config, evaluation, tmp_path / "run")
    assert losses_of(folder)[0] > 3.5 and losses_of(folder)[-1] < 0.5


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
    config = small_config(**changes)
    data = small_data(config)
    folder = train(config, data, tmp_path / "run")
    assert sorted(files_of(folder)) == sorted(
        ["config.json", "training.json", "training_loss.csv"]
        + [f"step_{s}.safetensors" for s in (0, 1, 2, 5, 12)]
    )
    losses = losses_of(folder)
    seen = []
    for step in (0, 1, 2, 5):
        model = Model.from_source(source_of(folder, step))
        assert model.loss(*data.batch(step)).item() == losses[step]
        seen.append(losses[step])
    assert len(set(seen)) == 4
    config_json = json.loads((folder / "config.json").read_text())
    rotary = config.positional_embedding_type is Positions.rotary
    assert config_json.get("rotary_adjacent_pairs", False) is rotary
    assert config_json["d_vocab"] == 256 and config_json["n_ctx"] == (config.n_ctx or 16)


def test_training_json_says_what_was_trained(tmp_path: Path) -> None:
    data = small_data()
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
        config = small_config(weight_decay=decay, steps=1, warmup=0, optimiser=Optimiser.sgd)
        folder = train(config, small_data(config), tmp_path / str(decay))
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
    config = small_config(
        weight_decay=0.3, gradient_clip=None, schedule=Schedule.linear, checkpoint_steps=[6]
    )
    data = small_data(config)
    folder = train(config, data, tmp_path)
    model = Model.initialise(config.model_fields(data), seed=0)
    parameters = [p.requires_grad_(True) for p in model.parameters().values()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.3},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    oracle = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.99))
    for step in range(6):
        for group in oracle.param_groups:
            group["lr"] = learning_rate(config, step)
        oracle.zero_grad()
        model.loss(*data.batch(step)).backward()
        oracle.step()
    written = load_file(folder / "step_6.safetensors")
    for name, tensor in model.to_transformer_lens().items():
        torch.testing.assert_close(written[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_clipped_gradient_moves_the_weights_no_further_than_asked(tmp_path: Path) -> None:
    config = small_config(
        optimiser=Optimiser.sgd, gradient_clip=1e-3, weight_decay=0.0, warmup=0, steps=1
    )
    folder = train(config, small_data(config), tmp_path)
    before, after = (load_file(folder / f"step_{s}.safetensors") for s in (0, 1))
    moved = math.sqrt(sum(float((after[n] - before[n]).double().square().sum()) for n in before))
    assert moved == pytest.approx(2e-3 * 1e-3, rel=0.01)


def test_the_seed_decides(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        runs.append(files_of(train(small_config(seed=seed), small_data(), tmp_path / name)))
    assert runs[0] == runs[1]
    assert runs[0]["step_0.safetensors"] != runs[2]["step_0.safetensors"]


def test_the_learning_rate_rises_and_then_keeps_to_its_schedule() -> None:
    for schedule, end in (
        (Schedule.constant, 1.0),
        (Schedule.linear, 0.1),
        (Schedule.cosine, 0.0245),
    ):
        config = small_config(steps=14, warmup=4, schedule=schedule, learning_rate=2.0)
        rates = [learning_rate(config, step) / 2 for step in range(14)]
        assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
        assert rates[13] == pytest.approx(end, abs=1e-4)
        assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(small_config(warmup=12), 11) == SMALL.learning_rate


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_is_there(tmp_path: Path) -> None:
    config = small_config(
        learning_rate=1e25,
        optimiser=Optimiser.sgd,
        gradient_clip=None,
        warmup=0,
        normalization_type=None,
        checkpoint_steps=[0, 12],
    )
    with pytest.raises(ConfigurationError) as error:
        train(config, small_data(), tmp_path)
    assert re.fullmatch(
        r"training diverged: the loss is (nan|inf) at step 1; lower learning_rate or set"
        r" gradient_clip\. Checkpoints before it are kept in " + re.escape(str(tmp_path)),
        str(error.value),
    )
    assert load_file(tmp_path / "step_0.safetensors")
    assert not (tmp_path / "step_12.safetensors").exists()


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    config = small_config(learning_rate=1e25, weight_decay=1e25, warmup=0, steps=1)
    with pytest.raises(ConfigurationError, match=r"^training diverged: weights 'embed' are not"):
        train(config, small_data(config), tmp_path)
    assert not (tmp_path / "step_1.safetensors").exists()


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        train(SMALL, training_data("embedded", {"length": 16}, 5, 0), tmp_path)
    assert str(error.value) == (
        "the data come in batches of 5 and the configuration says batch=4; make them equal"
    )
    with pytest.raises(ConfigurationError) as error:
        train(small_config(n_ctx=15), small_data(), tmp_path)
    assert str(error.value) == "n_ctx=15 is shorter than the data's sequences of 16 tokens"

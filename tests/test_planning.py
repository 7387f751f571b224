"""The plan: what a walk would do, from configurations alone; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import SAVED, SMALL, TEXT, WALK, Terminal, contents, shown, terminal

from circuit_econ.composing import Request, compose
from circuit_econ.model import ModelConfig, Source, read_config
from circuit_econ.model.source import Format
from circuit_econ.planning import operations, predict


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    with terminal(tmp_path, capsys, monkeypatch) as made:
        yield made


def test_a_plan_names_checkpoints_and_passes_loads_no_weights_and_writes_nothing(
    run: Terminal,
) -> None:
    size = 0
    for file in (run.folder / "saved").glob("*.safetensors"):
        file.write_bytes(b"no weights at all")
        size += file.stat().st_size
    before = contents(run.folder)
    answer = run("plan", *SAVED, *TEXT, *SMALL, "out=done", "baselines=[mean,zero]")
    assert answer.code == 0 and answer.err == ""
    text = shown(answer)
    assert "plan of study 'own'" in text
    assert "checkpoints 3: 0, 1, 4" in text
    assert "1 layer of 2 heads and an MLP, width 8, vocabulary 256" in text
    assert "training first no" in text
    assert "passes, attention 1.0 per checkpoint" in text
    assert f"weights to read {size / 1e6:.1f} MB" in text
    assert "time about 1 s" in text and "out done" in text
    assert contents(run.folder) == before


def test_a_plan_of_a_trained_run_counts_the_training_and_then_the_weights(run: Terminal) -> None:
    training = ("n_layers=1", "d_model=8", "n_heads=2", "steps=4", "warmup=0", "checkpoints=3",
                "batch=2")  # fmt: skip
    overrides = (
        "study=own", "evaluation.length=8", "evaluation.sequences=2", "measure=[value]",
        "evaluation.reference_sequences=2", "out=done", "measures.value.placebo_draws=0",
        *(f"trajectory.training.{o}" for o in training),
    )  # fmt: skip
    before = contents(run.folder)
    first = run("plan", *overrides)
    assert first.code == 0 and "training first 4 steps" in shown(first)
    assert "weights to read not known" in shown(first) and contents(run.folder) == before
    assert run("walk", *overrides, "device=cpu").code == 0
    second = shown(run("plan", *overrides))
    assert "training first no" in second and "weights to read 0.1 MB" in second


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        (
            "evaluation.length=17",
            "sequences of 17 tokens are longer than the model's context of 16; choose "
            "evaluation.length=16 or less",
        ),
        ("evaluation.bos=true", "token id 256 is outside the model's vocabulary of 256"),
        ("trajectory.path=away", "no such folder: away"),
        ("trajectory.path=owner/away", "no such folder: owner/away"),
        ("measures.value.components=[m3]", "unknown component 'm3'; there is: embed, pos, a0.h0"),
        ("device.name=quantum", "device 'quantum' cannot be used"),
        ("seed=0,1", "seed=0,1 gives several values"),
    ],
)
def test_a_plan_refuses_what_a_walk_could_not_do(run: Terminal, override: str, reason: str) -> None:
    answer = run("plan", *WALK, override)
    assert answer.code == 2
    assert answer.reason.startswith(reason)


def test_passes_and_operations_are_those_of_the_measures(run: Terminal) -> None:
    # Two heads and an MLP of one layer: with the clean pass, and the same again for two baselines.
    (config,) = compose(Request((*WALK, "out=done", "measures.value.placebo_draws=0")))
    (both,) = compose(
        Request((*WALK, "out=done", "measures.value.placebo_draws=0", "baselines=[mean,zero]"))
    )
    one, two = predict(config), predict(both)
    assert one.steps == (0, 1, 4) and one.training_steps == 0
    assert set(one.passes) == {"value"} and one.passes["value"] < two.passes["value"]
    per_pass = operations(one.config, 12) * 5
    assert one.operations == pytest.approx(3 * one.passes["value"] * per_pass)
    assert one.seconds > 0


def test_operations_of_a_pass_are_counted_by_hand() -> None:
    fields = {
        "n_layers": 3, "n_heads": 2, "d_head": 4, "d_model": 8, "d_mlp": 12, "n_ctx": 16,
        "d_vocab": 10, "act_fn": "relu",
    }  # fmt: skip
    config: ModelConfig = read_config(Source(Format.TRANSFORMER_LENS, fields, {}, "by hand"))
    weights = 3 * (4 * 8 * 8 + 2 * 8 * 12) + 8 * 10
    scores = 3 * 2 * (2 * 4) * 5  # per layer and head: q·k and the mix, over five positions
    assert operations(config, 5) == 2 * 5 * (weights + scores)

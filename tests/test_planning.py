"""The plan: what a walk would do, from configurations alone; nothing is written."""

from __future__ import annotations

import re

import pytest
import torch
import zoo
from commands import SAVED, SMALL, TEXT, WALK, Terminal, contents, shown

from circuit_econ.calibrating import rehearse
from circuit_econ.composing import Request, compose
from circuit_econ.evaluation import Evaluation
from circuit_econ.model import Model, Source, read_config
from circuit_econ.model.source import Format
from circuit_econ.model.weights import blank
from circuit_econ.planning import predict
from circuit_econ.settings import Settings


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
    for name in ("value", "attention", "the loss"):
        assert re.search(rf"memory, {name} [0-9.]+ MB at most", text), name
    assert re.search(r"memory [0-9.]+ MB at most beside the weights, which are 0.0 MB; [0-9,.]+ MB "
                     r"may be taken", text)  # fmt: skip
    assert f"weights to read {size / 1e6:.1f} MB" in text
    # Three windows of one document and two of another: (9 + 4)² / (81 + 16).
    assert "errors rest on 2 sequences or documents, which tell as much as 1.7 of one size" in text
    assert "below 16 intervals are wide: give more documents" in text
    assert "time about" in text and "seconds, value" in text and "out done" in text
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


def test_passes_are_those_of_the_measures_and_so_are_seconds(run: Terminal) -> None:
    # Two heads and an MLP of one layer: with the clean pass, and the same again for two baselines.
    overrides = (*WALK, "out=done", "measures.value.placebo_draws=0")
    (config,) = compose(Request(overrides))
    (both,) = compose(Request((*overrides, "baselines=[mean,zero]")))
    one, two = predict(config), predict(both)
    assert one.steps == (0, 1, 4) and one.training_steps == 0
    # Above a head half a layer is left, above its MLP none.
    assert one.passes == {"value": 2 + 0.5 + 0.5 + 0} and two.passes == {"value": 2 + 2 * 1.0}
    assert set(one.measuring) == {"value"} and one.measuring["value"] > 0
    assert one.seconds > one.preparing + 3 * one.measuring["value"]


def test_a_precision_makes_the_time_a_bound(run: Terminal) -> None:
    text = shown(run("plan", *SAVED, *TEXT, *SMALL, "precision={absolute:0.1}"))
    assert "time at most" in text


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)
def test_blank_weights_have_the_shapes_of_the_model(case: zoo.Case) -> None:
    source = case.source(0)
    config = read_config(source)
    real = Model.from_source(source).weights
    made = blank(config, torch.float32, torch.device("meta"))
    assert {n: t.shape for n, t in made.named()} == {n: t.shape for n, t in real.named()}
    assert (made.unembed is made.embed) == (real.unembed is real.embed)


def test_a_rehearsal_tells_what_depends_on_what(run: Terminal) -> None:
    """The whole is rehearsed on two layers: four cost twice of them, and sequences add up."""
    fields = {
        "n_layers": 8, "n_heads": 4, "d_head": 16, "d_model": 64, "d_mlp": 256, "n_ctx": 64,
        "d_vocab": 64, "act_fn": "gelu",
    }  # fmt: skip
    deep = read_config(Source(Format.TRANSFORMER_LENS, fields, {}, "eight layers"))
    flat = read_config(Source(Format.TRANSFORMER_LENS, {**fields, "n_layers": 2}, {}, "two"))
    tokens = torch.zeros(32, 64, dtype=torch.int64)
    settings = Settings.make(["value", "capacity"], ["zero"], 0, "float32", "cpu", None)
    much, little = (rehearse(c, Evaluation(tokens), settings) for c in (deep, flat))
    # Four times the components, each with about four times the layers above it.
    assert 4 < much["value"] / little["value"] < 60
    assert 1.5 < much["capacity"] / little["capacity"] < 20

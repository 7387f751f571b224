"""When checkpoints are compared with TransformerLens, and what is said where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

import circuit_econ as ce
from circuit_econ import proving
from circuit_econ.evaluation import Evaluation
from circuit_econ.model import Format, Model, Source
from circuit_econ.model.check import check_identity

STEPS = (0, 1, 2, 3, 4)
TOKENS = zoo.tokens_of(zoo.case_named("gpt2"), 6, seed=1)


def checkpoints(folder: Path, *, tied_head: bool = False) -> ce.Trajectory:
    """Five checkpoints with next to the same weights."""
    case = zoo.case_named("gpt2")
    for step in STEPS:
        file = case.save(folder, step, seed=0)
        tensors = load_file(file)
        if tied_head:
            tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
            save_file(tensors, file, metadata={"format": "pt"})
    return ce.open_trajectory(folder)


def change(folder: Path, step: int, name: str, factor: float) -> None:
    """One tensor of a checkpoint times a factor."""
    file = folder / f"step{step}/model.safetensors"
    tensors = load_file(file)
    tensors[name] = tensors[name] * factor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders of the checkpoints that were compared with a bridge, in order."""
    found: list[str] = []
    check = proving.check_against_bridge

    def spy(source: Source, *rest: object) -> float:
        found.append(Path(source.origin).name)
        return check(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(proving, "check_against_bridge", spy)
    return found


def walk(trajectory: ce.Trajectory, out: Path) -> list[tuple[str, str]]:
    """Status and reason of every checkpoint."""
    evaluation = Evaluation(TOKENS)
    ledger = ce.walk(trajectory, evaluation, measures=["capacity"], out=out, dtype="float64")
    return ledger.table("checkpoints").collect().sort("step").select("status", "reason").rows()


def test_the_first_and_the_last_checkpoint_are_compared(
    tmp_path: Path, compared: list[str]
) -> None:
    walk(checkpoints(tmp_path / "run"), tmp_path / "out")
    assert compared == ["step0", "step4"]


def test_a_checkpoint_whose_loss_jumps_is_compared(tmp_path: Path, compared: list[str]) -> None:
    trajectory = checkpoints(tmp_path / "run")
    change(tmp_path / "run", 2, "transformer.ln_f.weight", 1.1)  # up there, and down after it
    walk(trajectory, tmp_path / "out")
    assert compared == ["step0", "step2", "step4"]
    losses = ce.open_ledger(tmp_path / "out").table("checkpoints").collect().sort("step")["loss"]
    assert proving.RISE < losses[2] - losses[1] < proving.FALL


def test_a_tie_that_opens_is_compared_and_measured_as_transformers_does(
    tmp_path: Path, compared: list[str]
) -> None:
    trajectory = checkpoints(tmp_path / "run", tied_head=True)
    change(tmp_path / "run", 3, "lm_head.weight", 1.001)
    assert {status for status, _ in walk(trajectory, tmp_path / "out")} == {"measured"}
    assert compared == ["step0", "step3", "step4"]
    sizes = ce.open_ledger(tmp_path / "out").table("capacity").collect()
    sizes = sizes.filter(component="unembed", currency="parameters")  # none where there is a tie
    assert sizes["step"].to_list() == [3] and sizes["amount"][0] == 23 * 18


def test_after_one_disagreement_every_checkpoint_is_compared(
    tmp_path: Path, compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trajectory = checkpoints(tmp_path / "run")
    loss = proving.Probe.loss
    wrong: list[int] = []

    def off_by_a_little(self: proving.Probe, model: Model) -> float:
        wrong.append(1)
        return loss(self, model) + (1e-3 if len(wrong) == 1 else 0.0)

    monkeypatch.setattr(proving.Probe, "loss", off_by_a_little)
    rows = walk(trajectory, tmp_path / "out")
    assert [status for status, _ in rows] == ["failed", *["measured"] * 4]
    assert "over the 11 scored positions of sequence 0, compared in float64" in rows[0][1]
    assert compared == [f"step{step}" for step in STEPS]


def test_an_overflow_is_called_one(tmp_path: Path) -> None:
    trajectory = checkpoints(tmp_path / "run")
    change(tmp_path / "run", 1, "transformer.h.0.mlp.c_proj.weight", 1e20)
    change(tmp_path / "run", 1, "transformer.h.1.attn.c_proj.weight", 1e25)
    change(tmp_path / "run", 4, "transformer.h.0.mlp.c_proj.weight", 1e38)
    ledger = ce.walk(trajectory, Evaluation(TOKENS), measures=["capacity"], out=tmp_path / "out")
    rows = ledger.table("checkpoints").collect().sort("step").select("status", "reason").rows()
    assert [status for status, _ in rows] == ["measured"] * 4 + ["failed"]
    assert "although its weights are finite: activations overflow" in rows[4][1]


def test_a_source_keeps_nothing_once_its_model_is_made(tmp_path: Path) -> None:
    source = zoo.case_named("tl-attn-only").source(0)
    prover = proving.Prover(Evaluation(zoo.tokens_of(zoo.case_named("tl-attn-only"), 2, 1)), 9)
    model = prover.prove(source, 0, lambda: Model.from_source(source))
    source.tensors.clear()
    check_identity(model, torch.arange(8)[None])
    assert model.config.architecture == "TransformerLens-native"
    assert source.format is Format.TRANSFORMER_LENS

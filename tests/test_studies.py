"""Every study that ships composes and, shrunk, runs from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Terminal, shown

import circuit_econ as ce
from circuit_econ.composing import Request, compose
from circuit_econ.places import config_folder

STUDIES = sorted(path.stem for path in (config_folder() / "study").glob("*.yaml"))

# Whatever a study says of sizes, a few steps of a narrow model on a few sequences.
SHRUNK = (
    "trajectory.training.d_model=8",
    "trajectory.training.steps=4",
    "trajectory.training.warmup=0",
    "trajectory.training.batch=2",
    "trajectory.training.checkpoint_steps=[0,2,4]",
    "evaluation.sequences=3",
    "evaluation.reference_sequences=3",
    "evaluation.length=26",
    "measures.value.placebo_draws=1",
    "device=cpu",
)


def test_the_studies_are_those_that_are_known() -> None:
    assert {"quickstart", "induction", "own"} <= set(STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_composes_as_it_is(study: str) -> None:
    (config,) = compose(Request((f"study={study}",)))
    assert config.study == study and config.out == Path("runs") / study


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_runs_shrunk(run: Terminal, study: str) -> None:
    (whole,) = compose(Request((f"study={study}",)))
    assert whole.trajectory["kind"] == "trained", "shrink this kind of trajectory, too"
    answer = run("walk", f"study={study}", *SHRUNK)
    assert answer.code == 0, answer.err
    out = run.folder / "runs" / study
    assert f"page: {Path('runs', study, 'report.html')}" in answer.out
    assert (out / "report.html").is_file()
    ledger = ce.open_ledger(out)
    assert ledger.run["study"] == study
    assert ledger.table("checkpoints").collect()["step"].to_list() == [0, 2, 4]
    values = ledger.table("value").collect()
    assert values["baseline"].unique().sort().to_list() == sorted(whole.baselines)
    sets = whole.settings["value"].sets
    assert {"+".join(members) for members in sets} <= set(values["component"])
    # The model is trained once.
    (folder,) = (run.folder / "runs/trained").iterdir()
    before = (folder / "training.json").stat().st_mtime_ns
    again = run("walk", f"study={study}", *SHRUNK)
    assert again.code == 0 and "3 checkpoints, 0 to measure" in again.err
    assert "training" not in again.err
    assert (folder / "training.json").stat().st_mtime_ns == before
    assert "training first no" in shown(run("plan", f"study={study}", *SHRUNK))

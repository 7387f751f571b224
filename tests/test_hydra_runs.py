"""Multiruns: a folder per combination, failures that stay apart, one exit code for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CASE, CHEAP, SMALL, TEXT, WALK, Terminal, contents

import circuit_econ as ce
from circuit_econ import hydra_runs
from circuit_econ.config import RunConfig


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The runs that were started; nothing is walked."""
    runs: list[RunConfig] = []

    def record(config: RunConfig) -> int:
        runs.append(config)
        return 0

    monkeypatch.setattr(hydra_runs, "_walk", record)
    return runs


def test_each_combination_has_a_folder_that_the_same_command_finds_again(run: Terminal) -> None:
    command = ("walk", "-m", *WALK, "out=done", "trajectory.steps=last", "seed=0,1")
    first = run(*command)
    assert first.code == 0
    assert "page: done/seed=0/report.html" in first.out
    assert "page: done/seed=1/report.html" in first.out
    assert {p.name for p in (run.folder / "done").iterdir()} == {"seed=0", "seed=1"}
    assert {p.name for p in run.folder.iterdir()} == {"saved", "text.txt", "done"}
    assert [ce.open_ledger(f"done/seed={s}").run["identity"]["seed"] for s in (0, 1)] == [0, 1]
    parts = contents(run.folder / "done/seed=1/ledger/value")
    again = run(*command)
    assert again.code == 0 and again.err.count("1 checkpoints, 0 to measure") == 2
    assert contents(run.folder / "done/seed=1/ledger/value") == parts


def test_the_worst_run_decides_and_the_others_are_walked(run: Terminal) -> None:
    for name in ("broken", "whole"):
        CASE.save(run.folder / name, 0, seed=0)
        file = CASE.save(run.folder / name, 1, seed=1)
    (run.folder / "broken/step_1.safetensors").write_bytes(file.read_bytes()[:100])
    command = ("walk", "-m", "trajectory=folder", *TEXT, *SMALL, *CHEAP, "out=done")
    answer = run(*command, "trajectory.path=broken,away,whole")
    assert answer.code == 2
    assert "circuit-econ: no such folder: away" in answer.err
    assert "step 1 not measured: broken/step_1.safetensors" in answer.err
    rows = [
        ce.open_ledger(f"done/trajectory.path={name}").table("checkpoints").collect()["status"]
        for name in ("broken", "whole")
    ]
    assert [r.to_list() for r in rows] == [["measured", "failed"], ["measured", "measured"]]
    assert run(*command, "trajectory.path=broken,whole").code == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("seed=0,one", "seed must be a whole number, not 'one'"),
        ("measure=[value],[worth]", "unknown measure 'worth'; there is: value, attention, cap"),
        ("baselines=[mean],[]", "no baseline asked for; there is: mean, mean-position"),
        ("dtype=float64,int8", "unknown dtype 'int8'; there is: float32, float64"),
        ("evaluation=file,nope", "unknown evaluation 'nope'; there is: dataset, embedded, file"),
        ("evaluation.sequences=4,0", "sequences must be a whole number of at least 1, not 0"),
        ("trajectory.steps=last,often", "steps 'often' is not understood"),
        ("measures.value.placebo_draws=0,-1", "measures.value.placebo_draws must be 0 or more"),
        ("seed=interval(0,2)", "seed=interval(0,2): only a,b,c, choice(…), range(…) and glob(…)"),
    ],
)
def test_a_wrong_value_in_one_combination_is_refused_before_anything_runs(
    run: Terminal, walked: list[RunConfig], wrong: str, reason: str
) -> None:
    answer = run("walk", "-m", *WALK, "out=done", wrong)
    assert answer.code == 2
    assert answer.reason.startswith(reason)
    assert walked == []


def test_names_come_from_what_differs_and_values_from_hydra(
    run: Terminal, walked: list[RunConfig]
) -> None:
    answer = run(
        "walk", "--multirun", *WALK, "out=done", "seed=range(0,2)", "trajectory.steps=[0],last",
    )  # fmt: skip
    assert answer.code == 0
    assert [(r.seed, r.trajectory["steps"]) for r in walked] == [
        (0, [0]), (0, "last"), (1, [0]), (1, "last"),
    ]  # fmt: skip
    assert walked[0].out.name.startswith("seed=0,trajectory.steps=0-")
    assert walked[1].out == Path("done/seed=0,trajectory.steps=last")
    assert len({r.out for r in walked}) == 4
    planned = run("plan", "-m", *WALK, "out=done", "seed=range(0,2)")
    assert planned.code == 0 and "done/seed=0" in planned.out and "done/seed=1" in planned.out


def test_several_studies_and_several_folders(run: Terminal, walked: list[RunConfig]) -> None:
    assert run("walk", "-m", "study=quickstart,induction").code == 0
    assert [str(r.out) for r in walked] == [
        "runs/quickstart/study=quickstart", "runs/induction/study=induction",
    ]  # fmt: skip
    walked.clear()
    assert run("walk", "-m", "out=a,b").code == 0
    assert [str(r.out) for r in walked] == ["a", "b"]
    walked.clear()
    assert run("walk", "-m", "device=glob(c*)").code == 0
    assert [r.device for r in walked] == ["cpu", "cuda"]


def test_a_multirun_of_one_is_the_run_itself(run: Terminal, walked: list[RunConfig]) -> None:
    assert run("walk", "-m", *WALK, "out=done").code == 0
    assert [r.out for r in walked] == [Path("done")]


def test_runs_side_by_side_take_gpus_by_turns(
    run: Terminal, walked: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert run("walk", "-m", "seed=0,1,2").code == 0
    assert [r.device for r in walked] == ["cuda:0", "cuda:1", "cuda:0"]
    walked.clear()
    assert run("walk", "-m", "seed=0,1", "device=cpu").code == 0
    assert [r.device for r in walked] == ["cpu", "cpu"]
    walked.clear()
    assert run("walk", "seed=1").code == 0
    assert [r.device for r in walked] == [None]


def test_a_run_that_leaves_no_outcome_is_not_done(
    run: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: Any) -> None:
        """As a job on a machine that shares no files with this one."""

    monkeypatch.setattr(hydra_runs, "_job", lost)
    assert run("walk", "-m", "seed=0,1").code == 1

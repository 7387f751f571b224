"""The command line as a user meets it: verbs, exit codes, and what is printed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from commands import CASE, CHEAP, SAVED, SMALL, STEPS, TEXT, WALK, Terminal, contents

import circuit_econ as ce
from circuit_econ import composing, hydra_runs
from circuit_econ.composing import Request
from circuit_econ.config import EVALUATIONS, TRAJECTORIES
from circuit_econ.measures import MEASURES
from circuit_econ.places import config_folder
from circuit_econ.settings import DTYPES
from circuit_econ.tables import BASELINES


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


# Help.


@pytest.mark.parametrize("arguments", [["--help"], ["walk", "--help"], ["plan", "-h"]])
def test_help_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys, time; began = time.perf_counter(); from circuit_econ.cli import main; "
        f"code = main({arguments!r}); "
        "heavy = {'torch', 'transformer_lens', 'hydra', 'polars', 'rich'} & set(sys.modules); "
        "assert code == 0 and not heavy, heavy; "
        "assert time.perf_counter() - began < 3, 'slow'"
    )
    done = python("-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "circuit-econ walk" in done.stdout
    assert done.stderr == ""


def test_help_names_everything_there_is(run: Terminal) -> None:
    text = run("walk", "--help").out
    studies = {p.stem for p in (config_folder() / "study").glob("*.yaml")}
    devices = {p.stem for p in (config_folder() / "device").glob("*.yaml")}
    for name in (*studies, *TRAJECTORIES, *EVALUATIONS, *MEASURES, *BASELINES, *DTYPES, *devices):
        assert name in text, name


def test_help_of_every_verb(run: Terminal) -> None:
    overview = run("--help")
    assert overview.code == 0
    for verb in ("walk", "plan", "audit", "report"):
        assert f"circuit-econ {verb}" in overview.out
        if verb in ("walk", "plan"):
            assert f"circuit-econ {verb}" in run(verb, "--help").out
        else:
            with pytest.raises(SystemExit) as end:
                run(verb, "--help")
            assert end.value.code == 0


def test_no_verb_shows_the_help_and_is_wrong_usage(run: Terminal) -> None:
    answer = run()
    assert answer.code == 2 and answer.out == run("--help").out


def test_an_unknown_verb_says_which_there_are(run: Terminal) -> None:
    answer = run("stroll")
    assert answer.code == 2
    assert answer.reason == "unknown verb 'stroll'; there is: walk, plan, audit, report, export"


def test_version(run: Terminal) -> None:
    answer = run("--version")
    assert answer.code == 0 and answer.out.strip().count(".") == 2


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = python("-m", "circuit_econ", "stroll", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("circuit-econ: unknown verb 'stroll'")


# walk.


def test_a_walk_writes_page_and_ledger(run: Terminal) -> None:
    answer = run("walk", *WALK, "out=done")
    assert answer.code == 0
    assert "Largest values at step 4" in answer.out and "page: done/report.html" in answer.out
    assert "3 checkpoints, 3 to measure" in answer.err and "step 4 measured (3 of 3)" in answer.err
    assert (run.folder / "done/report.html").stat().st_size > 100_000
    ledger = ce.open_ledger("done")
    assert ledger.table("checkpoints").collect()["step"].to_list() == list(STEPS)
    assert set(ledger.table("value").collect()["component"]) == {"a0.h0", "a0.h1", "m0"}
    said = yaml.safe_load((run.folder / "done/run.yaml").read_text())
    assert said["study"] == "own"
    assert said["configuration"]["trajectory"] == {"kind": "folder", "path": "saved", "steps": None}
    # Nothing else appears, whatever Hydra would leave.
    left = {p.name for p in run.folder.iterdir()}
    assert left == {"saved", "text.txt", "done"}


def test_the_same_command_continues(run: Terminal) -> None:
    assert run("walk", *WALK, "out=done", "trajectory.steps=[0]").code == 0
    before = contents(run.folder / "done/ledger/value")
    again = run("walk", *WALK, "out=done")
    assert again.code == 0 and "3 checkpoints, 2 to measure" in again.err
    after = contents(run.folder / "done/ledger/value")
    assert len(after) == 3 and before.items() <= after.items()
    last = run("walk", *WALK, "out=done")
    assert last.code == 0 and "3 checkpoints, 0 to measure" in last.err
    assert contents(run.folder / "done/ledger/value") == after
    assert "Largest values at step 4" in last.out


def test_another_configuration_in_the_same_folder_is_refused(run: Terminal) -> None:
    assert run("walk", *WALK, "out=done", "trajectory.steps=last").code == 0
    before = contents(run.folder / "done")
    answer = run("walk", *WALK, "out=done", "baselines=[zero]")
    assert answer.code == 2
    assert answer.reason == (
        "'done' holds a ledger of another configuration: baselines: ['mean'] there, ['zero'] asked "
        "for; choose another out, or restore the setting"
    )
    assert contents(run.folder / "done") == before


def test_a_corrupt_checkpoint_is_listed_and_the_rest_is_measured(run: Terminal) -> None:
    file = run.folder / "saved/step_1.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    answer = run("walk", *WALK, "out=done")
    assert answer.code == 1
    assert "step 1 not measured: saved/step_1.safetensors" in answer.err
    assert "1 checkpoint could not be measured" in answer.out
    assert "step 1: saved/step_1.safetensors" in answer.out
    assert "Largest values at step 4" in answer.out
    page = (run.folder / "done/report.html").read_text()
    assert "step_1.safetensors" in page
    rows = ce.open_ledger("done").table("checkpoints").collect()
    assert rows["status"].to_list() == ["measured", "failed", "measured"]
    # Mended, the same command measures it.
    CASE.save(run.folder / "saved", 1, seed=1)
    assert run("walk", *WALK, "out=done").code == 0


def test_an_interrupt_says_that_nothing_is_lost(
    run: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(hydra_runs, "_walk", interrupted)
    answer = run("walk", *WALK, "out=done")
    assert answer.code == 1
    assert answer.reason == "interrupted; what was measured is kept, and the same command goes on"


def test_a_walk_without_overrides_is_the_quickstart() -> None:
    (config,) = composing.compose(Request(()))
    assert config.study == "quickstart" and config.out == Path("runs/quickstart")
    assert config.trajectory["kind"] == "trained" and config.evaluation["kind"] == "embedded"
    (own,) = composing.compose(Request(("trajectory=folder", "trajectory.path=x")))
    assert own.study == "own" and own.out == Path("runs/own")


def test_the_run_folder_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/far/away")
    monkeypatch.setenv("USERPROFILE", "/far/away")
    (config,) = composing.compose(Request(("out='~/runs'",)))
    assert config.out == Path("/far/away/runs")


def test_a_process_of_its_own_fails_alike(run: Terminal) -> None:
    bad = python("-m", "circuit_econ", "walk", *WALK, "trajectory.path=away", folder=run.folder)
    assert bad.returncode == 2 and bad.stdout == ""
    assert bad.stderr.startswith("circuit-econ: no such folder: away")
    assert bad.stderr.count("\n") == 1


# The configuration.


def test_cfg_prints_the_configuration(run: Terminal) -> None:
    answer = run("walk", "study=induction", "--cfg", "job", "seed=3")
    assert answer.code == 0 and answer.err == ""
    said = yaml.safe_load(answer.out)
    assert said["study"] == "induction" and said["seed"] == 3
    assert said["evaluation"]["seed"] == "${seed}"
    assert set(said["measures"]) == set(MEASURES)
    resolved = yaml.safe_load(run("plan", "--cfg", "job", "--resolve", "seed=3").out)
    assert resolved["evaluation"]["seed"] == resolved["trajectory"]["training"]["seed"] == 3
    assert resolved["out"] == "runs/quickstart"
    several = run("walk", "-m", "seed=0,1", "--cfg", "job").out
    assert [c["seed"] for c in yaml.safe_load_all(several)] == [0, 1]


def test_cfg_shows_what_is_missing_and_refuses_what_is_wrong(run: Terminal) -> None:
    said = yaml.safe_load(run("walk", "--cfg", "job", "trajectory=folder").out)
    assert said["trajectory"]["path"] == "???"
    answer = run("walk", "--cfg", "job", "study=nope")
    assert answer.code == 2 and answer.reason.startswith("unknown study 'nope'; there is: ")
    answer = run("walk", "--cfg", "job", "--resolve", "~seed")
    assert answer.code == 2 and answer.reason.startswith("Interpolation key 'seed' not")


# audit.


def test_audit_of_a_clean_run(run: Terminal) -> None:
    answer = run("audit", "saved")
    assert answer.code == 0
    assert answer.out == "saved: 3 checkpoints, nothing found\n"
    assert run("audit", "saved", "--steps", "0,4").out == "saved: 2 checkpoints, nothing found\n"


def test_audit_lists_identical_neighbours_and_what_cannot_be_read(run: Terminal) -> None:
    shutil.copy(run.folder / "saved/step_1.safetensors", run.folder / "saved/step_4.safetensors")
    (run.folder / "saved/step_0.safetensors").write_bytes(b"nothing")
    answer = run("audit", "saved")
    assert answer.code == 1
    assert "identical-neighbour" in answer.out and "unreadable" in answer.out
    assert answer.out.splitlines()[-1] == "saved: 3 checkpoints, 2 findings"


def test_square_brackets_in_names_are_shown(run: Terminal) -> None:
    (run.folder / "saved").rename(run.folder / "saved [b]")
    assert "done[b]" in run("plan", *WALK, "trajectory.path='saved [b]'", "out='done[b]'").out
    (run.folder / "saved [b]/step_0.safetensors").write_bytes(b"nothing")
    assert "saved [b]/step_0" in run("audit", "saved [b]").out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["away"], "no such folder: away"),
        (["saved", "--steps", "7"], "saved has no checkpoint at step 7; there is: 0, 1, 4"),
        ([], "the following arguments are required: trajectory; see circuit-econ audit --help"),
        (["saved", "--fast"], "unrecognized arguments: --fast; see circuit-econ audit --help"),
        (["Nobody/nothing", "--steps", "0"], "there is no folder Nobody/nothing, and on the hub"),
    ],
)
def test_audit_refuses_in_one_line(run: Terminal, arguments: list[str], reason: str) -> None:
    answer = run("audit", *arguments)
    assert answer.code == 2
    assert answer.reason.startswith(reason)


# report.


def test_report_of_one_and_of_two_runs(run: Terminal) -> None:
    for out, steps in (("one", "[0,1]"), ("two", "[1,4]")):
        assert run("walk", *WALK, f"out={out}", f"trajectory.steps={steps}").code == 0
    page = run.folder / "one/report.html"
    page.unlink()
    answer = run("report", "one")
    assert answer.code == 0 and answer.out.strip() == str(Path("one/report.html"))
    alone = page.read_text()
    answer = run("report", "one", "two", "--output", "both.html")
    assert answer.code == 0 and answer.out.strip() == "both.html"
    both = (run.folder / "both.html").read_text()
    assert "two" not in alone.split("<title>")[1].split("</title>")[0] and len(both) > len(alone)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["away"], "no ledger in 'away': run.yaml is missing; name the folder a walk wrote"),
        (["saved"], "no ledger in 'saved': run.yaml is missing"),
        ([], "the following arguments are required: RUN; see circuit-econ report --help"),
    ],
)
def test_report_refuses_in_one_line(run: Terminal, arguments: list[str], reason: str) -> None:
    answer = run("report", *arguments)
    assert answer.code == 2
    assert answer.reason.startswith(reason)


def test_a_task_with_options_is_walked(run: Terminal) -> None:
    answer = run(
        "walk", *SAVED, *SMALL, *CHEAP, "evaluation=task", "evaluation.name=induction",
        "evaluation.vocabulary=30", "evaluation.options.longest=5",
        "evaluation.options={shortest:3}", "out=done",
        "trajectory.steps=last",
    )  # fmt: skip
    assert answer.code == 0
    options = ce.open_ledger("done").run["configuration"]["evaluation"]["options"]
    assert options == {"shortest": 3, "longest": 5}


def test_a_measure_may_be_given_without_a_list(run: Terminal) -> None:
    answer = run("walk", *SAVED, *TEXT, *SMALL, "measure=attention", "baselines=zero", "out=done")
    assert answer.code == 0
    ledger = ce.open_ledger("done")
    assert ledger.table("attention").select(pl.len()).collect().item() > 0
    assert "value" not in ledger.tables

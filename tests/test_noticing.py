"""What was measured is what is there: changed checkpoints, changed settings, other places."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import CASE, WALK, Terminal
from walked import part, rows, save, walk

import circuit_econ as ce
from circuit_econ.measures import MEASURES
from circuit_econ.noticing import stamp


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run that was walked into ``out``."""
    folder = save(tmp_path / "saved")
    walk(folder, tmp_path / "out", measures=["value", "attention"])
    return folder


def change(saved: Path, step: int = 1) -> None:
    """Put other weights in the place of a checkpoint."""
    CASE.save(saved, step, seed=77)


def times(out: Path) -> dict[str, int]:
    """When the parts of measures were written."""
    found = [p for t in ("value", "attention") for p in (out / "ledger" / t).rglob("*.parquet")]
    return {str(p): p.stat().st_mtime_ns for p in found}


CHANGED = r"step 1 changed since it was measured: its digest was \w+ and is \w+ now; restore .*"


def test_a_checkpoint_that_changed_stops_the_walk_and_is_measured_again_if_asked(
    saved: Path,
) -> None:
    out = saved.parent / "out"
    before, written = rows(ce.open_ledger(out)), times(out)
    change(saved)
    with pytest.raises(ce.LedgerError, match=CHANGED + r"--remeasure 1 \(remeasure=\[1\]"):
        walk(saved, out)
    assert rows(ce.open_ledger(out)) == before and times(out) == written
    # Of measures that are not asked for now, old numbers would stay beside new ones: they go, too.
    ledger = walk(saved, out, remeasure=[1])
    fresh = walk(saved, saved.parent / "fresh", measures=["value", "attention"])
    assert rows(ledger) == rows(fresh) != before
    assert ledger.steps("attention") == [0, 4]
    assert not part(out, "attention", 1).exists()
    assert {k: v for k, v in times(out).items() if "0001/" not in k} == {
        k: v for k, v in written.items() if "0001/" not in k
    }
    again = walk(saved, out, measures=["value", "attention"])
    assert rows(again, "attention") == rows(fresh, "attention")


def test_a_measure_that_is_added_is_not_taken_of_other_weights(saved: Path) -> None:
    out = saved.parent / "out"
    stat = (saved / "step_1.safetensors").stat()
    change(saved)
    os.utime(saved / "step_1.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rows(walk(saved, out)) == rows(ce.open_ledger(out))  # same size and time: not read
    with pytest.raises(ce.LedgerError, match=CHANGED):
        walk(saved, out, measures=["value", "composition"])
    assert ce.open_ledger(out).steps("composition") == [0]


def test_files_that_were_only_touched_are_read_once_and_measure_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = saved.parent / "out"
    before, written = rows(ce.open_ledger(out), "checkpoints"), times(out)
    for file in saved.glob("*.safetensors"):
        os.utime(file)
    read: list[str] = []
    from circuit_econ.trajectory import folders

    original = folders.read_tensors

    def counted(path: Path, *others: Any) -> Any:
        read.append(path.name)
        return original(path, *others)

    monkeypatch.setattr(folders, "read_tensors", counted)
    for _ in range(2):
        assert rows(walk(saved, out), "checkpoints") == before and times(out) == written
    assert sorted(read) == ["step_0.safetensors", "step_1.safetensors", "step_4.safetensors"]


def test_a_checkpoint_that_failed_halfway_and_was_replaced_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, out = save(tmp_path / "saved"), tmp_path / "out"

    def fails(context: Any, settings: Any) -> Any:
        raise ZeroDivisionError

    both = {"measures": ["value", "attention"]}
    monkeypatch.setitem(MEASURES, "attention", replace(MEASURES["attention"], run=fails))
    assert walk(saved, out, **both).steps("value") == [0, 1, 4]
    monkeypatch.undo()
    change(saved)
    assert rows(walk(saved, out, **both)) == rows(walk(saved, tmp_path / "fresh", **both))


def test_a_step_to_measure_again_exists(saved: Path) -> None:
    with pytest.raises(ce.ConfigurationError, match="no checkpoint at step 3; there is: 0, 1, 4"):
        walk(saved, saved.parent / "out", remeasure=[3])


# The identity of a run.


def test_another_activation_is_another_run(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "act_fn": "relu"}))
    with pytest.raises(
        ce.LedgerError, match=r"model.activation: 'gelu' there, 'relu' asked for; choose another"
    ):
        walk(saved, saved.parent / "out")


def test_other_weights_to_start_from_are_another_run(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "initializer_range": 0.5}))
    with pytest.raises(ce.LedgerError, match=r"model.initializer_range: None there, 0.5 asked"):
        walk(saved, saved.parent / "out")


def test_what_says_nothing_of_the_function_is_no_other_run(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "model_name": "renamed"}))
    walk(saved, saved.parent / "out")


def test_the_same_relative_path_elsewhere_is_another_run(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(saved, tmp_path / "elsewhere" / "saved")
    monkeypatch.chdir(tmp_path)
    walk(Path("saved"), out)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ce.LedgerError, match=r"trajectory: '/.*/saved' there, '/.*/elsewhere/save"):
        walk(Path("saved"), out)


def test_another_version_of_a_measure_is_another_run(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = replace(MEASURES["value"], version=MEASURES["value"].version + 1)
    monkeypatch.setitem(MEASURES, "value", raised)
    with pytest.raises(ce.LedgerError, match=r"measures.value.version: 1 there, 2 asked for"):
        walk(saved, saved.parent / "out")
    assert walk(saved, saved.parent / "out", measures=["attention"]).steps("attention")


def test_stamps(tmp_path: Path) -> None:
    CASE.save(tmp_path, 3, seed=1)
    file = tmp_path / "step_3.safetensors"
    first = stamp(str(file))
    assert first == stamp(str(file)) is not None and stamp(str(tmp_path)) is not None
    os.utime(file, ns=(0, 0))
    assert stamp(str(file)) != first
    assert stamp("owner/name@step3") == "owner/name@step3"
    assert stamp(str(tmp_path / "gone")) is None and stamp("\0") is None


# The command line.


def test_remeasure_on_the_command_line(run: Terminal) -> None:
    assert run("walk", *WALK, "out=out").code == 0
    identity = ce.open_ledger(run.folder / "out").run["identity"]
    assert len(identity["evaluation"]["tokenizer"]) == 64  # a digest
    assert identity["trajectory"] == str((run.folder / "saved").resolve())
    for step in (1, 4):
        change(run.folder / "saved", step)
    answer = run("walk", *WALK, "out=out", "--remeasure", "2")
    assert answer.code == 2 and "has no checkpoint at step 2" in answer.err
    answer = run("walk", *WALK, "out=out", "--remeasure", "x")
    assert answer.code == 2 and "argument --remeasure: invalid int value: 'x'" in answer.reason
    answer = run("walk", "--remeasure", "1", *WALK, "out=out")
    assert answer.code == 2 and "step 4 changed since it was measured" in answer.err
    answer = run("walk", *WALK, "--remeasure=4", "--remeasure=1", "out=out")
    assert answer.code == 0
    values = ce.open_ledger(run.folder / "out").table("value").collect()
    same = [values.filter(step=step).drop("step").rows() for step in (1, 4)]
    assert same[0] == same[1]  # both are that model now

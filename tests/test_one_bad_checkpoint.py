"""One bad checkpoint never stops a run: whatever is raised is its failure, and is never lost."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zoo
from commands import WALK, Terminal
from safetensors.torch import load_file, save_file
from walked import data, rows, save, walk

import circuit_econ as ce
from circuit_econ import pipeline
from circuit_econ.measures import MEASURES
from circuit_econ.measures.value import VALUE
from circuit_econ.model import Model, Source
from circuit_econ.trajectory import folders
from circuit_econ.trajectory.record import Checkpoint

BAD = 1


class Panic(BaseException):
    """As compiled code raises it: no ``Exception``."""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "saved")


def is_bad(thing: Any) -> bool:
    """Whether something is of the bad checkpoint, by its path or step."""
    return f"step_{BAD}." in str(getattr(thing, "origin", thing)) or (
        getattr(thing, "step", None) == BAD
    )


def spoil(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException) -> None:
    """Have a function raise for the bad checkpoint alone."""
    original = getattr(owner, name)

    def spoilt(*args: Any, **named: Any) -> Any:
        if any(map(is_bad, args)):
            raise error
        return original(*args, **named)

    monkeypatch.setattr(owner, name, staticmethod(spoilt) if owner is Model else spoilt)


def reading(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    spoil(monkeypatch, folders, "read_tensors", error)


def describing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    from circuit_econ.trajectory import ahead

    spoil(monkeypatch, ahead, "describe", error)


def making(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    spoil(monkeypatch, Model, "from_source", error)


def proving(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    spoil(monkeypatch, pipeline, "model_identity", error)


def measuring(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(context: Any, settings: Any) -> Any:
        if context.step == BAD:
            raise error
        return VALUE.run(context, settings)

    spoilt = replace(VALUE, run=run)
    monkeypatch.setitem(MEASURES, "value", spoilt)


def writing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    original = pl.DataFrame.write_parquet

    def spoilt(self: pl.DataFrame, *args: Any, **named: Any) -> None:
        if "placebo" in self.columns and self["step"][0] == BAD:
            raise error
        original(self, *args, **named)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", spoilt)


PLACES = (reading, describing, making, proving, measuring, writing)


@pytest.mark.parametrize("place", PLACES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("raised", [TypeError, Panic], ids=lambda e: e.__name__)
def test_whatever_is_raised_is_recorded_with_its_place(
    saved: Path,
    place: Callable[[pytest.MonkeyPatch, BaseException], None],
    raised: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place(monkeypatch, raised("nobody\nforesaw this"))
    with caplog.at_level(logging.DEBUG, "circuit_econ"):
        ledger = walk(saved, saved.parent / "out")
    found = ledger.table("checkpoints").collect()
    assert found["status"].to_list() == ["measured", "failed", "measured"]
    reason = found["reason"][1]
    assert reason.startswith(f"{raised.__name__}: nobody (circuit_econ/"), reason
    assert reason.endswith(")") and ".py:" in reason
    traces = [r for r in caplog.records if r.exc_info and r.exc_info[0] is raised]
    assert len(traces) == 1 and traces[0].levelno == logging.DEBUG
    # Once nothing is raised any more, that checkpoint alone is left to do.
    monkeypatch.undo()
    mended = walk(saved, saved.parent / "out")
    assert rows(mended) == rows(walk(saved, saved.parent / "fresh"))
    assert mended.table("checkpoints").collect()["status"].to_list() == ["measured"] * 3


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 B")],
)
def test_too_little_memory_says_what_to_do(
    saved: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, error)
    found = walk(saved, saved.parent / "out").table("checkpoints").collect()
    assert found["status"].to_list() == ["measured", "failed", "measured"]
    assert "give measuring less with device.memory=GB" in found["reason"][1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_asks_the_program_to_end_does(
    saved: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, error())
    with pytest.raises(error):
        walk(saved, saved.parent / "out")
    assert ce.open_ledger(saved.parent / "out").steps("value") == [0]


def test_after_a_disagreement_every_checkpoint_is_proven_on_its_own(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuit_econ.model import check

    proven: list[str] = []
    original = check.check_against_bridge

    def spoilt(source: Source, *args: Any) -> float:
        proven.append(Path(source.origin).stem)
        if source.origin.endswith("step_0.safetensors"):
            raise ce.DisagreementError("our loss is 1 and that of the bridge 2")
        return original(source, *args)

    monkeypatch.setattr("circuit_econ.proving.check_against_bridge", spoilt)
    found = walk(saved, saved.parent / "out").table("checkpoints").collect()
    assert found["status"].to_list() == ["failed", "measured", "measured"]
    assert found["reason"][0] == "our loss is 1 and that of the bridge 2"
    assert proven == ["step_0", "step_1", "step_4"]


def test_weights_that_overflow_fail_alone_and_the_page_and_the_graph_go_on(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved / f"step_{BAD}.safetensors"
    save_file({k: v * 1e25 for k, v in load_file(file).items()}, file)
    ledger = walk(saved, saved.parent / "out", measures=["value", "capacity", "income"])
    found = ledger.table("checkpoints").collect()
    assert found["status"].to_list() == ["measured", "failed", "measured"]
    assert {row[0] for row in rows(ledger, "flows")} == {0, 4}
    page = ce.write_page([ledger], saved.parent / "page.html")
    assert found["reason"][1][:20] in page.read_text(encoding="utf-8")
    assert ce.composition_graph(ledger, 4).number_of_edges() > 0


def test_what_only_some_measures_could_measure_is_shown(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuit_econ.measures.circuits import CIRCUITS

    def run(context: Any, settings: Any) -> Any:
        if context.step == BAD:
            raise ZeroDivisionError("division by zero")
        return CIRCUITS.run(context, settings)

    monkeypatch.setitem(MEASURES, "circuits", replace(CIRCUITS, run=run))
    few = {"circuits": ce.CircuitSettings(untrained=5)}
    ledger = walk(saved, saved.parent / "out", measures=["circuits"], settings=few)
    found = ledger.table("checkpoints").collect()
    assert found["status"].to_list() == ["measured", "failed", "measured"]
    assert found["reason"][1].startswith("ZeroDivisionError: division by zero (circuit_econ/")
    assert ledger.steps("circuit_events") == ledger.steps("counted") == [0, 4]
    assert ce.write_page([ledger], saved.parent / "page.html").is_file()


def test_all_may_fail(run: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (run.folder / "saved").glob("*.safetensors"):
        file.write_bytes(b"none of them")
    answer = run("walk", *WALK, "out=all")
    assert answer.code == 1
    assert answer.out.startswith("None of 3 checkpoints could be measured.")
    assert (run.folder / "all/report.html").is_file()


def test_a_step_no_table_can_hold_is_refused(saved: Path) -> None:
    run = ce.open_trajectory(saved)
    beyond = replace(run, checkpoints=(*run.checkpoints, Checkpoint(2**63, None, "step2e63")))
    with pytest.raises(ce.ConfigurationError, match="step2e63: 9223372036854775808 is no step"):
        ce.walk(beyond, data(), ["value"], out=saved.parent / "out", device="cpu")


def test_one_configuration_that_differs_fails_by_name_even_if_it_is_the_first(
    tmp_path: Path,
) -> None:
    case = zoo.case_named("gpt2")
    for step in (0, 1, 2):
        case.save(tmp_path / "run", step, seed=step)
    file = next((tmp_path / "run").glob("*[!0-9]0/config.json"), None)
    assert file is not None
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "activation_function": "relu"}))
    tokens = zoo.tokens_of(case, 4, seed=1)
    ledger = ce.walk(
        ce.open_trajectory(tmp_path / "run"), ce.Evaluation(tokens), ["value"],
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    found = ledger.table("checkpoints").collect()
    assert found["status"].to_list() == ["failed", "measured", "measured"]
    assert "its configuration is not that of the run" in found["reason"][0]
    assert "activation: 'gelu_tanh' there, 'relu' here" in found["reason"][0]


# The command line.


def test_a_bug_is_told_in_one_line_and_debug_shows_where(
    run: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from circuit_econ.cli import main

    measuring(monkeypatch, TypeError("a bug"))
    answer = run("walk", *WALK, "out=bug")
    assert answer.code == 1 and "TypeError: a bug (circuit_econ/" in answer.err
    assert main(["walk", "--debug", *WALK, "out=bug"]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and "TypeError: a bug" in said
    monkeypatch.setattr("circuit_econ.ledger.open_ledger", lambda _: {}["no"])
    answer = run("report", "bug")
    assert answer.code == 1
    assert answer.reason.startswith("this should not happen: KeyError: 'no' (circuit_econ/cli.py:")
    assert answer.reason.endswith("; --debug shows the traceback")
    assert main(["report", "bug", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("several", [False, True])
def test_sigterm_ends_a_walk_as_an_interrupt_does(
    run: Terminal, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(context: Any, settings: Any) -> Any:
        if context.step == BAD:
            os.kill(os.getpid(), signal.SIGTERM)
        return VALUE.run(context, settings)

    spoilt = replace(VALUE, run=kill)
    monkeypatch.setitem(MEASURES, "value", spoilt)
    before = signal.getsignal(signal.SIGTERM)
    answer = run("walk", *(["-m"] if several else []), *WALK, "out=ended",
                 *(["seed=0,1"] if several else []))  # fmt: skip
    assert answer.code == 1
    assert "interrupted; what was measured is kept, and the same command goes on" in answer.err
    assert signal.getsignal(signal.SIGTERM) is before
    outs = sorted((run.folder / "ended").glob("seed=*")) if several else [run.folder / "ended"]
    assert [ce.open_ledger(out).steps("value") for out in outs] == [[0]]


def test_sigterm_is_said_though_others_stumble_while_they_clean_up(
    run: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(_path: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise ce.ConfigurationError("a library that was broken off")

    monkeypatch.setattr("circuit_econ.ledger.open_ledger", stumble)
    answer = run("report", "none")
    assert answer.code == 1
    assert answer.reason == "interrupted; what was measured is kept, and the same command goes on"

"""What a walk tells: lines in a log, a bar on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from circuit_econ.progress import Bar, Lines, Silent


def test_lines_say_what_is_done_and_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines()
    lines.every = 0
    with caplog.at_level("INFO", "circuit_econ"), lines:
        lines.training(5, 10, 2.5)
        lines.begin(3, 2)
        lines.checkpoint(7)
        lines.fraction("value", 0.5)
        lines.measured(7)
        lines.failed(9, "tensor is missing")
        lines.finding(7, "nan", "embed.W_E", "2 values")
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "training: step 5 of 10, loss 2.500"
    assert said[1] == "3 checkpoints, 2 to measure"
    assert said[2].startswith("step 7: value, 50 % of this checkpoint, about 0 s left")
    assert said[3] == "step 7 measured (1 of 2), about 0 s left"
    assert said[4] == "step 9 not measured: tensor is missing"
    assert said[5] == "audit, step 7: nan (embed.W_E): 2 values"
    assert lines.done == 2


def test_lines_are_quiet_in_between(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines()
    with caplog.at_level("INFO", "circuit_econ"):
        lines.begin(1, 1)
        lines.checkpoint(0)
        lines.fraction("value", 0.5)
        lines.training(1, 10, 2.0)
    assert len(caplog.records) == 1


def test_a_bar_names_the_checkpoint_and_the_measure() -> None:
    screen = io.StringIO()
    bar = Bar(Console(file=screen, force_terminal=True, width=100))
    bar.training(1, 4, 3.25)
    bar.bars.refresh()
    bar.training(4, 4, 3.0)
    bar.begin(2, 2)
    with bar:
        bar.checkpoint(16)
        bar.fraction("value", 0.5)
        bar.bars.refresh()
        bar.measured(16)
    shown = screen.getvalue()
    assert "training, loss 3.250" in shown
    assert "step 16: value" in shown and "25 %" in shown


def test_nothing_is_shown_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    silent = Silent()
    with caplog.at_level("INFO", "circuit_econ"), silent:
        silent.begin(1, 1)
        silent.checkpoint(0)
        silent.fraction("value", 1.0)
        silent.measured(0)
    assert not caplog.records
    silent.failed(0, "no")
    assert silent.done == 2

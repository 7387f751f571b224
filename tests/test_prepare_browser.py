"""Where the browser for the page comes from, and what is said where there is none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import conftest
import prepare_browser
import pytest


def program(folder: Path, name: str) -> Path:
    """An empty program on a path of its own."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a browser: nothing on the path, nothing of playwright's."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CIRCUIT_ECON_CHROMIUM", raising=False)
    monkeypatch.setattr(prepare_browser, "_of_playwright", lambda: None)
    return tmp_path / "bin"


def test_what_is_there_is_taken(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(command: Sequence[str]) -> bool:
        raise AssertionError(command)

    found = program(empty, "chromium-browser")
    assert prepare_browser.prepare(nothing) == str(found)
    other = program(empty, "brave")
    monkeypatch.setenv("CIRCUIT_ECON_CHROMIUM", str(other))
    assert prepare_browser.prepare(nothing) == str(other)
    # Another browser than the one named is not what was asked for.
    monkeypatch.setenv("CIRCUIT_ECON_CHROMIUM", str(empty / "away"))
    assert prepare_browser.prepare(nothing) is None


def test_debians_is_installed_where_apt_may(empty: Path) -> None:
    called: list[list[str]] = []
    program(empty, "apt-get")

    def apt(command: Sequence[str]) -> bool:
        called.append(list(command))
        if "install" in command:
            program(empty, "chromium")
        return True

    assert prepare_browser.prepare(apt) == str(empty / "chromium")
    assert [c[-2:] for c in called] == [["update", "-qq"], ["-qq", "chromium"]]
    assert called[0][:2] == (["apt-get", "update"] if os.geteuid() == 0 else ["sudo", "-n"])


def test_playwrights_own_is_next_and_then_there_is_none(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    program(empty, "apt-get")

    def refused(command: Sequence[str]) -> bool:
        called.append(list(command))
        return False

    assert prepare_browser.prepare(refused) is None
    assert called[-1][1:] == ["-m", "playwright", "install", "chromium"]
    assert not any("install" in c and "apt-get" in c for c in called)

    def brought(command: Sequence[str]) -> bool:
        if "playwright" in command:
            monkeypatch.setattr(prepare_browser, "_of_playwright", lambda: "/of/playwright")
        return "playwright" in command

    assert prepare_browser.prepare(brought) == "/of/playwright"


def test_one_line_says_how_to_do_without(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(prepare_browser.__file__))],
        env={**os.environ, "CIRCUIT_ECON_CHROMIUM": str(tmp_path / "away")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.splitlines() == [prepare_browser.WITHOUT]
    assert "BROWSER=no" in prepare_browser.WITHOUT


def test_tests_that_open_the_page_are_marked() -> None:
    class Item:
        def __init__(self, *fixtures: str) -> None:
            self.fixturenames, self.marks = fixtures, list[str]()

        def add_marker(self, name: str) -> None:
            self.marks.append(name)

    items = [Item("opened", "browser"), Item("tmp_path"), Item()]
    conftest.pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    assert [item.marks for item in items] == [["browser"], [], []]

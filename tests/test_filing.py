"""Files of our own: where they cannot be written one line says so, and nothing else gives way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from traded_runs import trading_run

from circuit_econ.cli import main
from circuit_econ.filing import HeldError, held, put, read_text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traded")
    trading_run(folder, layers=1, heads=1, steps=[0, 1], baselines=["mean"])
    return folder


PLACES = {
    "": "it names no file",
    "/": "it names no file",
    "folder": "a folder is there",
    "pipe": "what is there is no file",
    "file/below": "NotADirectoryError|FileExistsError",
    "a\0b": "null byte",
    "x" * 300: "File name too long",
    "/".join(["d" * 200] * 30): "File name too long",
}


@pytest.mark.parametrize("place", PLACES, ids=lambda p: p[:12].replace("\0", "0") or "nothing")
@pytest.mark.parametrize(
    "verb",
    [["report"], ["export", "--format", "json"], ["export", "--format", "gexf", "--step", "all"]],
    ids=["page", "graph", "timeline"],
)
def test_places_that_no_file_can_be_written_to(
    run: Path,
    verb: list[str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    assert main([verb[0], str(run), *verb[1:], "--output", place]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("circuit-econ: cannot write "), said
    assert any(why in said[0] for why in PLACES[place].split("|")), said
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "pipe"]


def test_folders_of_tables_in_the_place_of_a_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    place = str(tmp_path / "file")
    for more in (["csv"], ["dot", "--step", "all"]):
        assert main(["export", str(run), "--format", *more, "--output", place]) == 2
        assert "choose another --output (" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_leaves_what_was_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "graph.json").write_text("the old one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    place = str(tmp_path / "graph.json")
    assert main(["export", str(run), "--format", "json", "--output", place]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["graph.json"]
    assert (tmp_path / "graph.json").read_text() == "the old one"


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_text(tmp_path / "pipe")
    (tmp_path / "long").write_text("x" * 11)
    with pytest.raises(OSError, match="11 bytes, where at most 10 make sense"):
        read_text(tmp_path / "long", 10)
    with pytest.raises(OSError, match="what is there is no file"):
        put(lambda file: file.write_text("x"), tmp_path / "pipe")


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted(file: Path) -> None:
        file.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put(interrupted, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        held(tmp_path / "lock", "this", wait=False),
        pytest.raises(HeldError, match="this is held by another process"),
        held(tmp_path / "lock", "this", wait=False),
    ):
        pass

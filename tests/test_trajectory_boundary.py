"""The edge to files from anywhere: nothing waits for ever, nothing is read past reason."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from trajectory_folders import checkpoint, run

from circuit_econ.errors import CheckpointError, ConfigurationError
from circuit_econ.trajectory import open_trajectory
from circuit_econ.trajectory.boundary import JSON_BYTES, read_json


def said(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    return str(caught.value)


def a_pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a named pipe, not a regular file, and is not opened; put the file itself there"


def a_socket(path: Path) -> str:
    # The address of a socket is short: it is bound from inside the folder.
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)
    return "is a socket, not a regular file, and is not opened; put the file itself there"


def a_device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "is a character device, not a regular file, and is not opened; put the file itself there"


def a_folder(path: Path) -> str:
    path.mkdir()
    return "is a folder, not a regular file, and is not opened; put the file itself there"


def a_circle(path: Path) -> str:
    path.symlink_to(path)
    return "cannot be read (Too many levels of symbolic links); copy, download or save it again"


def a_dead_link(path: Path) -> str:
    path.symlink_to("nowhere")
    return "cannot be read (No such file or directory); copy, download or save it again"


SPECIAL = (a_pipe, a_socket, a_device, a_folder, a_circle, a_dead_link)


@pytest.mark.parametrize("make", SPECIAL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_special_files_fail_by_name_and_leave_the_others(
    tmp_path: Path, make: Callable[[Path], str], name: str
) -> None:
    run(tmp_path)
    path = tmp_path / "checkpoint-1" / name
    path.unlink()
    reason = make(path)
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (0, 1, 2)
    if (make, name) == (a_dead_link, "config.json"):
        reason = "is missing; put the one saved with the weights there"
    assert said(lambda: trajectory.read(1)) == f"{path} {reason}"
    assert trajectory.bytes(1) is None or name == "config.json"
    assert trajectory.read(2).tensors


@pytest.mark.parametrize("make", SPECIAL, ids=lambda make: make.__name__)
def test_special_files_of_their_own_step(tmp_path: Path, make: Callable[[Path], str]) -> None:
    (tmp_path / "config.json").write_text('{"n_layers": 1}')
    checkpoint(tmp_path / "made").joinpath("model.safetensors").rename(
        tmp_path / "step_1.safetensors"
    )
    path = tmp_path / "step_2.pt"
    reason = make(path)
    trajectory = open_trajectory(tmp_path)
    assert trajectory.read(1).tensors
    if make is a_folder:  # a folder of that name is no file, and holds no weights
        assert trajectory.steps == (1,)
        return
    assert trajectory.steps == (1, 2)
    assert said(lambda: trajectory.read(2)) == f"{path} {reason}"


def test_a_checkpoint_folder_that_is_a_circle_fails_alone(tmp_path: Path) -> None:
    run(tmp_path, (0, 1))
    (tmp_path / "checkpoint-2").symlink_to("checkpoint-2")
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (0, 1, 2)
    assert "(Too many levels of symbolic links)" in said(lambda: trajectory.read(2))
    assert trajectory.bytes(2) is None


def test_a_folder_that_may_not_be_entered_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: the user of a test run may be allowed everything."""
    run(tmp_path, (0, 1))
    plain = os.stat

    def guarded(path: object, *arguments: object, **options: object) -> object:
        if f"checkpoint-1{os.sep}" in str(path):
            raise PermissionError(13, "Permission denied")
        return plain(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "stat", guarded)
    monkeypatch.setattr(os, "lstat", lambda path: guarded(path, follow_symlinks=False))
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (0, 1)
    path = tmp_path / "checkpoint-1" / "config.json"
    assert said(lambda: trajectory.read(1)) == (
        f"{path} cannot be read (Permission denied); check its permissions"
    )
    assert trajectory.read(0).tensors


# JSON


def test_json_has_a_size(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10 << 30)  # takes no room on the disk
    assert said(lambda: read_json(path)) == (
        f"{path} has {10 << 30} bytes, and at most {JSON_BYTES} of JSON are read; copy, download "
        "or save it again"
    )


@pytest.mark.parametrize("depth", [40, 900, 100_000])
def test_json_has_a_depth(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": ' + "[" * depth + "]" * depth + "}")
    assert said(lambda: read_json(path)).startswith(f"{path} is not JSON (")
    path.write_text('{"a": ' + "[" * 20 + "]" * 20 + "}")
    assert read_json(path).keys() == {"a"}


def test_json_with_a_mark_and_without_text(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}\r\n')
    assert read_json(path) == {"a": 1}
    path.write_text(json.dumps({"a": "\ud800"}))
    assert said(lambda: read_json(path)).startswith(f"{path} is not JSON (UnicodeEncodeError: ")
    path.write_text('{"a": ' + "9" * 5000 + "}")
    assert said(lambda: read_json(path)).startswith(f"{path} is not JSON (ValueError: Exceeds the")


# Paths


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\ud800", "~nobody-of-that-name/run"])
def test_what_is_no_path(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_trajectory(name)
    assert str(caught.value).isprintable()


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Linux takes any bytes for a name; tables and terminals do not."""
    folder = tmp_path / os.fsdecode(b"run-\xff")
    run(folder, (3,))
    trajectory = open_trajectory(folder)
    assert trajectory.name == "run-\\udcff"
    assert trajectory.checkpoint(3).origin.encode().endswith(b"run-\\udcff/checkpoint-3")
    assert "is not valid UTF-8" in said(lambda: trajectory.read(3))  # safetensors' own limit

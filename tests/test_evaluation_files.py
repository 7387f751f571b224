"""Files of text: one way of decoding, every real file once, nothing that cannot be opened."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.evaluation import files as files_module
from circuit_econ.evaluation.documents import DatasetSource, FileSource, TextSource
from circuit_econ.evaluation.parquet import uncompressed

DOCUMENT = "Une ligne é,\u2028and\x85another\nof text ☃.\n"


def _error(path: Path | str, field: str = "text") -> str:
    with pytest.raises(ConfigurationError) as error:
        FileSource(path, field).read()
    return str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_is_the_same_however_it_is_written(tmp_path: Path, encoding: str, end: str) -> None:
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in (DOCUMENT, "second")]
    (tmp_path / "a.txt").write_bytes(DOCUMENT.replace("\n", end).encode(encoding))
    (tmp_path / "a.jsonl").write_bytes((end.join(rows) + end).encode(encoding))
    assert FileSource(tmp_path / "a.txt").read().texts == [DOCUMENT]
    assert FileSource(tmp_path / "a.jsonl").read().texts == [DOCUMENT, "second"]


@pytest.mark.parametrize("written", ["\ufeff" + DOCUMENT, DOCUMENT.replace("\n", "\r\n")])
def test_values_inside_rows_follow_the_same_rule(tmp_path: Path, written: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": written}))
    pl.DataFrame({"text": [written]}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text(json.dumps({"text": written}))
    for source in (
        FileSource(tmp_path / "a.jsonl"),
        FileSource(tmp_path / "a.parquet"),
        TextSource(written),
        DatasetSource(str(tmp_path / "data")),
    ):
        assert source.read().texts == [DOCUMENT]


def test_marks_of_joined_files_are_no_text(tmp_path: Path) -> None:
    row = json.dumps({"text": "a"}).encode("utf-8-sig")
    (tmp_path / "a.jsonl").write_bytes(row + b"\n\n" + row)
    assert FileSource(tmp_path / "a.jsonl").read().texts == ["a", "a"]


def _folder(root: Path) -> Path:
    """A folder with links to a file, to a folder beside it, back to itself and to nothing."""
    for name, text in {
        "data/b.txt": "own",
        "data/z/c.txt": "inner",
        "beside/d.txt": "linked",
        "beside/deeper/e.TXT": "linked deeper",
        "alone.txt": "linked file",
        "data/notes.md": "left out",
        "data/z/README": "left out",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, target in {
        "data/a": "z",
        "data/part": "../beside",
        "data/again": "../beside/deeper",
        "data/f.txt": "../alone.txt",
        "data/z/back": "..",
        "data/gone.txt": "nowhere",
        "beside/deeper/up": "../../data",
        "data/loop.txt": "loop.txt",
    }.items():
        (root / name).symlink_to(target)
    return root / "data"


def test_links_are_followed_and_each_real_file_is_read_once(tmp_path: Path) -> None:
    read = FileSource(_folder(tmp_path)).read()
    # In the order of the paths; what lies in the folder itself keeps its own.
    assert read.texts == ["linked deeper", "own", "linked file", "linked", "inner"]
    assert read.description["files"] == 5
    assert read.files_left_out == {".md": 1, "links that lead nowhere": 2, "without suffix": 1}


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _folder(tmp_path)
    (folder / "long.txt").write_text("".join(f"{i:06d}" for i in range(2000)))
    wanted: dict[str, Any] = {"length": 16, "sequences": 4, "reference_sequences": 4}
    evaluation = Evaluation.from_file(folder, **wanted)
    assert evaluation.description["left_out"]["files"] == {
        ".md": 1,
        "links that lead nowhere": 2,
        "without suffix": 1,
    }
    assert [record.getMessage() for record in caplog.records] == [
        "data: files left out: 1 .md, 2 links that lead nowhere, 1 without suffix"
    ]


def test_a_folder_that_leads_everywhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path)
    monkeypatch.setattr(files_module, "_MOST_FILES", 5)
    assert _error(folder).startswith(f"folder {folder} leads to more than 5 files, the last being")


def test_special_files_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    own = socket.socket(socket.AF_UNIX)
    own.bind(str(tmp_path / "socket.jsonl"))
    own.close()
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    assert _error(tmp_path / "pipe.txt") == (
        f"cannot read {tmp_path}/pipe.txt: it is a named pipe, no regular file"
    )
    assert _error(tmp_path / "socket.jsonl").endswith("it is a socket, no regular file")
    assert _error(tmp_path / "device.txt").endswith("it is a device, no regular file")
    (tmp_path / "a.txt").write_text("text")
    read = FileSource(tmp_path).read()
    assert read.texts == ["text"]
    assert read.files_left_out == {"devices": 1, "pipes": 1, "sockets": 1}
    with pytest.raises(ConfigurationError, match=r"pipe\.txt is a named pipe, no regular file;"):
        (tmp_path / "device.txt").unlink()
        (tmp_path / "socket.jsonl").unlink()
        DatasetSource(str(tmp_path)).read()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{here}/loop.txt", "cannot read {here}/loop.txt (OSError: "),
        ("{here}/a\0.txt", "cannot read {here}/a\\x00.txt (ValueError: embedded null byte)"),
        ("{here}/" + "a" * 260 + ".txt", "cannot read {here}/aaa"),
        ("~nobody-of-that-name/a.txt", "cannot read ~nobody-of-that-name/a.txt (RuntimeError: "),
        (
            "{here}/sub.txt",
            "folder {here}/sub.txt holds none of .txt, .jsonl, .parquet; there is: 1",
        ),
    ],
)
def test_paths_that_no_file_system_takes(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "sub.txt").mkdir()
    (tmp_path / "sub.txt/a.md").touch()
    assert _error(path.format(here=tmp_path)).startswith(message.format(here=tmp_path))


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_a_path_is_no_pattern(tmp_path: Path, suffix: str) -> None:
    for folder, text in (("seed=[0]", "right"), ("seed=0", "wrong")):
        path = tmp_path / folder / f"a*{suffix}"
        path.parent.mkdir()
        if suffix == ".parquet":
            pl.DataFrame({"text": [text]}).write_parquet(path)
        else:
            path.write_text(text if suffix == ".txt" else json.dumps({"text": text}))
    assert FileSource(tmp_path / "seed=[0]" / f"a*{suffix}").read().texts == ["right"]


def test_more_text_than_fits_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(2**40)
    assert _error(tmp_path / "sparse.txt") == (
        f"{tmp_path}/sparse.txt has 1099512 MB, and at most 537 MB of text are read; an evaluation"
        " set needs a few MB: give a part of it"
    )
    monkeypatch.setattr(files_module, "MOST_TEXT", 100_000)
    monkeypatch.setattr("circuit_econ.evaluation.documents.MOST_TEXT", 100_000)
    large, repeated = tmp_path / "large.parquet", tmp_path / "repeated.parquet"
    pl.DataFrame({"text": ["a" * 200_000], "id": [1]}).write_parquet(large)
    pl.DataFrame({"text": ["a" * 1000] * 3000, "id": 1}).write_parquet(repeated)
    assert max(large.stat().st_size, repeated.stat().st_size) < 5000
    with large.open("rb") as file:
        assert uncompressed(file, "text") > 200_000
    with repeated.open("rb") as file:
        # Kept as one value and 3,000 times its number.
        assert 48_000 < uncompressed(file, "text") < 100_000
    assert _error(large).startswith(f"column 'text' of {large} would take 0 MB, and at most 0 MB")
    assert _error(repeated).startswith(f"column 'text' of {repeated} has 3 MB, and at most 0 MB")
    for name in "ab":
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / f"many/{name}.txt").write_text("x" * 60_000)
    assert _error(tmp_path / "many").startswith(f"{tmp_path}/many has more, and at most")
    monkeypatch.setattr(files_module, "_LONGEST_LINE", 10)
    (tmp_path / "a.jsonl").write_text('{"a": []}\n{"a": [], "b": []}')
    assert _error(tmp_path / "a.jsonl", "a").startswith(f"{tmp_path}/a.jsonl, line 1: field 'a'")
    (tmp_path / "a.jsonl").write_text('{"a": ""}\n{"a": [], "b": []}')
    assert _error(tmp_path / "a.jsonl", "a") == (
        f"{tmp_path}/a.jsonl, line 2: 18 characters, and at most 10 are read as one row"
    )


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["a", "b"]), pl.Null])
def test_text_under_other_names_is_text(tmp_path: Path, kind: Any) -> None:
    values = [None, None] if kind == pl.Null else ["a", None]
    pl.DataFrame({"text": pl.Series(values, dtype=kind)}).write_parquet(tmp_path / "a.parquet")
    assert FileSource(tmp_path / "a.parquet").read().texts == [values[0] or "", ""]


def test_every_cut_of_a_parquet_file_is_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pl.DataFrame({"text": [f"row {i}" for i in range(50)]}).write_parquet(whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut.parquet"
    for end in range(0, len(content), 29):
        cut.write_bytes(content[:end])
        assert _error(cut).startswith(f"cannot read {cut}: no parquet file (")

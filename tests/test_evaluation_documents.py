"""Where documents come from."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation.documents import (
    DatasetSource,
    EmbeddedSource,
    FileSource,
    TextSource,
)


def _jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_the_embedded_text_is_in_the_order_of_its_topics() -> None:
    from pydoc_data.topics import topics

    documents = EmbeddedSource().read().texts
    assert documents == [text for _, text in sorted(topics.items())]
    assert len(documents) > 50 and sum(map(len, documents)) > 300_000


def test_text_is_one_document_or_several() -> None:
    assert TextSource("abc").read().texts == ["abc"]
    assert TextSource(("abc", "d")).read().texts == ["abc", "d"]
    with pytest.raises(ConfigurationError, match=r"^document 1 is int; give strings$"):
        TextSource(["a", 7]).read()  # type: ignore[list-item]


def test_files_of_every_kind_and_a_folder_of_them(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("plain é", encoding="utf-8")
    _jsonl(tmp_path / "a.jsonl", [{"body": "one"}, {"body": None}, {"body": "two"}])
    pl.DataFrame({"body": ["three", None]}).write_parquet(tmp_path / "c.parquet")
    (tmp_path / "ignored.bin").write_bytes(b"\xff")
    assert FileSource(tmp_path / "b.txt").read().texts == ["plain é"]
    assert FileSource(tmp_path / "a.jsonl", "body").read().texts == ["one", "", "two"]
    assert FileSource(tmp_path / "c.parquet", "body").read().texts == ["three", ""]
    every = ["one", "", "two", "plain é", "three", ""]
    assert FileSource(str(tmp_path), "body").read().texts == every


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "no such file or folder: {path}"),
        ("a.csv", b"x", "{path}: cannot read .csv; there is: .txt, .jsonl, .parquet"),
        ("a", b"x", "{path}: cannot read a file without suffix; there is: .txt, .jsonl, .parquet"),
        (
            "a.txt",
            b"two\nlines\xff",
            "cannot read {path}: byte 0xff at offset 9 (line 2) is not UTF-8 (invalid start byte);"
            " save the file as UTF-8",
        ),
        (
            "a.txt",
            b"\xff\xfea\x00\x00",
            "cannot read {path}: byte 0x00 at offset 4 (line 1) is not UTF-16 (truncated data)",
        ),
        (
            "a.txt",
            "no mark".encode("utf-16-le"),
            "cannot read {path}: character 1 is NUL, which is no text (UTF-16 needs a byte order",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"te',
            "{path}, line 2: no JSON (JSONDecodeError: Unterminated string",
        ),
        ("a.jsonl", b"[1]\n", "{path}, line 1: a row must be an object with the key 'text'"),
        (
            "a.jsonl",
            b'{"body": "a", "id": 1}\n',
            "{path}, line 1: no field 'text'; there is: body, id",
        ),
        ("a.jsonl", b'{"text": 1}\n', "{path}, line 1: field 'text' is int, not text"),
        ("a.jsonl", b"[" * 100_000, "{path}, line 1: no JSON (RecursionError: "),
        ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", "{path}, line 1: no JSON (ValueError: "),
        (
            "a.jsonl",
            b'{"text": "ab\\udc80"}',
            "{path}, line 1: character 2 is \\udc80, half of a surrogate pair, which is no text;"
            " mend the text or leave it out",
        ),
        ("a.parquet", b"no parquet", "cannot read {path}: no parquet file ("),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message.format(path=path))}"):
        FileSource(path).read()


def test_a_bad_column_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        FileSource(tmp_path).read()
    assert str(error.value) == f"folder {tmp_path} holds none of .txt, .jsonl, .parquet"
    path = tmp_path / "a.parquet"
    pl.DataFrame({"body": [1]}).write_parquet(path)
    with pytest.raises(ConfigurationError) as error:
        FileSource(path).read()
    assert str(error.value) == f"{path}: no column 'text'; there is: body"
    with pytest.raises(ConfigurationError) as error:
        FileSource(path, "body").read()
    assert str(error.value) == f"{path}: column 'body' is Int64, not text"


def test_a_dataset_is_read_up_to_the_number_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def rows() -> Any:
        for i in range(1000):
            read.append(i)
            yield {"story": f"row {i}"}

    def load(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        assert (name, config, split, streaming) == ("some/stories", "en", "validation", True)
        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = DatasetSource("some/stories", "en", "validation", "story", documents=12)
    assert source.read().texts == [f"row {i}" for i in range(12)]
    assert len(read) < 20
    assert source.read().description["documents"] == 12
    with pytest.raises(ConfigurationError, match=r"^some/stories, row 0: no field 'text'; there"):
        DatasetSource("some/stories", "en", "validation", documents=12).read()


def test_a_local_folder_is_a_dataset(tmp_path: Path) -> None:
    _jsonl(tmp_path / "train.jsonl", [{"text": f"row {i}"} for i in range(30)])
    assert DatasetSource(str(tmp_path), documents=11).read().texts == [
        f"row {i}" for i in range(11)
    ]
    with pytest.raises(ConfigurationError) as error:
        DatasetSource(str(tmp_path), split="nosuch").read()
    assert str(error.value).startswith(f"cannot read split 'nosuch' of dataset '{tmp_path}': it")


def test_a_dataset_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'some/stories' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigurationError) as error:
        DatasetSource("some/stories", "en").read()
    assert str(error.value) == (
        "cannot read split 'train' of dataset 'some/stories' (en): it must exist and the Hugging"
        " Face hub be within reach (ConnectionError: Couldn't reach 'some/stories' on the Hub)"
    )


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError) as error:
        DatasetSource("some/stories").read()
    assert str(error.value) == (
        "reading a dataset needs the package 'datasets': pip install datasets"
    )


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        DatasetSource("some/stories", documents=9)
    assert str(error.value) == "documents must be a whole number of at least 10, not 9"

"""Where documents come from: the embedded text, files and folders, Hugging Face datasets."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Final

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation.settings import check_whole

__all__ = ["DatasetSource", "EmbeddedSource", "FileSource", "TextSource"]


@dataclass(frozen=True, slots=True)
class EmbeddedSource:
    """The documentation topics inside CPython, in the order of their names."""

    kind: ClassVar[str] = "embedded"

    @property
    def title(self) -> str:
        """What an evaluation set made of it is called."""
        return self.kind

    def read(self) -> list[str]:
        """The documents."""
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]

    def describe(self) -> dict[str, Any]:
        """What was read, as plain values."""
        return {"source": self.kind, "python": platform.python_version()}


@dataclass(frozen=True, slots=True)
class TextSource:
    """Text in hand.

    Attributes:
        text: One text, or documents.
    """

    kind: ClassVar[str] = "text"
    text: str | Sequence[Any]  # what is no string is named when it is read

    @property
    def title(self) -> str:
        """What an evaluation set made of it is called."""
        return self.kind

    def read(self) -> list[str]:
        """The documents."""
        documents = [self.text] if isinstance(self.text, str) else list(self.text)
        for place, document in enumerate(documents):
            if not isinstance(document, str):
                raise ConfigurationError(
                    f"document {place} is {type(document).__name__}; give strings"
                )
        return documents

    def describe(self) -> dict[str, Any]:
        """What was read, as plain values."""
        return {"source": self.kind}


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, or the supported files of a folder in the order of their paths.

    Attributes:
        path: ``.txt`` (one document), ``.jsonl`` or ``.parquet`` (a document per row), or a folder.
        field: The key or column that holds the text.
    """

    kind: ClassVar[str] = "file"
    path: str | Path
    field: str = "text"

    @property
    def title(self) -> str:
        """What an evaluation set made of it is called."""
        return Path(self.path).name

    def read(self) -> list[str]:
        """The documents."""
        path = Path(self.path).expanduser()
        if not path.exists():
            raise ConfigurationError(f"no such file or folder: {path}")
        if path.is_dir():
            files = sorted(
                f for f in path.rglob("*") if f.suffix.lower() in _READERS and f.is_file()
            )
            if not files:
                raise ConfigurationError(f"folder {path} holds none of {', '.join(_READERS)}")
        elif path.suffix.lower() in _READERS:
            files = [path]
        else:
            raise ConfigurationError(
                f"{path}: cannot read {path.suffix or 'a file without suffix'};"
                f" there is: {', '.join(_READERS)}"
            )
        documents: list[str] = []
        for file in files:
            try:
                documents.extend(_READERS[file.suffix.lower()](file, self.field))
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"cannot read {file}: {error}") from error
        return documents

    def describe(self) -> dict[str, Any]:
        """What was read, as plain values."""
        return {"source": self.kind, "path": str(self.path), "field": self.field}


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """The first documents of a Hugging Face dataset, streamed in their own order.

    Attributes:
        name: On the hub, or a local folder.
        config: The dataset's configuration, where it has several.
        split: The dataset's split.
        field: The column that holds the text.
        documents: How many are read, at least 10. Which part a document belongs to depends on the
            documents before it alone, so reading more never moves one from a part to another.
    """

    kind: ClassVar[str] = "dataset"
    name: str
    config: str | None = None
    split: str = "train"
    field: str = "text"
    documents: int = 1000

    def __post_init__(self) -> None:
        """Fewer documents would be cut into pieces, and the parts would depend on their number."""
        check_whole(self, documents=10)

    @property
    def title(self) -> str:
        """What an evaluation set made of it is called."""
        return self.name

    def read(self) -> list[str]:
        """The documents."""
        try:
            import datasets
            from datasets.exceptions import DatasetsError
        except ImportError as error:
            raise ConfigurationError(
                "reading a dataset needs the package 'datasets': pip install datasets"
            ) from error
        try:
            stream = datasets.load_dataset(self.name, self.config, split=self.split, streaming=True)
            rows = list(islice(stream, self.documents))
        except (OSError, ValueError, DatasetsError) as error:
            raise ConfigurationError(
                f"cannot read split {self.split!r} of dataset {self.name!r}"
                f"{'' if self.config is None else f' ({self.config})'}: it must exist and the"
                f" Hugging Face hub be within reach ({str(error).splitlines()[0]})"
            ) from error
        return [_text(row, self.field, f"{self.name}, row {i}") for i, row in enumerate(rows)]

    def describe(self) -> dict[str, Any]:
        """What was read, as plain values."""
        return {"source": self.kind} | {
            key: getattr(self, key) for key in ("name", "config", "split", "field", "documents")
        }


def _text(row: object, field: str, place: str) -> str:
    if not isinstance(row, dict):
        raise ConfigurationError(f"{place}: a row must be an object with the key {field!r}")
    if field not in row:
        raise ConfigurationError(
            f"{place}: no field {field!r}; there is: {', '.join(map(str, row)) or 'nothing'}"
        )
    value = "" if row[field] is None else row[field]
    if not isinstance(value, str):
        raise ConfigurationError(f"{place}: field {field!r} is {type(value).__name__}, not text")
    # JSON can hold halves of a surrogate pair, which no encoding accepts.
    return value.encode("utf-8", "replace").decode()


def _read_txt(path: Path, _field: str) -> Iterator[str]:
    yield path.read_text(encoding="utf-8")


def _read_jsonl(path: Path, field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigurationError(f"{path}, line {number}: no JSON ({error})") from error
            yield _text(row, field, f"{path}, line {number}")


def _read_parquet(path: Path, field: str) -> Iterator[str]:
    import polars as pl

    try:
        columns = pl.read_parquet_schema(path)
        if field not in columns:
            raise ConfigurationError(f"{path}: no column {field!r}; there is: {', '.join(columns)}")
        if columns[field] != pl.String:
            raise ConfigurationError(f"{path}: column {field!r} is {columns[field]}, not text")
        rows = pl.read_parquet(path, columns=[field]).fill_null("")
    except pl.exceptions.PolarsError as error:
        raise ConfigurationError(f"cannot read {path}: no parquet file ({error})") from error
    yield from rows[field]


_READERS: Final[dict[str, Callable[[Path, str], Iterator[str]]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}

"""Where documents come from: the embedded text, files and folders, Hugging Face datasets."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from circuit_econ.errors import ConfigurationError, foreign
from circuit_econ.evaluation.files import (
    MOST_TEXT,
    check_folder,
    list_files,
    plain,
    read_file,
    text_of,
    too_much,
)
from circuit_econ.evaluation.settings import check_whole

__all__ = ["DatasetSource", "Documents", "EmbeddedSource", "FileSource", "TextSource"]


@dataclass(frozen=True, slots=True)
class Documents:
    """What was read of a source.

    Attributes:
        texts: The documents, in an order that does not change.
        description: What was read, as plain values.
        files_left_out: Files that are no text we read, by kind.
    """

    texts: list[str]
    description: dict[str, Any]
    files_left_out: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class EmbeddedSource:
    """The documentation topics inside CPython, in the order of their names."""

    kind: ClassVar[str] = "embedded"

    @property
    def title(self) -> str:
        """What an evaluation set made of it is called."""
        return self.kind

    def read(self) -> Documents:
        """The documents."""
        from pydoc_data.topics import topics

        return Documents(
            [topics[name] for name in sorted(topics)],
            {"source": self.kind, "python": platform.python_version()},
        )


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

    def read(self) -> Documents:
        """The documents."""
        given = [self.text] if isinstance(self.text, str) else list(self.text)
        for place, document in enumerate(given):
            if not isinstance(document, str):
                raise ConfigurationError(
                    f"document {place} is {type(document).__name__}; give strings"
                )
        texts = [plain(document, f"document {place}") for place, document in enumerate(given)]
        return Documents(_bounded(texts, "the text in hand"), {"source": self.kind})


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

    def read(self) -> Documents:
        """The documents."""
        with foreign(ConfigurationError, f"cannot read {self.path}"):
            path = Path(self.path).expanduser()
        listed = list_files(path)
        texts = (text for file in listed.files for text in read_file(file, self.field))
        return Documents(
            _bounded(texts, str(path)),
            {
                "source": self.kind,
                "path": str(self.path),
                "field": self.field,
                "files": len(listed.files),
            },
            listed.left_out,
        )


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

    def read(self) -> Documents:
        """The documents."""
        try:
            import datasets
        except ImportError as error:
            raise ConfigurationError(
                "reading a dataset needs the package 'datasets': pip install datasets"
            ) from error
        with foreign(
            ConfigurationError,
            f"cannot read split {self.split!r} of dataset {self.name!r}"
            f"{'' if self.config is None else f' ({self.config})'}: it must exist and the Hugging"
            " Face hub be within reach",
        ):
            check_folder(Path(self.name))
            stream = datasets.load_dataset(self.name, self.config, split=self.split, streaming=True)
            rows = islice(stream, self.documents)
            texts = (
                text_of(row, self.field, f"{self.name}, row {i}") for i, row in enumerate(rows)
            )
            return Documents(
                _bounded(texts, f"dataset {self.name!r}"),
                {"source": self.kind}
                | {
                    key: getattr(self, key)
                    for key in ("name", "config", "split", "field", "documents")
                },
            )


def _bounded(texts: Iterable[str], what: str) -> list[str]:
    """All of them, if they are not too much."""
    kept: list[str] = []
    size = 0
    for text in texts:
        size += len(text)
        if size > MOST_TEXT:
            raise too_much(f"{what} has more")
        kept.append(text)
    return kept

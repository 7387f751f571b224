"""Tokenizers that others made, read by Transformers: nothing of theirs runs, nothing is guessed."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from circuit_econ.errors import ConfigurationError, foreign

__all__ = ["Pretrained"]

_LARGEST: Final = 256 * 2**20
"""Bytes of a tokenizer's file; the largest known have a sixth of it."""
_SUFFIXES: Final = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe")
"""Files that a tokenizer may be read from."""
_TABLES: Final = ("tokenizer.", "vocab", "merges", "tekken", "spiece", "sentencepiece")
"""How the names of files that hold a table of tokens begin."""
_MOST_IDS: Final = 2**21
_NOBODYS: Final = 8 * "\U0010fffd"
"""Characters of private use that no text holds in a row."""
_BYTE: Final = re.compile("<0x[0-9A-Fa-f]{2}>")


class Pretrained:
    """A tokenizer of Transformers, from a folder, the cache or the hub.

    Attributes:
        name: As it was asked for.
        vocabulary: Number of ids: the largest that there is, plus one.
        bos: Its own BOS token's id, or ``None``.
        unknown: The id of what it does not know, or ``None``.
        table: Every token's id.
    """

    def __init__(self, name: str, control_tokens: bool) -> None:
        """Load it.

        Args:
            name: A folder, or a name of the hub.
            control_tokens: Whether text that mentions a control token holds it.

        Raises:
            ConfigurationError: If there is none, it cannot be read, or would run code of its own.
        """
        self.name = name
        folder = _folder(name)
        with _boundary(f"cannot load tokenizer {name!r}: {_not_found(name, folder)}"):
            loaded = _load(name, folder)
        with _boundary(f"cannot use tokenizer {name!r}: what its files say does not fit together"):
            self.table: dict[str, int] = dict(loaded.get_vocab())
            self.bos: int | None = loaded.bos_token_id
            self.unknown: int | None = loaded.unk_token_id
            self.vocabulary = max(len(loaded), 1 + max(self.table.values(), default=-1))
            if self.vocabulary > _MOST_IDS:
                raise ConfigurationError(
                    f"tokenizer {name!r} has ids up to {self.vocabulary - 1}, and at most"
                    f" {_MOST_IDS} are taken"
                )
            control = _control_tokens(loaded)
            if not set(self.table) - set(control):
                raise _empty(name, folder)
            self._control = {self.table[token] for token in control if token in self.table}
            self._control -= {self.unknown}
            self._keeps = control_tokens
            backend = getattr(loaded, "backend_tokenizer", None) if loaded.is_fast else None
            self._encode: Callable[[list[str]], list[list[int]]] = (
                _python(loaded, control_tokens)
                if backend is None
                else _compiled(backend, frozenset() if control_tokens else frozenset(control))
            )

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, without what the tokenizer would add before and after.

        Raises:
            ConfigurationError: If it fails, or reads control tokens in them although none were
                asked for.
        """
        with _boundary(f"tokenizer {self.name!r} fails on this text"):
            encoded = [np.asarray(ids, np.int64) for ids in self._encode(list(texts))]
        found = np.unique(np.concatenate([*encoded, np.zeros(0, np.int64)]))
        if len(found) and found[-1] >= self.vocabulary:
            raise ConfigurationError(
                f"tokenizer {self.name!r} gives id {found[-1]}, and its table ends at"
                f" {self.vocabulary - 1}"
            )
        held = [] if self._keeps else sorted(self._control & set(found.tolist()))
        if held:
            raise ConfigurationError(
                f"tokenizer {self.name!r} reads control tokens ({', '.join(map(str, held))}) in"
                " plain text and cannot be told not to; evaluation.control_tokens=true keeps them"
            )
        return encoded


@contextmanager
def _boundary(what: str) -> Iterator[None]:
    """Other people's code: its exceptions become ours, its remarks stay with it."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with foreign(ConfigurationError, what):
            yield
    finally:
        logging.set_verbosity(level)


def _folder(name: str) -> Path | None:
    """The folder of that name, if there is one, with files that can be opened."""
    with foreign(ConfigurationError, f"cannot load tokenizer {name!r}"):
        folder = Path(name).expanduser()
        if not name.strip():
            raise ConfigurationError("tokenizer must name one: 'bytes', 'bpe', a folder, a model")
        if folder.is_file():
            raise ConfigurationError(
                f"tokenizer {name!r} is a file; name the folder that it is in: {folder.parent}"
            )
        if not folder.is_dir():
            return None
        for file in _files(folder):
            found = file.stat()
            if not stat.S_ISREG(found.st_mode):
                raise ConfigurationError(f"cannot load tokenizer {name!r}: {file} is no file")
            if found.st_size > _LARGEST:
                raise ConfigurationError(
                    f"cannot load tokenizer {name!r}: {file} has {found.st_size / 1e6:.0f} MB, and"
                    f" at most {_LARGEST / 1e6:.0f} are read"
                )
    return folder


def _files(folder: Path) -> list[Path]:
    """What a tokenizer may be read from; weights and folders are not."""
    return [
        file
        for file in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*")])
        if file.suffix in _SUFFIXES and file.exists() and not file.is_dir()
    ]


def _not_found(name: str, folder: Path | None) -> str:
    if folder is not None:
        return "its files are damaged, incomplete, or of another release of tokenizers"
    return (
        "it is neither 'bytes' nor 'bpe', nor a folder with a tokenizer, nor in the cache, nor"
        " could it be had from the Hugging Face hub"
    )


def _load(name: str, folder: Path | None) -> Any:
    from transformers import AutoTokenizer

    if folder is not None:
        there = [file.name for file in _files(folder)]
        holds_table = any(n.startswith(_TABLES) or n.endswith((".model", ".spm")) for n in there)
        if not holds_table and "tokenizer_config.json" not in there:
            raise _empty(name, folder)
        _refuse_code(name, folder, local=True)
        # Code of its own is refused above; said again so that a new way in is shut, too.
        loaded = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        needed = {str(file) for file in loaded.vocab_files_names.values()}
        # Transformers makes an empty one of a model's configuration alone.
        if needed and not holds_table and not needed & set(there):
            raise _empty(name, folder)
        return loaded
    try:
        # What is in the cache is used at once: offline, asking the hub first takes minutes.
        _refuse_code(name, folder, local=True)
        return AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except ConfigurationError:
        raise
    except Exception:
        _refuse_code(name, folder, local=False)
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def _refuse_code(name: str, folder: Path | None, *, local: bool) -> None:
    """Refuse a tokenizer that comes with code, even where a class of Transformers would do."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    said: Any = get_tokenizer_config(str(folder or name), local_files_only=local)
    if isinstance(said, Mapping) and said.get("auto_map"):
        raise ConfigurationError(
            f"tokenizer {name!r} comes with code of its own (auto_map in tokenizer_config.json),"
            " and nothing foreign is run; name one of Transformers' own kinds"
        )


def _empty(name: str, folder: Path | None) -> ConfigurationError:
    if folder is None:
        return ConfigurationError(
            f"{name!r} has no tokenizer; name one that has, or 'bytes' or 'bpe'"
        )
    there = [p.name for p in sorted(folder.iterdir())]
    return ConfigurationError(
        f"folder {name!r} holds no tokenizer (there is: {', '.join(there[:8]) or 'nothing'}"
        f"{', …' if len(there) > 8 else ''}); name a folder with tokenizer.json, a model of the"
        " hub, or 'bytes' or 'bpe'"
    )


def _control_tokens(loaded: Any) -> list[str]:
    """Tokens that no text should turn into by mentioning them.

    Those marked special, and added ones that are written as tags are: ``<tool_call>``, ``[INST]``.
    Other added tokens are words like any other, runs of blanks above all. So is a single character:
    some models end with one of their letters.
    """
    added = [
        token.content
        for token in loaded.added_tokens_decoder.values()
        if token.special or (token.content[:1] + token.content[-1:]) in ("<>", "[]")
    ]
    return [
        token
        for token in dict.fromkeys([*loaded.all_special_tokens, *added])
        if len(token) > 1 and not _BYTE.fullmatch(token)
    ]


def _compiled(backend: Any, control: frozenset[str]) -> Callable[[list[str]], list[list[int]]]:
    """The backend's own pipeline, without what is drawn, cut, filled up or put around.

    That special tokens be split is not enough: it leaves other added tokens, and models that find
    whole words in their table (Unigram, WordLevel, WordPiece, BPE without merges) find the control
    tokens there, too. So control tokens get a name that no text holds, and keep their ids.
    """
    import tokenizers

    said = json.loads(backend.to_str())
    said |= {"truncation": None, "padding": None, "post_processor": None}
    names = {token: f"{_NOBODYS}{n}." for n, token in enumerate(sorted(control))}
    for token in said["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    _rename(said["model"], names)
    made = tokenizers.Tokenizer.from_str(json.dumps(said))

    def encode(texts: list[str]) -> list[list[int]]:
        return [e.ids for e in made.encode_batch(texts, add_special_tokens=False)]

    return encode


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Give tokens of a model's table other names, in place."""
    if "dropout" in model:
        model["dropout"] = None  # one text has one encoding
    table = model["vocab"]
    if isinstance(table, dict):
        model["vocab"] = {names.get(token, token): number for token, number in table.items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in table]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
        model["merges"] = [m for m in pairs if not {m[0], m[1], m[0] + m[1]} & set(names)]


def _python(loaded: Any, control_tokens: bool) -> Callable[[list[str]], list[list[int]]]:
    """A tokenizer written in Python."""

    def encode(texts: list[str]) -> list[list[int]]:
        # Not verbose: documents longer than the model's context are cut into windows later.
        return loaded(
            texts,
            add_special_tokens=False,
            split_special_tokens=not control_tokens,
            truncation=False,
            padding=False,
            verbose=False,
        )["input_ids"]

    return encode

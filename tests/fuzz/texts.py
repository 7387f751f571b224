"""Texts and tokenizers."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

import circuit_econ as ce
from circuit_econ.errors import CircuitEconError
from fuzz.mutating import VALUES, special, spoil_file, spoil_json
from fuzz.shop import Shop, SilentError
from fuzz.spies import Spy, hooks, module

__all__ = ["DOCUMENTS", "texts", "tokenizer", "tokenizers_"]

DOCUMENTS = [f"Document {i} says {i * i} things about </s> and é☃ letters." for i in range(40)]
_ROWS = [{"text": text, "id": i, "meta": {"a": [1, 2, None]}} for i, text in enumerate(DOCUMENTS)]
_SETTINGS: dict[str, Any] = {
    "length": 16, "sequences": 4, "reference_sequences": 2, "part": "all",
}  # fmt: skip
_SIGNS = (
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\r", b"\r\n", b"\0", b"\xe2\x80\xa8", b"[",
    b"{" * 50, b'"', b"\\ud800", b"1e999", b"NaN", b"-1", b"9" * 30, b"[" * 100_000,
)  # fmt: skip


# Texts.


def _write(folder: Path) -> None:
    (folder / "a.txt").write_text("\n".join(DOCUMENTS), encoding="utf-8")
    lines = "\n".join(json.dumps(row) for row in _ROWS)
    (folder / "b.jsonl").write_text(lines, encoding="utf-8")
    pl.DataFrame({"text": DOCUMENTS, "n": range(40)}).write_parquet(folder / "c.parquet")
    pl.DataFrame({"text": DOCUMENTS * 5, "n": range(200)}).write_parquet(
        folder / "d.parquet", compression="uncompressed", row_group_size=30
    )


def texts(shop: Shop, rng: Random) -> str:
    """Text files, JSON lines and parquet, spoilt; and the same text written in another way."""
    folder = shop.good("texts", _write)
    files = sorted(folder.iterdir())
    file = rng.choice(files)
    if rng.random() < 0.3:
        return _told_apart(shop, folder, rng)
    if rng.random() < 0.1:
        done = special(file, rng)
    elif rng.random() < 0.1:
        done = f"{file.name}: planted"
        # A dataset's own script, and a pickle where a table should be.
        module(folder / "texts.py", shop.spied)
        (folder / "c.parquet").write_bytes(pickle.dumps(Spy(shop.spied, rng)))
    elif file.suffix == ".jsonl" and rng.random() < 0.5:
        lines = file.read_text().split("\n")
        place = rng.randrange(len(lines))
        one = folder / "line.json"
        one.write_text(lines[place])
        done = f"line {place}: {spoil_json(one, rng, ('text',))}"
        lines[place] = one.read_text()
        one.unlink()
        file.write_text("\n".join(lines))
    else:
        spoil_file(file, rng, _SIGNS)
        done = f"{file.name}: bytes"
    shop.note(done)
    path: Any = rng.choice((folder, file, str(file)))
    name = rng.choice(("text", "text", "text", "n", "meta", "nothing", ""))
    made = ce.Evaluation.from_file(path, field=name, **_SETTINGS)
    # Whatever could be read is text of those files: bytes below 256, no more of them than there is.
    if not 0 <= int(made.tokens.min()) <= int(made.tokens.max()) < 256:
        raise SilentError("bytes that are none")
    return "unchecked"


def _told_apart(shop: Shop, folder: Path, rng: Random) -> str:
    """Text in another encoding, with other ends of lines, in other files: the same sequences."""
    for path in folder.iterdir():
        path.unlink()
    documents = [*DOCUMENTS]
    rng.shuffle(documents)
    way = rng.choice(("jsonl", "parquet", "encoding", "order"))
    shop.note(f"same text: {way}")
    expected = ce.Evaluation.from_text(documents, **_SETTINGS)
    if way == "encoding":
        text = "\n".join(documents)
        encoding = rng.choice(("utf-8", "utf-8-sig", "utf-16", "utf-32"))
        first, second = folder / "a.txt", folder / "b.txt"
        first.write_text(text, encoding="utf-8")
        second.write_text(text, encoding=encoding)
        found = ce.Evaluation.from_file(second, **_SETTINGS)
        expected = ce.Evaluation.from_file(first, **_SETTINGS)
    elif way == "parquet":
        frame = pl.DataFrame({"z": range(len(documents)), "text": documents})
        frame.write_parquet(
            folder / "x.parquet",
            compression=rng.choice(("zstd", "snappy", "gzip", "uncompressed", "lz4")),
            row_group_size=rng.choice((1, 7, 100)),
        )
        found = ce.Evaluation.from_file(folder, **_SETTINGS)
    else:
        ascii_too = rng.random() < 0.5
        lines = (json.dumps({"text": d}, ensure_ascii=ascii_too) for d in documents)
        end = rng.choice(("\n", "\r\n", "\n\n"))
        (folder / "x.jsonl").write_text(end.join(lines), encoding="utf-8", newline="")
        found = ce.Evaluation.from_file(folder / "x.jsonl", **_SETTINGS)
    if found.digest != expected.digest:
        raise SilentError(f"{way}: another digest")
    return "right"


# Tokenizers.

_ALPHABET = {c: 2 + i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def _byte_level() -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE({"</s>": 0, "<unk>": 1} | _ALPHABET, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return core


def _sentence_pieces() -> tokenizers.Tokenizer:
    letters = sorted(set("".join(DOCUMENTS)))
    pieces = [("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in letters)]
    core = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=1))
    core.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    return core


def _words() -> tokenizers.Tokenizer:
    table = {"</s>": 0, "<unk>": 1}
    for word in " ".join(DOCUMENTS).split():
        table.setdefault(word, len(table))
    core = tokenizers.Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return core


_CORES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": _byte_level,
    "pieces": _sentence_pieces,
    "words": _words,
}
_KEYS = (
    "auto_map", "type", "content", "vocab", "merges", "tokenizer_class", "dropout",
    "added_tokens", "chat_template", "extra_special_tokens", "model_max_length",
)  # fmt: skip


def tokenizer(name: str) -> Callable[[Path], object]:
    """What saves a tokenizer."""

    def save(folder: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        core = _CORES[name]()
        core.add_tokens([AddedToken("<tool>", special=False)])
        core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="</s> $A </s>", special_tokens=[("</s>", 0)]
        )
        made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")
        made.save_pretrained(str(folder))

    return save


def tokenizers_(shop: Shop, rng: Random) -> str:
    """Files of tokenizers, spoilt, with code planted; what still opens says the same."""
    name = rng.choice(sorted(_CORES))
    folder = shop.good(f"tokenizer {name}", tokenizer(name))
    file = rng.choice((*sorted(folder.glob("*.json")), folder / "tokenizer.json"))
    chance = rng.random()
    if chance < 0.2:
        target = folder / rng.choice(("tokenizer_config.json", "config.json"))
        fields = json.loads(target.read_text()) if target.exists() else {"model_type": "gpt2"}
        target.write_text(json.dumps(fields | hooks(folder, shop.spied, rng)))
        done = f"hooks in {target.name}: {target.read_text()[-150:]}"
    elif chance < 0.3:
        done = special(rng.choice((file, folder / "special_tokens_map.json", folder / "x")), rng)
    elif chance < 0.5:
        spoil_file(file, rng, _SIGNS)
        done = f"{file.name}: bytes"
    elif chance < 0.55:
        gone = rng.choice(sorted(folder.iterdir()))
        gone.unlink()
        done = f"no {gone.name}"
    else:
        done = f"{file.name}: {spoil_json(file, rng, _KEYS, (*VALUES, '</s>', '<unk>'))}"
    shop.note(f"{name}: {done}")
    flags = {"control_tokens": rng.random() < 0.3, "bos": rng.random() < 0.2}
    # What mentions a control token is not read as Transformers would, by design.
    documents = DOCUMENTS if rng.random() < 0.4 else [d.replace("</s>", "it") for d in DOCUMENTS]
    made = ce.Evaluation.from_text(documents, tokenizer=str(folder), **flags, **_SETTINGS)
    expected = None if documents is DOCUMENTS else _theirs(folder, documents)
    if expected is None or any(flags.values()):
        return "unchecked"
    rows = [made.tokens, *([] if made.reference is None else [made.reference])]
    for row in (ids for part in rows for ids in part.tolist()):
        if 0 not in row and not _is_text(row, expected):
            raise SilentError(f"{row} is not what Transformers makes of the text")
    return "right"


def _is_text(row: list[int], documents: list[list[int]], begun: bool = False) -> bool:
    """Whether a row is a window of documents, one after another in any order."""
    if not begun and any(
        document[i : i + len(row)] == row for document in documents for i in range(len(document))
    ):
        return True
    for document in documents:
        for size in (len(document),) if begun else range(1, len(document) + 1):
            end = document[len(document) - size :]
            if row[:size] == end and size and _is_text(row[size:], documents, begun=True):
                return True
        if begun and document[: len(row)] == row:
            return True
    return not row


def _theirs(folder: Path, documents: list[str]) -> list[list[int]] | None:
    """What Transformers makes of the documents; None if it does not."""
    from transformers import AutoTokenizer

    if any(not p.is_file() or p.stat().st_size > 10**8 for p in folder.iterdir()):
        return None
    kept = shutil.copytree(folder, folder.with_name("theirs"), symlinks=True)
    for path in kept.rglob("*.py"):
        path.unlink()
    try:
        made: Any = AutoTokenizer.from_pretrained(str(kept), trust_remote_code=False)
        found = made(documents, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | CircuitEconError):
            raise
        return None
    return found

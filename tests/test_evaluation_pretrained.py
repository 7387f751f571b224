"""Tokenizers that others made: control tokens, damage, foreign code, folders without one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation, training_data
from circuit_econ.evaluation.encoding import open_tokenizer
from circuit_econ.evaluation.pretrained import Pretrained

LETTERS = "abcdefghijklmnopqrstuvwxyz<>/_|"
BYTE_LEVEL = {c: 2 + i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def _byte_level(**more: Any) -> tokenizers.Tokenizer:
    table = {"</s>": 0, "<unk>": 1} | BYTE_LEVEL
    core = tokenizers.Tokenizer(models.BPE(table, [], **more))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return core


def _merged() -> tokenizers.Tokenizer:
    """A BPE that could build its control token from letters."""
    table = {"</s>": 0, "<unk>": 1} | BYTE_LEVEL | {"</": 258, "</s": 259, "ab": 260}
    merges = [("<", "/"), ("</", "s"), ("</s", ">"), ("a", "b")]
    core = tokenizers.Tokenizer(models.BPE(table, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    return core


def _whole_words() -> tokenizers.Tokenizer:
    core = _byte_level(ignore_merges=True)
    core.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    return core


def _sentence_pieces() -> tokenizers.Tokenizer:
    pieces = [("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in LETTERS)]
    core = tokenizers.Tokenizer(models.Unigram([*pieces, ("ab", -1.0)], unk_id=1))
    core.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    return core


def _words() -> tokenizers.Tokenizer:
    table = {"</s>": 0, "<unk>": 1, "a": 2, "b": 3, "ab": 4}
    core = tokenizers.Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return core


def _word_pieces() -> tokenizers.Tokenizer:
    table = {"</s>": 0, "<unk>": 1, "a": 2, "b": 3, "##b": 4, "<": 5, "##/": 6, "##s": 7, "##>": 8}
    core = tokenizers.Tokenizer(models.WordPiece(table, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return core


CORES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": _byte_level,
    "merged": _merged,
    "whole words": _whole_words,
    "sentence pieces": _sentence_pieces,
    "words": _words,
    "word pieces": _word_pieces,
}


def _save(folder: Path, core: tokenizers.Tokenizer, **special: Any) -> str:
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="</s> $A </s>", special_tokens=[("</s>", 0)]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **special)
    made.save_pretrained(str(folder))
    return str(folder)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("added", ["special", "plain"])
def test_text_that_mentions_a_control_token_holds_none(
    tmp_path: Path, core: str, added: str
) -> None:
    made = CORES[core]()
    special = {"eos_token": "</s>"} if added == "special" else {}
    if not special:
        made.add_tokens([AddedToken("</s>", special=False)])
    # An id beyond the model's table, which must not move; and one more behind it.
    made.add_special_tokens([AddedToken("<|end|>")])
    made.add_tokens([AddedToken("abab", special=False)])
    name = _save(tmp_path, made, **special)
    theirs: Any = AutoTokenizer.from_pretrained(name)
    texts = ["a </s> b", "ab ab abab b", "a</s>b <|end|>", "a  b\n"]

    def reference(mode: bool) -> list[list[int]]:
        return theirs(texts, add_special_tokens=False, split_special_tokens=mode)["input_ids"]

    plain = [ids.tolist() for ids in Pretrained(name, control_tokens=False).encode(texts)]
    kept = [ids.tolist() for ids in Pretrained(name, control_tokens=True).encode(texts)]
    assert kept == reference(False)
    control = {theirs.convert_tokens_to_ids(t) for t in ("</s>", "<|end|>")}
    assert control & set(kept[0]) and len(control & set(kept[2])) == 2
    assert not control & {i for ids in plain for i in ids}
    # Text without them is what Transformers makes of it, words that were added included.
    assert [plain[1], plain[3]] == [reference(True)[1], reference(True)[3]] == [kept[1], kept[3]]
    assert theirs.convert_tokens_to_ids("abab") in plain[1]
    if core in ("byte-level", "sentence pieces"):
        assert theirs.convert_ids_to_tokens(plain[0])[1:-1] != ["</s>"]
        assert [t for t in theirs.convert_ids_to_tokens(plain[0]) if t in "</s>"] == list("</s>")


def test_a_single_character_and_runs_of_blanks_are_no_control_tokens(tmp_path: Path) -> None:
    core = _byte_level()
    core.add_tokens([AddedToken("  ", special=False, normalized=False)])
    name = _save(tmp_path, core, eos_token="</s>", pad_token="!")
    tokens = Pretrained(name, control_tokens=False).encode(["a!  b"])[0]
    assert tokens.tolist() == [BYTE_LEVEL["a"], BYTE_LEVEL["!"], 258, BYTE_LEVEL["b"]]


def test_a_tokenizer_in_python_splits_control_tokens_too(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(str(tmp_path))
    plain, kept = (
        Pretrained(str(tmp_path), control_tokens=c).encode(["a</s>"])[0] for c in (False, True)
    )
    assert plain.tolist() == [3 + b for b in b"a</s>"]
    assert kept.tolist() == [100, 1]


def test_one_that_reads_control_tokens_all_the_same_is_refused(tmp_path: Path) -> None:
    loaded = Pretrained(_save(tmp_path, _words(), eos_token="</s>"), control_tokens=False)
    loaded._encode = lambda texts: [[2, 0, 3] for _ in texts]
    with pytest.raises(ConfigurationError) as error:
        loaded.encode(["anything"])
    assert str(error.value) == (
        f"tokenizer '{tmp_path}' reads control tokens (0) in plain text and cannot be told not to;"
        " evaluation.control_tokens=true keeps them"
    )


def test_the_setting_reaches_evaluation_and_training(tmp_path: Path) -> None:
    name = _save(tmp_path, _byte_level(), eos_token="</s>")
    documents = [f"Page {i} says </s> and goes on about {i * i} things." for i in range(60)]
    wanted = {"tokenizer": name, "length": 40, "sequences": 8, "reference_sequences": 8}
    for control_tokens in (False, True):
        settings = wanted | {"control_tokens": control_tokens}
        evaluation = Evaluation.from_text(documents, **settings)
        batch = training_data("text", settings | {"text": documents}, 8, 0).batch(0)[0]
        assert (0 in evaluation.tokens, 0 in batch) == (control_tokens, control_tokens)
        assert evaluation.description["control_tokens"] is control_tokens
    assert Evaluation.from_text(documents, **wanted).description["control_tokens"] is False


def test_what_a_tokenizer_draws_cuts_or_fills_up_is_left_undone(tmp_path: Path) -> None:
    core = _merged()
    name = _save(tmp_path, core, eos_token="</s>")
    plain = Pretrained(name, control_tokens=False).encode(["abab" * 20, "b"])
    path = tmp_path / "tokenizer.json"
    said = json.loads(path.read_text())
    said["model"]["dropout"] = 0.5
    core.enable_truncation(3)
    core.enable_padding(length=10**9)
    told = json.loads(core.to_str())
    path.write_text(json.dumps(said | {k: told[k] for k in ("truncation", "padding")}))
    again = Pretrained(name, control_tokens=False).encode(["abab" * 20, "b"])
    for one, other in zip(plain, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen2", "llama", "mistral", "bert", "t5"])
def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigurationError) as error:
        Pretrained(str(tmp_path), control_tokens=False)
    assert str(error.value) == (
        f"folder '{tmp_path}' holds no tokenizer (there is: config.json, model.safetensors); name"
        " a folder with tokenizer.json, a model of the hub, or 'bytes' or 'bpe'"
    )
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="tokenizer"):
        Pretrained(str(tmp_path), control_tokens=False)


def _damaged(content: dict[str, Any], how: str) -> str:
    if how == "another release":
        content["model"]["type"] = "Later"
    elif how == "no object":
        return "[]"
    elif how == "cut":
        return json.dumps(content)[:400]
    elif how == "nested":
        return "[" * 100_000
    elif how == "a part of another kind":
        content["pre_tokenizer"] = {"type": "Nothing"}
    elif how == "a token of another kind":
        content["added_tokens"] = [{"id": -1, "content": None}]
    elif how == "huge id":
        content["model"]["vocab"]["</s>"] = 2**31
    return json.dumps(content)


@pytest.mark.parametrize(
    "how",
    [
        "another release",
        "no object",
        "cut",
        "nested",
        "a part of another kind",
        "a token of another kind",
        "huge id",
    ],
)
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, how: str) -> None:
    name = _save(tmp_path, _byte_level(), eos_token="</s>")
    path = tmp_path / "tokenizer.json"
    path.write_text(_damaged(json.loads(path.read_text()), how))
    with pytest.raises(ConfigurationError) as error:
        Pretrained(name, control_tokens=False).encode(["text"])
    assert str(error.value).startswith(
        (f"cannot load tokenizer '{name}': its files are damaged,", f"tokenizer '{name}' has ids")
    )


def test_special_and_huge_files_of_a_tokenizer_are_not_opened(tmp_path: Path) -> None:
    name = _save(tmp_path, _byte_level(), eos_token="</s>")
    os.mkfifo(tmp_path / "chat_template.jinja")
    with pytest.raises(ConfigurationError, match=r"chat_template\.jinja is no file$"):
        Pretrained(name, control_tokens=False)
    (tmp_path / "chat_template.jinja").unlink()
    with (tmp_path / "added_tokens.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(ConfigurationError, match=r"added_tokens\.json has 1074 MB, and at most"):
        Pretrained(name, control_tokens=False)


def test_code_of_its_own_is_refused_by_name(tmp_path: Path) -> None:
    name = _save(tmp_path, _byte_level(), eos_token="</s>")
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = tmp_path / "tokenizer_config.json"
    said = json.loads(path.read_text())
    said["auto_map"] = {"AutoTokenizer": ["planted.Planted", None]}
    path.write_text(json.dumps(said))
    with pytest.raises(ConfigurationError) as error:
        Pretrained(name, control_tokens=False)
    assert str(error.value) == (
        f"tokenizer '{name}' comes with code of its own (auto_map in tokenizer_config.json), and"
        " nothing foreign is run; name one of Transformers' own kinds"
    )
    assert not (tmp_path / "ran").exists()


def test_names_that_are_no_tokenizers(tmp_path: Path) -> None:
    for name, message in {
        "": "tokenizer must name one: 'bytes', 'bpe', a folder, a model",
        str(tmp_path / "tokenizer.json"): f"is a file; name the folder that it is in: {tmp_path}",
        "a\0b": "cannot load tokenizer 'a\\x00b'",
        "~nobody-of-that-name": "cannot load tokenizer '~nobody-of-that-name'",
        "../nowhere/at/all": "cannot load tokenizer '../nowhere/at/all': it is neither 'bytes'",
    }.items():
        (tmp_path / "tokenizer.json").touch()
        with pytest.raises(ConfigurationError) as error:
            open_tokenizer(name, vocabulary=None, bos=False, training=list)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_that_knows_nothing_of_the_text_is_refused(tmp_path: Path) -> None:
    name = _save(tmp_path, _words())
    wanted: dict[str, Any] = {"tokenizer": name, "length": 4, "sequences": 2}
    with pytest.raises(ConfigurationError) as error:
        Evaluation.from_text(["some words here"] * 3 + [f"and {i}" for i in range(20)], **wanted)
    assert str(error.value).startswith(f"tokenizer '{name}' knows nothing of this text: its ")
    some = ["a x b a b"] + [f"{'a x ' * i}?" for i in range(1, 20)]
    evaluation = Evaluation.from_text(some, reference_sequences=2, part="all", **wanted)
    assert evaluation.description["unknown_tokens"] == int((evaluation.tokens == 1).sum()) > 0

"""Tokenizers: bytes, BPE, Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation.encoding import Tokenizer, open_tokenizer

TEXT = ["the cat sat on the mat, the end. " * 20, "and then the cat sat again. " * 20]


def _open(name: str, **settings: Any) -> Tokenizer:
    given: dict[str, Any] = {"vocabulary": None, "bos": False, "training": lambda: TEXT}
    return open_tokenizer(name, **(given | settings))


def test_bytes_are_the_ids() -> None:
    tokenizer = _open("bytes")
    assert [ids.tolist() for ids in tokenizer.encode(["aé", ""])] == [[97, 195, 169], []]
    assert (tokenizer.vocabulary, tokenizer.bos) == (256, None)
    with_bos = _open("bytes", bos=True)
    assert (with_bos.vocabulary, with_bos.bos) == (257, 256)


def test_bpe_has_as_many_ids_as_asked_and_encodes_everything() -> None:
    tokenizer = _open("bpe", vocabulary=270)
    assert (tokenizer.vocabulary, tokenizer.bos) == (270, None)
    ids = tokenizer.encode(["the cat", "never seen: \x00\u2603 é"])
    assert len(ids[0]) < len("the cat")
    assert max(i.max() for i in ids) < 270 and min(map(len, ids)) > 0
    with_bos = _open("bpe", vocabulary=270, bos=True)
    assert (with_bos.vocabulary, with_bos.bos) == (270, 269)
    assert max(i.max() for i in with_bos.encode(TEXT)) < 269


def test_bpe_is_the_same_every_time_and_differs_with_its_text() -> None:
    digests = [_open("bpe", vocabulary=300).digest for _ in range(3)]
    other = _open("bpe", vocabulary=300, training=lambda: [t.upper() for t in TEXT])
    assert len(set(digests)) == 1 and other.digest != digests[0]


def test_bpe_says_how_many_ids_it_really_has() -> None:
    tokenizer = _open("bpe", vocabulary=5000, bos=True)
    assert 256 < tokenizer.vocabulary < 400
    assert tokenizer.bos == tokenizer.vocabulary - 1


def _save_tokenizer(folder: Path, texts: Sequence[str], **special: str) -> str:
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = tokenizers.Tokenizer(models.WordLevel(unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    trainer = trainers.WordLevelTrainer(
        special_tokens=["?", *special.values()], show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    # As many tokenizers do: what they add by themselves must not end up inside a document.
    core.post_processor = processors.TemplateProcessing(single="? $A", special_tokens=[("?", 0)])  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?", **special).save_pretrained(
        str(folder)
    )
    return str(folder)


def test_a_tokenizer_in_a_folder(tmp_path: Path) -> None:
    name = _save_tokenizer(tmp_path, ["b a", "b"], bos_token="<s>")
    tokenizer = _open(name, bos=True)
    assert (tokenizer.vocabulary, tokenizer.bos) == (4, 1)
    assert [ids.tolist() for ids in tokenizer.encode(["a b b", "c"])] == [[3, 2, 2], [0]]
    assert _open(name).bos is None


def test_a_tokenizer_without_bos_is_refused_where_one_is_asked(tmp_path: Path) -> None:
    name = _save_tokenizer(tmp_path, ["b a"])
    assert _open(name).vocabulary == 3
    with pytest.raises(ConfigurationError) as error:
        _open(name, bos=True)
    assert str(error.value) == f"tokenizer {name!r} has no BOS token; set bos=false"


def test_a_tokenizer_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    asked: list[bool] = []

    def load(_name: str, *, local_files_only: bool = False, trust_remote_code: bool) -> Any:
        assert trust_remote_code is False
        asked.append(local_files_only)
        raise OSError("We couldn't connect to the hub\nmore")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", load)
    with pytest.raises(ConfigurationError) as error:
        _open("some/model")
    assert asked == [True, False]
    assert str(error.value) == (
        "cannot load tokenizer 'some/model': it is neither 'bytes' nor 'bpe', nor a folder with a"
        " tokenizer, nor in the cache, nor could it be had from the Hugging Face hub (OSError: We"
        " couldn't connect to the hub)"
    )


def test_settings_that_a_tokenizer_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        _open("bytes", vocabulary=300)
    assert str(error.value) == (
        "vocabulary=300 is a setting of tokenizer 'bpe'; 'bytes' has its own"
    )
    with pytest.raises(ConfigurationError) as error:
        _open("bpe", vocabulary=256, bos=True)
    assert str(error.value) == (
        "vocabulary=256 is too small for tokenizer 'bpe': its alphabet alone has 257 ids"
    )

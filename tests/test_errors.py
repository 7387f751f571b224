"""What errors say: one line, never too long, whatever was raised."""

from __future__ import annotations

import pytest

from circuit_econ.errors import CheckpointError, ConfigurationError, foreign, one_line, unknown


def test_an_ordinary_message_is_kept_to_the_letter() -> None:
    message = "cannot read /a/two  spaces/é: it is a folder; name a file"
    assert str(ConfigurationError(message)) == message


def test_a_long_value_is_cut_in_the_middle_and_the_advice_stays() -> None:
    message = str(ConfigurationError(f"out={'x' * 20_000}y must name a folder: out=runs/mine"))
    assert message.startswith("out=xxx") and message.endswith("y must name a folder: out=runs/mine")
    assert "… (19745 characters left out) …" in message and len(message) < 400


def test_a_long_line_of_short_words_is_cut_too() -> None:
    message = str(unknown("key", "a", [f"key{i}" for i in range(5000)]))
    assert message.startswith("unknown key 'a'; there is: key0, key1")
    assert message.endswith("key4998, key4999") and len(message) <= 800


def test_lines_and_control_characters_are_no_part_of_a_line() -> None:
    assert one_line("  a\n\tb\x00c\x1b[31m\u2028d\ud800 ") == "a b\\x00c\\x1b[31m d\\ud800"


class Panic(BaseException):
    """As compiled code raises it: no ``Exception``."""


@pytest.mark.parametrize("raised", [Panic, RecursionError, KeyError, SystemExit, MemoryError])
def test_whatever_other_code_raises_becomes_one_line(raised: type[BaseException]) -> None:
    with (
        pytest.raises(CheckpointError, match=rf"^cannot read x \({raised.__name__}: .*told"),
        foreign(CheckpointError, "cannot read x"),
    ):
        raise raised("told\nand more")
    with pytest.raises(CheckpointError) as error, foreign(CheckpointError, "cannot read x"):
        raise raised
    assert str(error.value) == f"cannot read x ({raised.__name__})"


def test_our_own_and_interrupts_pass() -> None:
    with (
        pytest.raises(ConfigurationError, match="^our own$"),
        foreign(CheckpointError, "cannot read x"),
    ):
        raise ConfigurationError("our own")
    with pytest.raises(KeyboardInterrupt), foreign(CheckpointError, "cannot read x"):
        raise KeyboardInterrupt

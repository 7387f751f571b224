"""The settings of evaluation sets: what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import TaskSettings, TextSettings
from circuit_econ.evaluation.settings import check_flags, check_whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 1}, "length must be a whole number of at least 2, not 1"),
        ({"length": 2, "bos": True}, "length must be a whole number of at least 3, not 2"),
        ({"sequences": 0}, "sequences must be a whole number of at least 1, not 0"),
        (
            {"reference_sequences": -1},
            "reference_sequences must be a whole number of at least 0, not -1",
        ),
        ({"vocabulary": 0}, "vocabulary must be a whole number of at least 1, not 0"),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807, not 9223372036854775808"),
        ({"length": 2**20 + 1}, "length must be at most 1048576, not 1048577"),
        (
            {"sequences": 2**22, "length": 100},
            "4194304 + 64 sequences of 100 tokens are 419436800, and at most 268435456 are held;"
            " lower sequences or reference_sequences",
        ),
        ({"part": "test"}, "unknown part 'test'; there is: train, heldout, all"),
    ],
)
def test_text_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        TextSettings(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be a whole number of at least 1, not 0"),
        ({"vocabulary": 0}, "vocabulary must be a whole number of at least 1, not 0"),
        ({"sequences": 0}, "sequences must be a whole number of at least 1, not 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"seed": 2**70}, f"seed must be at most 9223372036854775807, not {2**70}"),
        ({"sequences": 2**21}, "sequences must be at most 262144, not 2097152"),
        ({"part": "both"}, "unknown part 'both'; there is: train, heldout, all"),
    ],
)
def test_task_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        TaskSettings("induction", **settings)
    assert str(error.value) == message


@pytest.mark.parametrize("value", ["12", 2.0, True, None])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError) as error:
        check_whole(SimpleNamespace(length=value), length=0)
    assert str(error.value) == f"length must be a whole number of at least 0, not {value!r}"


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_what_is_neither_true_nor_false_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError) as error:
        check_flags(SimpleNamespace(bos=True, control_tokens=value), "bos", "control_tokens")
    assert str(error.value) == f"control_tokens must be true or false, not {value!r}"

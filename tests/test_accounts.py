"""Returns and verdicts against numbers worked out on paper."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit_econ.accounts import default_place, returns, sign_disagreements, verdict
from circuit_econ.errors import ConfigurationError
from circuit_econ.tables import TABLES, make_table


def value_table(*rows: tuple[int, str, str, float | None, float | None]) -> pl.LazyFrame:
    step, component, baseline, value, se = (list(c) for c in zip(*rows, strict=True))
    return make_table(
        "value",
        {
            "step": step,
            "component": component,
            "baseline": baseline,
            "value": value,
            "se": se,
            "sequences": [8] * len(rows),
            "placebo": [0.0] * len(rows),
            "placebo_se": [0.0] * len(rows),
            "affected": [8] * len(rows),
            "low": [None if e is None else v - 2 * e for v, e in zip(value, se, strict=True)],
            "high": [None if e is None else v + 2 * e for v, e in zip(value, se, strict=True)],
            "outcome": ["fixed"] * len(rows),
            "effective": [8.0] * len(rows),
            "needed": [None] * len(rows),
        },
    ).lazy()


def capacity_table(*rows: tuple[int, str, str, str, float]) -> pl.LazyFrame:
    columns = (list(c) for c in zip(*rows, strict=True))
    return make_table("capacity", dict(zip(TABLES["capacity"], columns, strict=True))).lazy()


VALUE = value_table(
    (0, "a0.h0", "mean", 0.0, 0.1),
    (5, "a0.h0", "mean", 3.0, 0.5),
    (5, "a0.h1", "mean", -1.0, 0.5),
    (5, "m0", "mean", 2.0, None),
    (5, "m0", "zero", 6.0, 0.2),
)
CAPACITY = capacity_table(
    (0, "a0.h0", "parameters", "weights", 4.0),
    (5, "a0.h0", "parameters", "weights", 4.0),
    (5, "a0.h1", "parameters", "weights", 0.0),
    (5, "m0", "parameters", "weights", 8.0),
    (5, "a0.h0", "stream_share", "block.2", 0.75),
    (5, "a0.h0", "stream_share", "block.10", 0.5),
    (5, "a0.h1", "stream_share", "block.10", -0.25),
    (5, "ln_final", "parameters", "weights", 16.0),
)


def test_return_is_value_over_capacity_with_its_error() -> None:
    table = returns(VALUE, CAPACITY, "parameters").collect()
    assert table.columns == [
        "step", "component", "baseline", "currency", "place", "value", "se", "capacity", "return",
        "return_se",
    ]  # fmt: skip
    assert table["component"].to_list() == ["a0.h0", "a0.h0", "a0.h1", "m0", "m0"]
    assert table["step"].to_list() == [0, 5, 5, 5, 5]
    assert table["return"].to_list() == [0.0, 0.75, None, 0.25, 0.75]
    assert table["return_se"].to_list() == [0.025, 0.125, None, None, 0.025]
    assert table["capacity"].to_list() == [4.0, 4.0, 0.0, 8.0, 8.0]
    assert set(table["currency"]) == {"parameters"}
    assert set(table["place"]) == {"weights"}


def test_place_is_the_furthest_along_unless_named() -> None:
    last = returns(VALUE, CAPACITY, "stream_share", baseline="mean").collect()
    assert set(last["place"]) == {"block.10"}
    by_name = dict(zip(last["component"], last["return"], strict=True))
    assert by_name["a0.h0"] == 6.0
    # A negative share: the quotient turns its sign, the error stays positive.
    assert by_name["a0.h1"] == 4.0
    errors = dict(zip(last["component"], last["return_se"], strict=True))
    assert errors["a0.h1"] == 2.0
    assert by_name["m0"] is None
    named = returns(VALUE, CAPACITY, "stream_share", place="block.2", baseline="mean").collect()
    assert named.filter(step=5, component="a0.h0")["return"].item() == 4.0


def test_default_place() -> None:
    assert default_place(["block.2", "final", "block.10"]) == "final"
    assert default_place(["block.9", "block.10"]) == "block.10"
    assert default_place(["weights"]) == "weights"
    assert default_place([]) is None


def test_only_the_named_baseline() -> None:
    table = returns(VALUE, CAPACITY, "parameters", baseline="zero").collect()
    assert table.select("component", "baseline", "return").rows() == [("m0", "zero", 0.75)]


def test_capacity_without_a_component_of_value_is_left_out() -> None:
    assert "ln_final" not in returns(VALUE, CAPACITY, "parameters").collect()["component"]


def test_a_currency_that_was_not_measured_gives_null_returns() -> None:
    table = returns(VALUE, CAPACITY, "directions").collect()
    assert table.height == 5
    assert table["return"].null_count() == 5
    empty = returns(pl.LazyFrame(schema=TABLES["value"]), CAPACITY, "parameters").collect()
    assert empty.height == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"currency": "gold"},
            "unknown currency 'gold'; there is: parameters, squared_norm, effective_rank_ov, "
            "effective_rank_qk, effective_rank_out, stable_rank_ov, stable_rank_qk, "
            "stable_rank_out, stream_share, stream_share_centred, dimensions_used, directions",
        ),
        (
            {"currency": "stream_share", "place": "final"},
            "unknown place of stream_share 'final'; there is: block.2, block.10",
        ),
        (
            {"currency": "parameters", "baseline": "optimal"},
            "unknown baseline 'optimal'; there is: mean, zero",
        ),
    ],
)
def test_unknown_names_say_what_there_is(names: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        returns(VALUE, CAPACITY, **names)
    assert str(caught.value) == message


NAN = float("nan")
SIGNS = value_table(
    (5, "a0.h0", "mean", 1.0, 0.1),
    (5, "a0.h0", "zero", -1.0, 0.1),
    (5, "a0.h0", "resample", 0.5, 0.1),
    (6, "a0.h0", "mean", 1.0, 0.1),  # the other sign was at another step
    (5, "a0.h1", "mean", 1.0, 0.1),
    (5, "a0.h1", "zero", -1.0, 0.5),  # not beyond 2 se
    (5, "m0", "mean", 1.0, 0.1),
    (5, "m0", "zero", -1.0, None),  # no error, no side
    (5, "m0", "resample", -1.0, NAN),
    (5, "m1", "mean", 1.0, 0.1),
    (5, "m1", "zero", 1.0, 0.1),
    (5, "m1", "resample", 1.0, 0.1),
    (5, "m2", "mean", -1.0, 0.1),
    (5, "m2", "zero", -1.0, 0.1),
    (5, "m2", "resample", -1.0, 0.1),
    (5, "m2", "mean-position", NAN, NAN),
)


def test_sign_disagreements_need_both_sides_beyond_two_errors_at_one_step() -> None:
    assert sign_disagreements(SIGNS).to_dicts() == [
        {"step": 5, "component": "a0.h0", "positive": "mean, resample", "negative": "zero"}
    ]
    assert sign_disagreements(pl.LazyFrame(schema=TABLES["value"])).height == 0


def test_verdict_needs_three_baselines() -> None:
    table = verdict(SIGNS)
    found = {(step, name): said for step, name, *_, said in table.rows()}
    assert found == {
        (5, "a0.h0"): "contested",
        (6, "a0.h0"): "open",
        (5, "a0.h1"): "open",
        (5, "m0"): "open",
        (5, "m1"): "useful",
        (5, "m2"): "harmful",
    }
    assert table.filter(step=5, component="m2").row(0)[2:] == (4, 0, 3, "harmful")


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 2)), min_size=1, max_size=4),
)
def test_verdict_and_disagreement_say_the_same(pairs: list[tuple[float, float]]) -> None:
    names = ["mean", "mean-position", "zero", "resample"]
    rows = [(1, "m0", names[i], v, e) for i, (v, e) in enumerate(pairs)]
    above, below = (sum(s * v > 2 * e for v, e in pairs) for s in (1, -1))
    said = verdict(value_table(*rows))["verdict"].item()
    assert (said == "contested") == bool(above and below)
    assert (said == "contested") == bool(sign_disagreements(value_table(*rows)).height)
    assert (said == "useful") == (above >= 3 and not below)
    assert (said == "harmful") == (below >= 3 and not above)

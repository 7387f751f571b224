"""Circuits over checkpoints: every event made by hand, lasting names, thresholds."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.graph.lineages import lineages
from circuit_econ.graph.tracking import Event, events_by_threshold, track
from circuit_econ.tables import TABLES, make_table

Here = Mapping[str, str]
"""Members by circuit; names of heads of layer 0, one letter each."""


def head(letter: str) -> str:
    return f"a0.h{ord(letter) - ord('a')}"


def circuits(history: Mapping[int, Here]) -> pl.DataFrame:
    rows = [
        (step, name, head(letter))
        for step, here in history.items()
        for name, letters in here.items()
        for letter in letters
    ]
    return make_table(
        "circuits",
        {
            "step": [row[0] for row in rows], "circuit": [row[1] for row in rows],
            "role": ["r"] * len(rows), "component": [row[2] for row in rows],
            "membership": [1.0] * len(rows),
        },
    )  # fmt: skip


Edge = tuple[int, str, str, str, float, str | None]


def counted(*rows: Edge) -> pl.DataFrame:
    names = ("step", "supplier", "buyer", "port", "flow", "circuit")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    same = {"se": 0.0, "integration_error": 0.0, "bound": 0.0, "admitted_by": "flow"}
    same |= dict.fromkeys(("effect", "effect_se", "effect_bound"))
    return make_table("counted", {**columns, **{name: [x] * len(rows) for name, x in same.items()}})


def told(
    history: Mapping[int, Here], *rows: Edge, threshold: float = 0.5
) -> list[tuple[int, str, str | None, str | None, float | None]]:
    found = track(circuits(history), counted(*rows), list(history), threshold)
    return found.select("step", "event", "circuit", "parent", "overlap").rows()


def test_births_continuations_and_deaths() -> None:
    """Also where a step has no circuit: what comes back is another."""
    history = {0: {}, 5: {"c1": "abcd"}, 9: {"c1": "abx", "c2": "pq"}, 12: {}, 20: {"c1": "ab"}}
    assert told(history) == [
        (5, "birth", "c1", None, None),
        (9, "continuation", "c1", "c1", 2 / 3),
        (9, "birth", "c2", None, None),
        (12, "death", None, "c1", None),
        (12, "death", None, "c2", None),
        (20, "birth", "c1", None, None),
    ]


def sold(step: int, port: str, flow: float) -> Edge:
    return (step, "a0.h0", "a0.h1", port, flow, "c1")


def test_other_goods_are_a_conversion_and_begin_another_lineage() -> None:
    """Little by little: every step is like the one before, and the last is not like the first."""
    shares = [1.0, 0.8, 0.6, 0.4, 0.2]
    history = {step: {"c1": "ab"} for step in range(len(shares))}
    rows = [sold(step, "v", share) for step, share in enumerate(shares)]
    rows += [sold(step, "k", 1 - share) for step, share in enumerate(shares) if share < 1]
    found = track(circuits(history), counted(*rows), list(history))
    # Of the cosines with the first step, 0.2 / √(0.2² + 0.8²) alone is below one half.
    assert [row[1] for row in found.rows()] == ["birth", *["continuation"] * 3, "conversion"]
    assert found.row(4)[:5] == (4, "conversion", "c1", "c1", 1.0)
    names = lineages(circuits(history), found)["lineage"].to_list()
    assert names == ["L1"] * 4 + ["L2"]
    # A founder is compared with, not the step before; from the conversion on it is the new one.
    back = {**history, 5: {"c1": "ab"}, 6: {"c1": "ab"}}
    rows += [sold(5, "v", 0.1), sold(5, "k", 0.9), sold(6, "v", 1.0)]
    again = track(circuits(back), counted(*rows), list(back))
    assert [row[1] for row in again.rows()][4:] == ["conversion", "continuation", "conversion"]
    # The sign is part of the good.
    signs = track(
        circuits({0: {"c1": "ab"}, 1: {"c1": "ab"}}),
        counted(sold(0, "v", 1.0), sold(1, "v", -1.0)),
        [0, 1],
    )
    assert signs["event"].to_list() == ["birth", "conversion"]


def test_steps_are_put_in_order_and_the_first_has_births() -> None:
    history = {7: {"c1": "ab"}, 3: {"c2": "ab", "c1": "cde"}}
    assert told(history) == [
        (3, "birth", "c1", None, None),
        (3, "birth", "c2", None, None),
        (7, "continuation", "c1", "c2", 1.0),
        (7, "death", None, "c1", None),
    ]


def test_a_split_has_a_row_for_each_part() -> None:
    assert told({1: {"c1": "abcdef"}, 2: {"c1": "abcd", "c2": "efg"}})[1:] == [
        (2, "split", "c1", "c1", 1.0),
        (2, "split", "c2", "c1", 2 / 3),
    ]


def test_a_merger_has_a_row_for_each_parent() -> None:
    assert told({1: {"c1": "abcd", "c2": "efg"}, 2: {"c1": "abcdef"}})[2:] == [
        (2, "merger", "c1", "c1", 1.0),
        (2, "merger", "c1", "c2", 2 / 3),
    ]


def test_a_part_that_goes_to_another_is_a_split_and_a_merger() -> None:
    history = {1: {"c1": "abcd", "c2": "ef"}, 2: {"c1": "ab", "c2": "cdef"}}
    assert told(history)[2:] == [
        (2, "split", "c1", "c1", 1.0),
        (2, "merger", "c2", "c1", 0.5),
        (2, "merger", "c2", "c2", 1.0),
    ]


def function(
    step: int, layer: int, circuit: str, port: str = "k", sign: float = 1.0, size: float = 1.0
) -> list[Edge]:
    """One supplier, two buyers that sell to the logits."""
    supplier, *buyers = (f"a{layer + (n > 0)}.h{n}" for n in range(3))
    inside = [(step, supplier, b, port, size, circuit) for b in buyers]
    return [*inside, *((step, b, "logits", "in", sign, None) for b in buyers)]


def placed(places: Mapping[int, Mapping[str, int]]) -> pl.DataFrame:
    rows = [
        (step, name, f"a{layer + (n > 0)}.h{n}")
        for step, here in places.items()
        for name, layer in here.items()
        for n in range(3)
    ]
    return make_table(
        "circuits",
        {
            "step": [r[0] for r in rows], "circuit": [r[1] for r in rows],
            "role": ["r"] * len(rows), "component": [r[2] for r in rows],
            "membership": [1.0] * len(rows),
        },
    )  # fmt: skip


def test_the_same_function_in_other_layers_is_a_relocation() -> None:
    where = placed({1: {"c1": 0}, 2: {"c1": 3}})
    rows = counted(*function(1, 0, "c1"), *function(2, 3, "c1", size=1.9))
    assert track(where, rows, [1, 2]).row(1)[:5] == (2, "relocation", "c1", "c1", 0.0)
    # Not where nothing was in between.
    far = placed({1: {"c1": 0}, 3: {"c1": 3}})
    rows = counted(*function(1, 0, "c1"), *function(3, 3, "c1"))
    assert [event for _, event, *_ in track(far, rows, [1, 2, 3]).rows()] == [
        "birth", "death", "birth",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [{"port": "v"}, {"sign": -1.0}, {"size": 2.1}, {"size": -1.0}],
    ids=["port", "sale", "size", "sign"],
)
def test_another_function_is_no_relocation(other: dict[str, float | str]) -> None:
    where = placed({1: {"c1": 0}, 2: {"c1": 3}})
    rows = counted(*function(1, 0, "c1"), *function(2, 3, "c1", **other))  # type: ignore[arg-type]
    assert [row[1:4] for row in track(where, rows, [1, 2]).rows()[1:]] == [
        ("birth", "c1", None),
        ("death", None, "c1"),
    ]


def test_relocations_are_one_to_one_and_the_closest_first() -> None:
    """Two die, two are born; each goes where the function is its own."""
    where = placed({1: {"c1": 0, "c2": 2}, 2: {"c1": 4, "c2": 6}})
    mixed = [(1, "a0.h0", "a1.h1", "v", 0.5, "c1"), (2, "a6.h0", "a7.h1", "v", 0.5, "c2")]
    rows = counted(
        *function(1, 0, "c1"), *function(1, 2, "c2"), *function(2, 4, "c1"),
        *function(2, 6, "c2"), *mixed,
    )  # fmt: skip
    assert [row[1:4] for row in track(where, rows, [1, 2]).rows()[2:]] == [
        ("relocation", "c1", "c2"),
        ("relocation", "c2", "c1"),
    ]
    alone = placed({1: {"c1": 0, "c2": 2}, 2: {"c1": 4}})
    rows = rows.filter((pl.col("step") == 1) | pl.col("circuit").ne_missing("c2"))
    assert [row[1:4] for row in track(alone, rows, [1, 2]).rows()[2:]] == [
        ("relocation", "c1", "c2"),
        ("death", None, "c1"),
    ]


def named(history: Mapping[int, Here], *rows: Edge) -> dict[tuple[int, str], str]:
    where = circuits(history)
    events = track(where, counted(*rows), list(history))
    found = lineages(where.reverse(), events.reverse())
    assert found.equals(lineages(where, events))
    return {(step, circuit): line for step, circuit, line in found.rows()}


def test_the_larger_part_of_a_split_is_the_heir() -> None:
    history = {1: {"c1": "abcdefg"}, 2: {"c1": "fg", "c2": "abcdez"}, 3: {"c1": "abc"}}
    assert named(history) == {(1, "c1"): "L1", (2, "c1"): "L2", (2, "c2"): "L1", (3, "c1"): "L1"}


def test_a_merger_goes_on_as_the_parent_that_gives_most() -> None:
    history = {1: {"c1": "ab", "c2": "cdef"}, 2: {"c1": "abcdef"}, 3: {"c1": "ab", "c2": "cdef"}}
    assert named(history) == {
        (1, "c1"): "L1", (1, "c2"): "L2", (2, "c1"): "L2", (3, "c1"): "L3", (3, "c2"): "L2",
    }  # fmt: skip


def test_of_equal_parts_the_one_that_trades_more_is_the_heir() -> None:
    assert named({1: {"c1": "abcd"}, 2: {"c2": "ab", "c10": "cd", "c1": "xy"}}) == {
        (1, "c1"): "L1", (2, "c1"): "L2", (2, "c2"): "L1", (2, "c10"): "L3",
    }  # fmt: skip


def test_a_relocated_circuit_keeps_its_name_and_a_dead_one_does_not_come_back() -> None:
    where = placed({1: {"c1": 0}, 2: {"c1": 3}, 9: {"c1": 3}})
    rows = counted(*function(1, 0, "c1"), *function(2, 3, "c1"), *function(9, 3, "c1"))
    events = track(where, rows, [1, 2, 5, 9])
    assert lineages(where, events)["lineage"].to_list() == ["L1", "L1", "L2"]


def test_no_circuits_have_no_events() -> None:
    nothing = circuits({})
    events = track(nothing, counted(), [1, 2])
    assert events.is_empty() and events.schema == TABLES["circuit_events"]
    found = lineages(nothing, events)
    assert found.is_empty() and found.columns == ["step", "circuit", "lineage"]


def test_events_move_with_the_threshold() -> None:
    """Half of the smaller one is shared: linked at 0.5, not above. Splits count once."""
    history = {1: {"c1": "abcdef"}, 2: {"c1": "abxy", "c2": "cdef"}}
    found = events_by_threshold(circuits(history), counted(), [1, 2], (0.5, 0.6))
    assert found.columns == ["threshold", "event", "count"]
    assert found.height == 2 * len(Event)
    assert {row for row in found.rows() if row[2]} == {
        (0.5, "birth", 1), (0.5, "split", 1), (0.6, "birth", 2), (0.6, "continuation", 1),
    }  # fmt: skip
    merger = {1: {"c1": "ab", "c2": "cd"}, 2: {"c1": "abcd"}}
    found = events_by_threshold(circuits(merger), counted(), [1, 2], [0.5])
    assert {row for row in found.rows() if row[2]} == {(0.5, "birth", 2), (0.5, "merger", 1)}


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_an_overlap_is_a_share(threshold: float) -> None:
    with pytest.raises(ConfigurationError) as error:
        told({1: {"c1": "ab"}}, threshold=threshold)
    assert str(error.value) == f"threshold must be above 0 and at most 1, not {threshold}"


def test_circuits_of_unknown_steps_are_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        track(circuits({3: {"c1": "ab"}}), counted(), [5, 1])
    assert str(error.value) == (
        "there are circuits at step 3, which is not among the steps to track: 1, 5"
    )


def worth(history: Mapping[int, float], se: float | None = 0.01) -> pl.DataFrame:
    """Joint values of ``c1``."""
    columns = {
        "step": list(history), "circuit": ["c1"] * len(history),
        "baseline": ["mean"] * len(history), "value": list(history.values()),
        "se": [se] * len(history),
    }  # fmt: skip
    columns |= {name: [0.0] * len(history) for name in ("singles", "redundancy", "redundancy_se")}
    return make_table("circuit_values", columns)


def resized(values: Mapping[int, float], se: float | None = 0.01, factor: float = 2.0) -> list[str]:
    where = circuits({step: {"c1": "ab"} for step in values})
    found = track(where, counted(), list(values), values=worth(values, se), factor=factor)
    # A circuit that shrinks or grows is the same one.
    assert lineages(where, found)["lineage"].unique().to_list() == ["L1"]
    return found["event"].to_list()


def test_a_circuit_that_loses_its_value_declines() -> None:
    assert resized({1: 5.0, 2: 4.9, 3: 0.1}) == ["birth", "continuation", "decline"]
    assert resized({1: 0.5, 2: 0.6, 3: 1.1}) == ["birth", "continuation", "growth"]
    # Little by little: against its birth, then against the value at which it last declined.
    slowly = {1: 1.0, 2: 0.7, 3: 0.45, 4: 0.3, 5: 0.2}
    told = ["birth", "continuation", "decline", "continuation", "decline"]
    assert resized(slowly) == told
    found = track(circuits({s: {"c1": "ab"} for s in slowly}), counted(), list(slowly),
                  values=worth(slowly))  # fmt: skip
    names = ["baseline", "value", "se", "parent_value", "parent_se", "since"]
    assert found.select(names).row(2) == ("mean", 0.45, 0.01, 0.7, 0.01, 1)
    assert found.select(names).row(4) == ("mean", 0.2, 0.01, 0.3, 0.01, 3)
    assert found.select(names).row(0) == ("mean", 1.0, 0.01, None, None, None)
    assert resized(slowly, factor=4.0) == ["birth", *["continuation"] * 3, "decline"]


def test_what_is_within_its_errors_goes_on() -> None:
    # The difference is 0.6 and its error √2 · 0.2.
    assert resized({1: 1.0, 2: 0.4}, se=0.2) == ["birth", "continuation"]
    assert resized({1: 1.0, 2: 0.4}, se=0.14) == ["birth", "decline"]
    assert resized({1: 1.0, 2: 0.01}, se=None) == ["birth", "continuation"]
    # What is worth nothing can grow, and has nothing to lose.
    assert resized({1: -0.5, 2: 0.5, 3: -0.5, 4: -1.5}) == [
        "birth", "growth", "decline", "continuation",
    ]  # fmt: skip


def test_values_stand_on_every_event_and_size_begins_anew_where_members_change() -> None:
    history = {1: {"c1": "abcd"}, 2: {"c1": "ab", "c2": "cd"}, 3: {"c1": "ab"}}
    values = pl.concat([worth({1: 4.0, 2: 1.0, 3: 0.9}), worth({2: 2.0}).with_columns(
        circuit=pl.lit("c2"))])  # fmt: skip
    found = track(circuits(history), counted(), [1, 2, 3], values=values)
    assert found.select("step", "event", "value", "parent_value").rows() == [
        (1, "birth", 4.0, None),
        (2, "split", 1.0, 4.0),
        (2, "split", 2.0, 4.0),
        (3, "continuation", 0.9, 1.0),
        (3, "death", None, 2.0),
    ]


def test_values_of_several_baselines_and_factors_that_are_none_are_refused() -> None:
    values = worth({1: 1.0})
    both = pl.concat([values, values.with_columns(baseline=pl.lit("zero"))])
    for wrong, message in (
        ({"values": both}, "values to track must be those of one baseline, not of mean, zero"),
        ({"factor": 1.0}, "factor must be above 1, not 1.0"),
    ):
        with pytest.raises(ConfigurationError) as error:
            track(circuits({1: {"c1": "ab"}}), counted(), [1], **wrong)  # type: ignore[arg-type]
        assert str(error.value) == message

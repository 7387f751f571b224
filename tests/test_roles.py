"""Roles: who trades alike, worked out on paper."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.graph.roles import find_roles, role_name

Row = tuple[str, str, str, float]


def edges(*rows: Row) -> pl.DataFrame:
    schema = {"supplier": pl.String, "buyer": pl.String, "port": pl.String, "flow": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def groups(found: dict[str, str]) -> set[frozenset[str]]:
    return {frozenset(n for n in found if found[n] == role) for role in found.values()}


def test_buyers_of_one_good_share_a_role_however_much_they_buy() -> None:
    rows = [("a0.h0", f"a1.h{n}", "k", x) for n, x in enumerate((1.0, 0.6, 0.4, 0.2))]
    found = find_roles(edges(*rows))
    assert found == {
        "a0.h0": "a0.h0",
        **{f"a1.h{n}": "a1.h0 and 3 more" for n in range(4)},
    }


@pytest.mark.parametrize(
    "other",
    [("a0.h0", "a1.h1", "v", 1.0), ("a0.h0", "a1.h1", "k", -1.0), ("a0.h1", "a1.h1", "k", 1.0)],
    ids=["port", "sign", "partner"],
)
def test_other_ports_signs_and_partners_are_other_roles(other: Row) -> None:
    found = find_roles(edges(("a0.h0", "a1.h0", "k", 1.0), other))
    assert found["a1.h0"] != found["a1.h1"]


def test_likeness_is_the_geometric_mean_of_both_sides() -> None:
    """Purchases have a share of 0.5 in common, sales one of 0.8: together 0.632."""
    rows = edges(
        ("a0.h0", "a1.h0", "k", 1.0),
        ("a0.h0", "a1.h1", "k", 1.0),
        ("a0.h0", "a1.h1", "v", 1.0),
        ("a1.h0", "logits", "in", 5.0),
        ("a1.h1", "logits", "in", 4.0),
        ("a1.h1", "m1", "in", 1.0),
    )
    assert find_roles(rows, 0.63)["a1.h0"] == find_roles(rows, 0.63)["a1.h1"]
    assert find_roles(rows, 0.64)["a1.h0"] != find_roles(rows, 0.64)["a1.h1"]


def test_nothing_in_common_on_one_side_is_nothing_in_common() -> None:
    """Both sell the same, one of them buys."""
    rows = edges(
        ("a0.h0", "a1.h0", "k", 0.1), ("a1.h0", "m2", "in", 1.0), ("a1.h1", "m2", "in", 1.0)
    )
    assert find_roles(rows, 0.1)["a1.h0"] != find_roles(rows, 0.1)["a1.h1"]


def test_partners_are_alike_by_their_roles() -> None:
    """Suppliers of other customers share a role once their customers do (regular equivalence)."""
    rows = [("a0.h0", "a1.h0", "k", 1.0), ("a0.h1", "a1.h1", "k", 1.0)]
    assert len(groups(find_roles(edges(*rows)))) == 4
    common = [("m0", "a1.h0", "v", 5.0), ("m0", "a1.h1", "v", 5.0)]
    assert groups(find_roles(edges(*rows, *common))) == {
        frozenset({"a0.h0", "a0.h1"}), frozenset({"a1.h0", "a1.h1"}), frozenset({"m0"}),
    }  # fmt: skip


def test_who_trade_with_each_other_have_different_roles() -> None:
    """They buy and sell alike but for what one sells the other."""
    rows = [(s, b, "in", 9.0) for s in ("m0", "a1.h0", "m1") for b in ("m4", "m5")]
    rows += [("a0.h0", b, "v", 9.0) for b in ("a1.h0", "a2.h0")]
    rows += [("a2.h0", b, "in", 9.0) for b in ("m4", "m5")]
    found = find_roles(edges(*rows))
    assert found["a1.h0"] == found["a2.h0"] and found["m0"] == found["m1"]
    found = find_roles(edges(*rows, ("a1.h0", "a2.h0", "v", 0.5), ("m0", "m1", "in", 0.01)), 0.1)
    assert found["a1.h0"] != found["a2.h0"] and found["m0"] != found["m1"]


def test_trade_with_the_logits_tells_roles_apart_but_makes_none() -> None:
    rows = edges(
        ("a0.h0", "a1.h0", "k", 1.0), ("a0.h0", "a1.h1", "k", 1.0),
        ("a1.h0", "logits", "in", 1.0), ("a1.h1", "logits", "in", -1.0),
        ("a1.h2", "logits", "in", 1.0),
    )  # fmt: skip
    found = find_roles(rows)
    assert found["a1.h0"] != found["a1.h1"]
    assert set(found) == {"a0.h0", "a1.h0", "a1.h1"}
    assert find_roles(rows.filter(pl.col("buyer") == "logits")) == {}


def test_the_order_of_the_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    rows = list({
        (f"a{i}.h{s}", f"a{i + 1}.h{b}", p): float(np.exp(rng.normal()))
        for i, s, b, p in zip(
            rng.integers(0, 3, 150), rng.integers(0, 6, 150), rng.integers(0, 6, 150),
            rng.choice(list("qkv"), 150), strict=True,
        )
    }.items())  # fmt: skip
    table = edges(*((*edge, flow) for edge, flow in rows))
    found = find_roles(table, 0.2)
    assert 1 < len(set(found.values())) < len(found)
    assert list(found) == sorted(found)
    for _ in range(5):
        again = find_roles(table[rng.permutation(table.height)], 0.2)
        assert list(again.items()) == list(found.items())


def test_names_are_short() -> None:
    assert role_name(["a1.h10", "a1.h2", "a0.h3"]) == "a0.h3+a1.h2+a1.h10"
    assert role_name(["m1", "a1.h10", "a1.h2", "a0.h3"]) == "a0.h3 and 3 more"


def test_likeness_is_a_share() -> None:
    with pytest.raises(ConfigurationError) as error:
        find_roles(edges(), 0.0)
    assert str(error.value) == "alike must be above 0 and at most 1, not 0.0"

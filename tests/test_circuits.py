"""Modular circuits: planted ones are found, noise has none, and what is said of them is so."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import planted
import polars as pl
import pytest
from planted import Planted
from test_roles import edges

from circuit_econ.graph.circuits import Circuits, adjusted_rand, find_circuits
from circuit_econ.graph.counting import counted
from circuit_econ.graph.portraits import describe, portraits_table
from circuit_econ.tables import make_table

INDUCTION = (1.0, 0.6, 0.4, 0.2)


@pytest.fixture(scope="module")
def bound() -> dict[str, float]:
    return planted.null_bounds(np.random.default_rng(0), planted.pairs())


def mixed(seed: int) -> Planted:
    """One supplier with four alike buyers, a chain of three stages, three suppliers of one good.

    All sell to the logits in the end; which heads they are is drawn.
    """
    found = Planted(seed)
    found.plant([1, 4], ["k"])
    found.plant([2, 3, 2], ["k", "v"], first=1)
    found.plant([3, 2], ["v"])
    return found


def scores(seed: int, bound: dict[str, float], noise: float) -> tuple[float, float, float]:
    """Adjusted Rand index of circuits and of roles, share of the planted that is assigned."""
    truth = mixed(seed)
    found = find_circuits(counted(truth.table(noise), bound), seed=seed)
    both, circuits = adjusted_rand(truth.assigned, found.assigned)
    _, roles = adjusted_rand(truth.roles, found.role)
    assert circuits is not None and roles is not None
    return circuits, roles, both / len(truth.assigned)


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4])
def test_planted_circuits_are_found(bound: dict[str, float], noise: float) -> None:
    """Flows of a circuit differ by a factor of 5 (95 %).

    For each of their edges there are 0, 0.2 or 0.4 false ones of 0.3 nats where theirs have 1, half
    of them among the members of circuits.
    """
    found = np.array([scores(seed, bound, noise) for seed in range(10)])
    circuits, roles, assigned = found.mean(0)
    assert circuits >= 0.95
    assert roles >= 0.9
    assert assigned >= 0.95


def test_noise_has_no_circuits() -> None:
    rng, pairs = np.random.default_rng(2), planted.pairs()[::3]
    bound, with_circuits = planted.null_bounds(rng, pairs), 0
    for _ in range(200):
        rows = planted.background(rng, pairs, se=1e-5)
        with_circuits += len(find_circuits(counted(rows, bound)).names) > 0
    assert with_circuits <= 10


@pytest.mark.parametrize("extra", [False, True], ids=["alone", "with other goods"])
def test_the_induction_circuit_is_one_with_two_roles(extra: bool) -> None:
    rows = [("a0.h2", f"a1.h{n}", "k", x) for n, x in enumerate(INDUCTION)]
    rows += [(f"a1.h{n}", "logits", "in", 1.2 * x) for n, x in enumerate(INDUCTION)]
    rows += [("a0.h2", "logits", "in", 0.1)]
    if extra:
        rows += [
            ("a0.h0", "a1.h0", "v", 0.1), ("a0.h1", "a1.h2", "v", -0.05),
            ("a0.h3", "a1.h3", "v", 0.08), ("a0.h2", "a1.h3", "v", 0.05),
        ]  # fmt: skip
    found = find_circuits(edges(*rows))
    assert found.names == ("c1",)
    assert found.roles("c1") == {
        "a0.h2": ("a0.h2",),
        "a1.h0 and 3 more": ("a1.h0", "a1.h1", "a1.h2", "a1.h3"),
    }
    assert found.inside("a0.h2", "a1.h3") == "c1"
    assert found.inside("a0.h0", "a1.h0") is None
    assert found.inside("a0.h0", "a0.h1") is None
    if extra:
        assert found.membership["a1.h3"] == pytest.approx(0.25 / 0.33)


def test_circuits_that_share_an_output_are_two_and_the_larger_is_the_first() -> None:
    rows = [("a0.h0", "a1.h0", "k", 1.0), ("a0.h1", "a1.h1", "k", -2.0)]
    rows += [(f"a1.h{n}", "logits", "in", 3.0) for n in range(2)]
    found = find_circuits(edges(*rows))
    assert found.assigned == {"a0.h1": "c1", "a1.h1": "c1", "a0.h0": "c2", "a1.h0": "c2"}


def test_a_part_splits_off_only_where_every_part_trades_more_inside() -> None:
    def chain(between: float) -> tuple[str, ...]:
        rows = [("a0.h0", "a1.h0", "k", 1.0), ("a1.h0", "a2.h0", "v", between)]
        return find_circuits(edges(*rows, ("a2.h0", "a3.h0", "q", 1.0))).names

    assert chain(0.5) == ("c1", "c2")
    assert chain(1.5) == ("c1",)
    star = [("m0", f"m{n}", "in", 1.0 / n) for n in range(1, 6)]
    assert len(find_circuits(edges(*star)).names) == 1


def test_small_circuits_are_found_among_many() -> None:
    """Thirty circuits in a ring: more than modularity can resolve."""
    rows = []
    for n in range(30):
        a, b, c = (f"a{layer}.h{n}" for layer in range(3))
        rows += [(a, b, "k", 1.0), (a, c, "v", 1.0), (b, c, "q", 1.0)]
        rows += [(a, f"a2.h{(n + 1) % 30}", "k", 0.3)]
    found = find_circuits(edges(*rows))
    assert len(found.names) == 30
    assert {len(found.members(name)) for name in found.names} == {3}


def test_what_is_minor_to_all_its_partners_is_outside() -> None:
    rows = [("a0.h0", "a1.h0", "k", 1.0), ("m0", "a1.h0", "v", 0.09), ("m1", "m2", "in", 0.01)]
    found = find_circuits(edges(*rows))
    assert set(found.assigned) == {"a0.h0", "a1.h0", "m1", "m2"}
    assert "m0" in find_circuits(edges(*rows[:1], ("m0", "a1.h0", "v", 0.11))).assigned


def test_every_member_trades_within_its_circuit(bound: dict[str, float]) -> None:
    for seed in range(10):
        rows = counted(mixed(seed).table(1.0), bound)
        found = find_circuits(rows)
        between = rows.filter(pl.col("buyer") != "logits")
        for name, circuit in found.assigned.items():
            own = between.filter((pl.col("supplier") == name) | (pl.col("buyer") == name))
            inside = sum(
                abs(flow)
                for s, b, flow in own.select("supplier", "buyer", "flow").iter_rows()
                if found.inside(s, b) == circuit
            )
            share = inside / float(own["flow"].abs().sum())
            assert 0 < found.membership[name] <= 1
            assert found.membership[name] == pytest.approx(share)
        owners = {role: found.assigned[name] for name, role in found.role.items()}
        assert all(owners[found.role[n]] == circuit for n, circuit in found.assigned.items())
        assert "logits" not in found.assigned


def test_the_order_of_the_rows_does_not_matter(bound: dict[str, float]) -> None:
    rng, rows = np.random.default_rng(3), mixed(1).table(0.5)
    found = find_circuits(counted(rows, bound), seed=4)
    for _ in range(3):
        again = find_circuits(counted(rows[rng.permutation(rows.height)], bound), seed=4)
        assert again == found and list(again.assigned) == list(found.assigned)


def test_hashes_of_strings_do_not_matter() -> None:
    code = (
        "import numpy as np, planted; from test_circuits import mixed;"
        "from circuit_econ.graph.counting import edge_class, counted;"
        "from circuit_econ.graph.circuits import find_circuits;"
        "b = {edge_class(e[1]): 0.1 for e in planted.pairs()};"
        "print(find_circuits(counted(mixed(2).table(1.0), b)))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True,
            capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": hashed},
        ).stdout
        for hashed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1 and "c2" in told.pop()


def test_no_edges_make_no_circuits() -> None:
    found = find_circuits(edges(("a0.h0", "logits", "in", 1.0)))
    assert found == Circuits() and found.names == ()
    assert make_table("circuits", {"step": 1, **found.columns()}).is_empty()


def test_circuits_come_back_from_their_table(bound: dict[str, float]) -> None:
    found = find_circuits(counted(mixed(5).table(0.5), bound))
    table = make_table("circuits", {"step": 1, **found.columns()})
    again = Circuits.from_table(table.reverse())
    assert again == found and again.columns() == found.columns()


def test_adjusted_rand_counts_pairs() -> None:
    """Against the definition by pairs (Hubert & Arabie 1985), over random assignments."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = ({f"m{n}": str(x) for n, x in enumerate(rng.integers(0, 3, 9))} for _ in range(2))
        pairs = [(a[x] == a[y], b[x] == b[y]) for x, y in combinations(a, 2)]
        tp, fp = pairs.count((True, True)), pairs.count((False, True))
        fn, tn = pairs.count((True, False)), pairs.count((False, False))
        by_pairs = 2 * (tp * tn - fn * fp) / ((tp + fn) * (fn + tn) + (tp + fp) * (fp + tn))
        assert adjusted_rand(a, b) == (9, pytest.approx(by_pairs))
    assert adjusted_rand({"a": "1", "b": "1", "c": "2"}, {"a": "x", "b": "x", "c": "y"}) == (3, 1)


def test_adjusted_rand_leaves_out_what_one_does_not_assign() -> None:
    assert adjusted_rand({"a": "1", "b": "1"}, {"b": "1", "c": "1"}) == (1, None)
    assert adjusted_rand({}, {}) == (0, None)
    assert adjusted_rand({"a": "1", "b": "1", "c": "2"}, {"a": "1", "b": "1"}) == (2, 1.0)
    assert adjusted_rand({"a": "1", "b": "1"}, {"a": "1", "b": "2"}) == (2, 0.0)


def test_a_portrait_adds_up() -> None:
    rows = edges(
        ("a0.h0", "a1.h0", "k", 1.0), ("a0.h0", "a1.h1", "k", 2.0), ("a0.h0", "a1.h1", "v", -0.25),
        ("m0", "a1.h0", "v", 0.125), ("a1.h0", "m2", "in", -0.125), ("a1.h1", "m2", "in", 0.0625),
        ("a1.h0", "logits", "in", 3.0), ("a0.h0", "logits", "in", -1.0),
    )  # fmt: skip
    names = ["a0.h0", "a1.h0", "a1.h1"]
    circuits = Circuits(
        dict.fromkeys(names, "c1"),
        {"a0.h0": "a0.h0", "a1.h0": "a1.h0+a1.h1", "a1.h1": "a1.h0+a1.h1"},
        dict.fromkeys(names, 1.0),
    )
    capacity = pl.DataFrame(
        [
            ("a0.h0", "parameters", "weights", 64.0), ("a1.h0", "parameters", "weights", 32.0),
            ("m0", "parameters", "weights", 512.0), ("a0.h0", "stream_share", "final", 0.25),
            ("a0.h0", "stream_share", "block.10", 0.5), ("a1.h0", "stream_share", "block.9", 0.75),
            ("a1.h0", "stream_share", "block.10", 0.5),
        ],
        schema=["component", "currency", "place", "amount"], orient="row",
    )  # fmt: skip
    (found,) = describe(circuits, rows, capacity)
    assert found.roles == {"a0.h0": ("a0.h0",), "a1.h0+a1.h1": ("a1.h0", "a1.h1")}
    assert found.goods == {
        ("a0.h0", "a1.h0+a1.h1", "k"): 3.0,
        ("a0.h0", "a1.h0+a1.h1", "v"): -0.25,
    }
    assert found.suppliers == {"m0": 0.125}
    assert list(found.buyers.items()) == [("logits", 2.0), ("m2", -0.0625)]
    assert (found.product, found.to_logits) == (1.9375, 2.0)
    assert (found.internal, found.external) == (3.25, 0.3125)
    assert found.capacity == {"parameters": 96.0, "stream_share": 0.75}
    flows = rows.select("supplier", "buyer", "port", signal="flow", crowding=pl.lit(0.0))
    assert describe(circuits, flows)[0].goods == found.goods
    (row,) = portraits_table([found]).rows(named=True)
    assert row["roles"] == "a0.h0 | a1.h0, a1.h1" and row["members"] == 3
    assert row["goods"].startswith("a0.h0 → a1.h0+a1.h1 k 3, ")
    assert (row["suppliers"], row["buyers"]) == ("m0 0.125", "logits 2, m2 -0.0625")
    assert row["capacity_parameters"] == 96.0 and row["external"] == 0.3125
    assert portraits_table([]).height == 0

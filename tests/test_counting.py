"""Which edges count: classes, bounds from untrained models, sampling error."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import planted
import polars as pl
import pytest

from circuit_econ.errors import ConfigurationError
from circuit_econ.graph.counting import (
    Quantity,
    amount,
    bounds,
    counted,
    edge_class,
    kind_of,
    largest,
    shortfall,
)


def maxima(sizes: dict[str, list[float]]) -> pl.DataFrame:
    rows = [(seed, name, x) for name, xs in sizes.items() for seed, x in enumerate(xs)]
    return pl.DataFrame(rows, schema=["seed", "class", "largest"], orient="row")


def trade(
    *rows: tuple[str, str, str, float, float, float | None], missed: float | None = 0.0
) -> pl.DataFrame:
    names = ["supplier", "buyer", "port", "signal", "crowding", "se"]
    found = pl.DataFrame(rows, schema=names, orient="row")
    return found.with_columns(integration_error=pl.lit(missed, pl.Float64))


def exact(*rows: tuple[str, str, str, float, float | None]) -> pl.DataFrame:
    names = ["supplier", "buyer", "port", "effect", "se"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_edges_are_classed_by_what_is_sold() -> None:
    assert edge_class("a3.h12") == "capital flow"
    assert edge_class("m0", Quantity.EFFECT) == "capital effect"
    assert edge_class("logits") == "final flow"
    assert [kind_of(name) for name in ("pos", "a1.h2", "m3")] == ["pos", "head", "mlp"]


def test_what_is_no_component_is_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        kind_of("a0.b_O")
    assert str(error.value) == (
        "'a0.b_O' is no component; there are: embed, pos, a<layer>.h<head>, m<layer>, and logits "
        "as a buyer"
    )


def test_the_largest_flow_of_a_class_is_signal_and_crowding_without_sign() -> None:
    rows = trade(
        ("a0.h0", "a1.h0", "k", 1.0, -3.0, None),
        ("a0.h1", "a1.h0", "k", 1.5, 0.0, None),
        ("a0.h0", "a1.h0", "k_scale", 0.25, 0.25, None),
    )
    sold = trade(
        *rows.drop("integration_error").rows(), ("a0.h1", "logits", "in", 0.5, -0.75, None)
    )
    assert largest(sold).rows() == [("capital flow", 2.0), ("final flow", 0.25)]
    broken = trade(
        *rows.drop("integration_error").rows(), ("a0.h1", "a1.h1", "k", math.nan, 0.0, None)
    )
    assert math.isnan(largest(broken)["largest"][0])
    effects = exact(("a0.h0", "a1.h0", "k", -0.5, None), ("a0.h0", "logits", "in", 0.25, None))
    assert largest(effects, Quantity.EFFECT).rows() == [
        ("capital effect", 0.5), ("final effect", 0.25),
    ]  # fmt: skip


def test_a_further_untrained_model_seldom_exceeds_a_bound() -> None:
    """The stated rate, 1 % over all classes, for maxima of flows with light and heavy tails."""
    rng, classes, models, trials = np.random.default_rng(0), 6, 10, 100
    draws = {
        "lognormal": lambda size: np.exp(rng.normal(size=size)),
        "normal": lambda size: abs(rng.normal(size=size)),
        "power": lambda size: abs(rng.standard_t(3, size=size)),
    }
    for draw in draws.values():
        exceeded = 0
        for _ in range(trials):
            found = draw((classes, models + 1, 200)).max(2)
            bound = bounds(maxima({str(k): row[:-1].tolist() for k, row in enumerate(found)}))
            exceeded += any(row[-1] > bound[str(k)] for k, row in enumerate(found))
        assert exceeded / trials <= 0.04  # 3 errors of a rate of 1 %


def test_bounds_follow_spread_number_and_scale() -> None:
    narrow, wide = [1.0, 1.1, 0.9, 1.05, 0.95], [1.0, 2.0, 0.5, 1.5, 0.75]
    found = bounds(maxima({"narrow": narrow, "wide": wide}))
    assert 1.1 < found["narrow"] < found["wide"]
    # Scale of the flows is scale of the bound.
    double = bounds(maxima({"narrow": [2 * x for x in narrow], "wide": wide}))
    assert double["narrow"] == pytest.approx(2 * found["narrow"])
    # More models say it better; more classes ask for more.
    assert bounds(maxima({"wide": 4 * wide}))["wide"] < bounds(maxima({"wide": wide}))["wide"]
    assert bounds(maxima({"wide": wide}))["wide"] < found["wide"]


def test_zeros_are_handled() -> None:
    found = bounds(maxima({"none": [0.0] * 5, "some": [0.0, 1.0, 1.0, 2.0, 2.0]}))
    assert found["none"] == 0
    assert found["some"] == bounds(maxima({"none": [0.0] * 5, "some": [1.0, 1, 1, 2, 2]}))["some"]
    assert found["some"] > 2
    assert bounds(maxima({"same": [3.0] * 5})) == {"same": pytest.approx(3)}


def test_too_few_untrained_models_are_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        bounds(maxima({"head → head k": [1.0, 2.0, 3.0, 4.0]}))
    assert str(error.value) == (
        "4 untrained models give no bound on what untrained models reach (head → head k): measure "
        "at least 5"
    )


def test_flows_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        bounds(maxima({"head → head k": [1.0, 2.0, 3.0, 4.0, math.nan]}))
    assert str(error.value) == (
        "an untrained model is not finite (head → head k): there is no bound on what "
        "untrained models reach; measure in float64, or initialise with less"
    )


BOUND = {"capital flow": 1.0, "final flow": 0.0}


def test_an_edge_counts_beyond_error_and_bound() -> None:
    z = NormalDist().inv_cdf(1 - 0.01 / 2 / 6)
    rows = trade(
        ("a1.h0", "logits", "in", 0.1, 0.0, 0.1 / z * 0.99),  # just beyond its error
        ("a1.h1", "logits", "in", 0.1, 0.0, 0.1 / z * 1.01),
        ("a0.h0", "a1.h0", "k", 1.0, 0.5, 0.5 / z * 0.99),
        ("a0.h0", "a1.h1", "k", -2.0, 0.5, 0.5 / z * 0.99),  # losses count like gains
        ("a0.h1", "a1.h1", "k", 1.0, 0.5, 0.5 / z * 1.01),
        ("a0.h0", "a1.h0", "v", 0.0, 0.0, 0.0),
        ("a0.h1", "a1.h0", "v", 9.0, 0.0, None),  # without an error nobody knows
        ("a0.h1", "a1.h1", "v", math.nan, 0.0, 0.1),
    )
    found = counted(rows, BOUND)
    assert found.columns == [
        "supplier", "buyer", "port", "flow", "se", "integration_error", "bound", "effect",
        "effect_se", "effect_bound", "admitted_by",
    ]  # fmt: skip
    assert found.select("supplier", "buyer", "port", "flow", "bound", "admitted_by").rows() == [
        ("a0.h0", "a1.h0", "k", 1.5, 1.0, "flow"),
        ("a0.h0", "a1.h1", "k", -1.5, 1.0, "flow"),
        ("a1.h0", "logits", "in", 0.1, 0.0, "flow"),
    ]
    assert found["effect"].is_null().all() and amount(found).to_list() == [1.5, -1.5, 0.1]
    assert counted(rows.reverse(), BOUND).equals(found)
    assert counted(rows.clear(), {}).is_empty()


def test_a_small_flow_through_a_quiet_port_does_not_count_where_larger_ones_do_not() -> None:
    """Untrained models hardly use keys; a bound on keys alone would be next to nothing."""
    untrained = pl.concat(
        largest(trade(
            ("a0.h0", "a1.h0", "k", 0.001 * size, 0.0, None),
            ("a0.h0", "a1.h0", "v", 0.01 * size, 0.0, None),
        )).with_columns(seed=pl.lit(seed))
        for seed, size in enumerate((0.8, 1.0, 1.2, 0.9, 1.1))
    )  # fmt: skip
    rows = trade(
        ("a0.h0", "a1.h0", "k", 0.009, 0.0, 1e-5), ("a0.h0", "a1.h0", "v", 0.011, 0.0, 1e-5)
    )
    assert counted(rows, bounds(untrained)).is_empty()
    assert counted(rows.with_columns(pl.col("signal") * 3), bounds(untrained)).height == 2


def test_an_exact_effect_admits_an_edge_that_flows_miss() -> None:
    bound = BOUND | {"capital effect": 0.5, "final effect": 0.0}
    z = NormalDist().inv_cdf(1 - 0.01 / 2 / (2 * 5))
    rows = trade(
        ("a0.h0", "a1.h0", "k", 0.01, 0.0, 0.001),
        ("a0.h0", "a1.h1", "k", 2.0, 0.0, 0.9 / z),
        ("a0.h1", "a1.h0", "k", 2.0, 0.0, 0.9 / z),
        ("a0.h1", "a1.h1", "k", 0.4, 0.0, None),  # its effect has an error
        ("a0.h2", "a1.h1", "k", 0.01, 0.0, 0.001),
        ("a1.h0", "logits", "in", 0.0, 0.0, 0.001),
    )
    effects = exact(
        ("a0.h0", "a1.h0", "k", 1.5, 1.0 / z * 0.99),
        ("a0.h0", "a1.h1", "k", 1.5, 1.0 / z * 0.99),
        ("a0.h1", "a1.h0", "k", 1.5, 1.0 / z * 1.01),
        ("a0.h1", "a1.h1", "k", -1.5, 0.1 / z),
        ("a0.h2", "a1.h1", "k", 0.49, 0.0),
        ("embed", "a1.h1", "k", 9.0, 0.1),  # nobody sells the endowment
    )
    found = counted(rows, bound, effects)
    assert found.select("supplier", "buyer", "flow", "effect", "admitted_by").rows() == [
        ("a0.h0", "a1.h0", 0.01, 1.5, "effect"),
        ("a0.h0", "a1.h1", 2.0, 1.5, "both"),
        ("a0.h1", "a1.h0", 2.0, 1.5, "flow"),
        ("a0.h1", "a1.h1", 0.4, -1.5, "effect"),
    ]
    assert found["effect_bound"].to_list() == [0.5] * 4
    # What is traded is what was admitted.
    assert amount(found).to_list() == [1.5, 2.0, 2.0, -1.5]
    assert counted(rows, bound, effects.reverse()).equals(found)
    with pytest.raises(ConfigurationError) as error:
        counted(rows, BOUND, effects)
    assert str(error.value) == (
        "no untrained model says what capital effects may reach; there is: capital flow, final flow"
    )


def test_flows_and_effects_share_one_level() -> None:
    some = [1.0, 2.0, 0.5, 1.5, 0.75]
    alone = bounds(maxima({"capital flow": some}))
    both = bounds(maxima({"capital flow": some, "capital effect": some}))
    assert both["capital flow"] == both["capital effect"] > alone["capital flow"]


def test_how_many_sequences_would_make_a_flow_count() -> None:
    z = NormalDist().inv_cdf(1 - 0.01 / 2 / 3)
    rows = trade(
        ("a0.h0", "a1.h0", "k", 1.0, -3.0, 1.999 / z),  # twice the error it may have
        ("a0.h0", "a1.h1", "k", 0.5, 0.0, 0.001),
        ("a1.h0", "logits", "in", 1.0, 0.0, 1.499 / z),
    )
    assert shortfall(rows, BOUND, 100) == {
        "supplier": "a0.h0", "buyer": "a1.h0", "port": "k", "flow": -2.0, "se": 1.999 / z,
        "integration_error": 0.0, "bound": 1.0, "needed": 400, "fewest": 225,
    }  # fmt: skip
    # With that many it does.
    more = rows.with_columns(pl.col("se") / 2)
    assert counted(rows.head(1), BOUND).is_empty()
    assert "a0.h0" in counted(more, BOUND)["supplier"]
    # Untrained models reach as much, or nobody knows the error: never.
    never = shortfall(rows, BOUND | {"capital flow": 2.0}, 100)
    assert never["needed"] is None and never["fewest"] == 225
    unknown = shortfall(rows.with_columns(se=pl.lit(None, pl.Float64)), BOUND, 100)
    assert unknown["flow"] == -2.0 and unknown["needed"] is unknown["fewest"] is None
    none = shortfall(rows.clear(), BOUND, 100)
    assert none["supplier"] is none["needed"] is none["fewest"] is None


def test_what_the_integral_may_be_off_by_is_taken_off_whole() -> None:
    z = NormalDist().inv_cdf(1 - 0.01 / 2)
    row = ("a0.h0", "a1.h0", "k", -1.0, -0.5, 0.1)
    for over, missed in ((True, 0.99), (False, 1.01)):
        flows = trade(row, missed=missed * (0.5 - 0.1 * z))
        assert counted(flows, {"capital flow": 1.0}).height == over
        assert (shortfall(flows, {"capital flow": 1.0}, 100)["needed"] <= 100) == over
    assert counted(trade(row, missed=None), {"capital flow": 0.0}).is_empty()


def test_sampling_error_alone_counts_no_edge() -> None:
    """Thousands of edges without a flow: in one table of a hundred one may count."""
    rng, edges = np.random.default_rng(1), planted.pairs()
    bound = {edge_class(edge[1]): 0.0 for edge in edges}
    hits = sum(
        counted(planted.table(edges, 0.1 * rng.normal(size=len(edges)), 0.1), bound).height > 0
        for _ in range(100)
    )
    assert len(edges) > 1000 and hits <= 4


def test_edges_of_several_steps_or_baselines_are_refused() -> None:
    row = ("a0.h0", "a1.h0", "k", 1.0, 0.0, 0.1)
    with pytest.raises(ConfigurationError) as error:
        counted(trade(row, row), BOUND)
    assert str(error.value) == (
        "the flow a0.h0 a1.h0 k is there more than once: edges are counted at one step and under "
        "one baseline"
    )


def test_a_class_without_a_bound_is_named() -> None:
    with pytest.raises(ConfigurationError) as error:
        counted(trade(("a0.h0", "a1.h0", "k", 1.0, 0.0, 0.1)), {"final flow": 1.0})
    assert str(error.value) == (
        "no untrained model says what capital flows may reach; there is: final flow"
    )

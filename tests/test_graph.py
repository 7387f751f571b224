"""The composition graph on flow tables that were written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traded import ROWS, flows, trading

import circuit_econ as ce
from circuit_econ.graph import ATTRIBUTES, capital_share, described, through_flow, upstreamness


def test_a_graph_has_an_edge_for_every_supplier_buyer_and_port(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path), step=10)
    assert isinstance(graph, nx.MultiDiGraph)
    assert set(graph.edges(keys=True)) == {row[:3] for row in ROWS} | {("embed", "a0.h0", "q")}
    edge = graph.edges["a0.h0", "a1.h0", "k"]
    assert edge == {
        "port": "k", "signal": 1.0, "crowding": -0.25, "flow": 0.75, "weight": 0.75,
        "flow_se": 0.01, "integration_error": 0.125, "effect": 0.6, "effect_se": 0.02, "score": 0.4,
        "counts": True, "bound": 0.125, "circuit": "c1",
    }  # fmt: skip
    assert graph.edges["a0.h0", "a1.h0", "v"]["weight"] == 0.125
    assert graph.edges["a0.h0", "a1.h0", "v"]["flow"] == -0.125
    # Neither bought nor tried: the static score is all there is.
    assert graph.edges["embed", "a0.h0", "q"] == {"port": "q", "score": 0.1}


def test_nodes_hold_what_was_measured(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path), step=10)
    assert list(graph) == ["embed", "a0.h0", "a0.h1", "m0", "a1.h0", "logits"]
    node = graph.nodes["a0.h0"]
    assert (node["kind"], node["layer"], node["head"]) == ("head", 0, 0)
    assert node["value_mean"] == 2.0 and node["value_zero"] == 3.0
    assert node["value_se_mean"] == 0.5
    assert "value_se_zero" not in node  # null in the table
    assert node["income"] == 0.75 and node["income_se"] == 0.03
    assert node["integration_error"] == 0.0625
    assert (node["income_stage_1"], node["income_stage_2"]) == (0.25, 0.5)
    assert node["upstreamness"] == pytest.approx(1 + 0.5 / 0.75)
    assert node["sold"] == pytest.approx(0.75 - 0.125 + 0.25) and node["bought"] == 0
    assert graph.nodes["a1.h0"]["bought"] == pytest.approx(0.625)
    # Of the places where a share was read, the last; of weights the only one.
    assert node["capacity_stream_share"] == 0.3 and node["capacity_parameters"] == 64.0
    assert (node["circuit"], node["role"], node["membership"]) == ("c1", "r1", 0.5)
    assert (node["direct"], node["mediated"], node["interaction"]) == (0.2, 0.5, 0.1)
    assert "upstreamness" not in graph.nodes["m0"]  # it earns nothing
    assert graph.nodes["logits"]["kind"] == "logits" and "sold" in graph.nodes["logits"]
    assert "a0.b_O" not in graph


def test_the_graph_itself_says_where_it_is_from(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path), step=10)
    assert graph.graph["name"] == "Ökonomie → 経済"
    assert graph.graph["step"] == 10 and graph.graph["baseline"] == "mean"
    assert graph.graph["product"] == 2.0 and graph.graph["nodes"] == 9
    assert graph.graph["capital_share"] == pytest.approx(0.625 / 1.875)
    assert graph.graph["missed"] == 0.003 and graph.graph["converged"] is True
    assert graph.graph["tokens_seen"] == 5120 and graph.graph["loss"] > 0
    assert graph.graph["parallel"] is True  # no head of layer 0 sells to m0


def test_a_head_that_feeds_its_mlp_makes_the_block_serial(tmp_path: Path) -> None:
    rows = [*ROWS, ("a0.h1", "m0", "in", 0.5, 0.0)]
    assert ce.composition_graph(trading(tmp_path, rows), step=10).graph["parallel"] is False


def test_every_attribute_is_listed_with_its_type(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path), step=10)
    found = [("graph", graph.graph)]
    found += [("node", data) for _, data in graph.nodes(data=True)]
    found += [("edge", data) for *_, data in graph.edges(data=True)]
    seen = set()
    for on, data in found:
        for name, value in data.items():
            entry = described(on, name)
            assert entry is not None, (on, name)
            assert type(value) is entry.type, (on, name, value)
            seen.add(entry)
    # The list promises nothing that a full ledger lacks.
    assert seen == set(ATTRIBUTES)
    assert described("node", "flow") is None


def test_missing_tables_are_absent_attributes(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path, tables=("flows",)), step=10)
    edge = graph.edges["a0.h0", "a1.h0", "k"]
    assert set(edge) == {
        "port", "signal", "crowding", "flow", "flow_se", "integration_error", "weight",
    }  # fmt: skip
    assert set(graph.nodes["a0.h0"]) == {"kind", "layer", "head", "bought", "sold"}
    assert set(graph.graph) == {
        "step", "baseline", "name", "capital_share", "parallel", "tokens_seen", "loss", "loss_se",
    }  # fmt: skip


def test_exact_edges_alone_are_enough(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path, tables=("edges",)), step=10)
    assert graph.edges["a0.h0", "a1.h0", "k"] == {
        "port": "k", "effect": 0.6, "effect_se": 0.02, "weight": 0.6,
    }  # fmt: skip
    assert "capital_share" not in graph.graph and "parallel" not in graph.graph


def test_another_baseline_is_named(tmp_path: Path) -> None:
    ledger = trading(tmp_path, baselines=("zero", "mean"))
    assert ce.composition_graph(ledger, 10).graph["baseline"] == "zero"
    graph = ce.composition_graph(ledger, 10, baseline="mean")
    assert graph.edges["a0.h0", "a1.h0", "k"]["signal"] == 1.0
    graph = ce.composition_graph(ledger, 10, baseline="zero")
    assert graph.edges["a0.h0", "a1.h0", "k"]["signal"] == 2.0
    with pytest.raises(ce.ConfigurationError) as error:
        ce.composition_graph(ledger, 10, baseline="resample")
    assert str(error.value) == "unknown baseline 'resample'; there is: zero, mean"


def test_an_unknown_step_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(ce.ConfigurationError) as error:
        ce.composition_graph(trading(tmp_path), step=11)
    assert str(error.value) == "unknown step '11'; there is: 10, 100"


def test_a_ledger_without_trade_says_what_to_measure(tmp_path: Path) -> None:
    with pytest.raises(ce.ConfigurationError) as error:
        ce.composition_graph(trading(tmp_path, tables=("value",)), step=10)
    assert str(error.value) == (
        "the ledger has neither flows nor edges, of which a composition graph is made; there is: "
        "components, checkpoints, value; walk again with measure=[income]"
    )


def test_a_step_without_trade_is_said(tmp_path: Path) -> None:
    with pytest.raises(ce.ConfigurationError) as error:
        ce.composition_graph(trading(tmp_path, rows=[], tables=("flows",)), step=10)
    assert str(error.value) == (
        "the flows and edges of this step have no rows: nobody trades, so there is no graph"
    )


def test_capital_share_is_what_components_buy() -> None:
    assert capital_share(flows(ROWS)) == pytest.approx(0.625 / 1.875)
    assert capital_share(flows([("a", "logits", "in", 1.0, 0.0)])) == 0.0
    # Losses: more than everything may go to components.
    assert capital_share(
        flows([("a", "b", "q", 2.0, 0.0), ("b", "logits", "in", -1.0, 0.0)])
    ) == pytest.approx(2.0)


def test_capital_share_is_undefined_near_zero() -> None:
    nearly = [("a", "b", "q", 1.0, 0.0), ("b", "logits", "in", -0.99, 0.0)]
    assert capital_share(flows(nearly)) is None
    enough = [("a", "b", "q", 1.0, 0.0), ("b", "logits", "in", -0.9, 0.0)]
    assert capital_share(flows(enough)) == pytest.approx(10)
    assert capital_share(flows([])) is None
    assert capital_share(flows([("a", "b", "q", float("nan"), 0.0)])) is None


def test_upstreamness_counts_stages() -> None:
    assert upstreamness([2.0]) == 1
    assert upstreamness([0.0, 0.5]) == 2
    assert upstreamness([1.0, 0.0, 1.0]) == 2
    assert upstreamness([1.0, -0.5]) == pytest.approx(0.0)  # what it sells on, it loses
    assert upstreamness([1.0, -1.0]) is None
    assert upstreamness([-1.0]) is None
    assert upstreamness([]) is None
    assert upstreamness([float("nan")]) is None


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_upstreamness_is_the_derivative_of_the_polynomial(coefficients: Sequence[float]) -> None:
    def income(z: float) -> float:
        return sum(c * z**n for n, c in enumerate(coefficients))

    step = 1e-5
    slope = (income(1 + step) - income(1 - step)) / (2 * step)
    assert upstreamness(coefficients) == pytest.approx(1 + slope / income(1), rel=1e-6)


def test_through_flow_balances() -> None:
    found = through_flow(flows(ROWS))
    assert found.columns == ["component", "bought", "sold"]
    assert found["sold"].sum() == pytest.approx(found["bought"].sum()) == pytest.approx(1.875)
    row: dict[str, Any] = found.row(by_predicate=pl.col("component") == "a1.h0", named=True)
    assert row == {"component": "a1.h0", "bought": 0.625, "sold": 1.0}

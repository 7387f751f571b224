"""Charts of the composition graph: what is drawn of economies that are known exactly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import traded_runs
import vl_convert

from circuit_econ.report import charts, gather
from circuit_econ.report.frames import RunFrames

CHARTS: dict[str, Callable[[RunFrames], Any]] = {
    "graph": charts.graph_by_depth,
    "matrix": charts.flow_matrix,
    "capital": charts.capital_over_time,
    "stages": charts.income_by_stage,
    "edges": charts.edges_over_time,
    "crowding": charts.signal_against_crowding,
    "direct": charts.direct_against_mediated,
    "exact": charts.effect_against_flow,
    "lanes": charts.circuit_lanes,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFrames:
    return gather(traded_runs.trading_run(tmp_path_factory.mktemp("charts") / "run"))


def drawn(chart: Any, **chosen: Any) -> str:
    """The drawn chart under other choices: fails on whatever Vega-Lite refuses."""
    spec = chart.to_dict()
    for param in spec.get("params", []):
        if param["name"] in chosen:
            param["value"] = chosen[param["name"]]
    return vl_convert.vegalite_to_svg(spec)


def marks(text: str, kind: str) -> int:
    return len(re.findall(rf'aria-roledescription="{kind}"', text))


def titles(spec: object) -> Iterator[str]:
    """All titles in a specification."""
    if isinstance(spec, dict):
        if isinstance(spec.get("title"), str):
            yield spec["title"]
        for part in spec.values():
            yield from titles(part)
    elif isinstance(spec, list):
        for part in spec:
            yield from titles(part)


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_drawn_and_names_its_units(run: RunFrames, name: str) -> None:
    chart = CHARTS[name](run)
    text = drawn(chart)
    assert len(text) > 5000
    assert "undefined:" not in text or name == "capital"
    assert "NaN" not in text
    found = set(titles(chart.to_dict()))
    unit = "capital share of all flows" if name == "capital" else "nats per position"
    assert any(unit in title for title in found), found


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_says_nothing_of_fields_that_are_not_there(run: RunFrames, name: str) -> None:
    # An encoded field that no row has is told as undefined.
    assert "undefined;" not in drawn(CHARTS[name](run)).replace("undefined: all", "")


def test_graph_has_a_mark_for_every_node_and_edge(run: RunFrames) -> None:
    text = drawn(charts.graph_by_depth(run), smallest=0)
    assert marks(text, "point") == 9
    assert marks(text, "line mark") == 54
    assert "54 of 54 edges, with 100.0% of all |flow|" in text
    assert "step 1,000, mean baseline: who supplies whom" in text
    assert ">layer 1<" in text
    chosen = drawn(charts.graph_by_depth(run), smallest=0, checkpoint=1, baseline="zero")
    assert "step 10, zero baseline: who supplies whom" in chosen
    flow = traded_runs.flows_of(traded_runs.edges_of(2, 3, True), 10, "zero")[0]
    told = f"edge: a0.h0 → m0; port: in; flow (nats): {sum(flow):.4g} ± 0.0025"
    assert f"{told}; of it integration error: 0.0005" in chosen


def test_graph_puts_layers_upward_and_logits_on_top(run: RunFrames) -> None:
    params = {p["name"]: p for p in charts.graph_by_depth(run).to_dict()["params"]}
    places = params["places"]["value"]
    assert set(places) == set(run.trade.components)
    assert places["a0.h0"] == [0, 0]
    assert places["a1.h2"] == [2, 1]
    assert places["m0"][1] == 0.5
    assert places["logits"][1] == max(y for _, y in places.values())
    assert len({tuple(place) for place in places.values()}) == len(places)


def test_graph_marks_sign_and_good(run: RunFrames) -> None:
    text = drawn(charts.graph_by_depth(run), smallest=0)
    lines = re.findall(
        r'aria-label="[^"]*flow \(nats\): ([-−\d.e]+) ±[^"]*"[^>]*stroke="(#\w+)"', text
    )
    assert len(lines) == 54
    for flow, colour in lines:
        assert colour == ("#e07b28" if float(flow.replace("−", "-")) < 0 else "#3f8fcb")
    found = re.search(r'component: logits;[^"]*"[^>]*fill="(#\w+)"', text)
    assert found is not None and found[1] == "#8a94a3"  # who sells nothing has no good


def test_threshold_opens_with_few_edges(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(
        tmp_path / "run", layers=6, heads=6, steps=(100,), baselines=("mean",), tables=["flows"]
    )
    run = gather(ledger)
    params = {p["name"]: p for p in charts.graph_by_depth(run).to_dict()["params"]}
    smallest, options = params["smallest"]["value"], params["smallest"]["bind"]["options"]
    sizes = (run.trade.edges["signal"] + run.trade.edges["crowding"]).abs()
    assert 0 < (sizes >= smallest).sum() <= 60
    assert options == sorted(options) and options[0] == 0 and smallest in options
    assert (sizes >= options[options.index(smallest) - 1]).sum() > 60
    assert "bind" not in params["counted_only"]


def test_matrix_adds_up_ports(run: RunFrames) -> None:
    text = drawn(charts.flow_matrix(run))
    assert marks(text, "rect mark") == 3 * 6 + 5 + 3 * 2 + 1
    every = traded_runs.edges_of(2, 3, True)
    flows = map(sum, traded_runs.flows_of(every, 1000, "mean"))
    both = sum(f for e, f in zip(every, flows, strict=True) if e[:2] == ("a0.h0", "a1.h0"))
    told = f"edge: a0.h0 → a1.h0; flow (nats): {both:.4g} ± 0.0074; ports: k, q, v"
    assert told in text.replace("−", "-")
    one = drawn(charts.flow_matrix(run), port="k")
    assert marks(one, "rect mark") == 3 * 3 + 3
    assert " ± 0.0025; ports: k" in one
    # Where one of the ports has no error, the sum has none.
    edges = run.trade.edges.with_columns(se=pl.when(pl.col("port") != "v").then("se"))
    unsure = replace(run, trade=replace(run.trade, edges=edges))
    assert f"{both:.4g} (no se); ports" in drawn(charts.flow_matrix(unsure)).replace("−", "-")


def test_capital_share_has_a_line_and_points_per_baseline(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(
        tmp_path / "run", steps=(0, 1, 10, 100, 1000), cancelled=[10], flagged={"zero": [100]}
    )
    run = gather(ledger)
    text = drawn(charts.capital_over_time(run))
    assert text.count("undefined: all flows together are near 0") == 2 * 2
    assert text.count("flagged: yes: ablated loss beyond the error of the unigram loss") == 1
    assert marks(text, "point") == 10
    assert marks(text, "area mark") >= 1
    share = run.trade.economies.filter(pl.col("step") == 100)["share"][0]
    assert f"baseline: mean; capital share: {share:.4g}; flagged: no" in text


def test_stages_have_a_panel_per_layer(run: RunFrames) -> None:
    text = drawn(charts.income_by_stage(run))
    assert ">layer 0<" in text and ">layer 1<" in text
    assert marks(text, "line mark") == 2 * 5
    income = run.trade.stages.filter(
        (pl.col("step") == 100) & (pl.col("baseline") == "mean") & (pl.col("layer") == 0)
        & (pl.col("stage") == 2)
    )["income"][0]  # fmt: skip
    told = f"stage: 2; layer: layer 0; baseline: mean; income (nats): {income:.4g}"
    assert told in text.replace("−", "-")


def test_sampling_tells_what_is_hidden(run: RunFrames) -> None:
    text = drawn(charts.edges_over_time(run))
    hidden = "edges: not measured, expected sum; amount: 0.05 ± 0.02; all edges: 54"
    assert hidden in text
    assert "edges: drawn at random; amount: 0.7" in text


def test_effects_are_told_with_their_flows(run: RunFrames) -> None:
    text = drawn(charts.effect_against_flow(run))
    here = run.trade.effects.filter((pl.col("step") == 1000) & (pl.col("baseline") == "mean"))
    assert marks(text, "point") == here.height
    assert len(re.findall("chosen: at random", text)) == here["chosen"].eq("drawn").sum()
    assert len(re.findall(r"edge: [^;]+; flow \(nats\): [^ ]+ ± 0.0025;", text)) == here.height
    assert marks(text, "rule mark") == 2 * here.height + 2 * 2  # bars both ways, and both zeros


def test_incomes_are_told_with_what_their_integrals_are_off_by(run: RunFrames) -> None:
    for chart in (charts.graph_by_depth, charts.signal_against_crowding):
        told = re.findall(r"component: [^;]+;[^\"]*?income \(nats\): ([^;\"]+)", drawn(chart(run)))
        assert len(told) >= 8
        assert {text.partition(" ± ")[2] for text in told if text != "–"} == {"0.0046"}


def test_lanes_have_events_but_none_for_going_on(run: RunFrames) -> None:
    text = drawn(charts.circuit_lanes(run))
    assert re.findall(r"event: (\w+);", text).count("split") == 2
    assert "continuation" not in text
    assert marks(text, "point") == 4 + 4
    assert marks(text, "rule mark") == 1  # from L1 to L2
    assert ">L1<" in text and ">L2<" in text


def test_lanes_tell_what_grew_or_declined_and_since_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decline = (1000, "decline", "c0", "c0", 1.0, "mean", 0.01, 0.002, 0.38, 0.01, 100)
    monkeypatch.setattr(traded_runs, "EVENTS", [*traded_runs.EVENTS[:3], decline])
    text = drawn(charts.circuit_lanes(gather(traded_runs.trading_run(tmp_path / "run"))))
    (told,) = re.findall(r'aria-label="[^"]*event: decline[^"]*"', text)
    assert "parent's joint value (nats): 0.38 ± 0.01" in told.replace("&#39;", "'")
    assert "; joint value (nats): 0.01 ± 0.002" in told
    assert "grown or declined: since step 100" in told and "values under: mean" in told
    assert "event: birth" in text and "joint value (nats): 0.125 ± 0.01" in text


def test_lanes_without_values_are_drawn(tmp_path: Path) -> None:
    tables = [t for t in traded_runs.ALL if t not in ("circuit_values", "circuit_events")]
    run = gather(traded_runs.trading_run(tmp_path / "run", tables=tables))
    text = drawn(charts.circuit_lanes(run))
    assert "joint value" not in text
    assert "roles: a0.h0 · a1.h0, a1.h1" in text

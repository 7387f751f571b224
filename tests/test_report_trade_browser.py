"""The pictures of the composition graph as a reader meets them, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import traded_runs
from page_visits import TOOLTIPS, Visit, visit
from playwright.sync_api import Browser

SECTIONS = ["graph", "matrix", "crowding", "capital", "circuits", "stages", "exact", "direct"]


@pytest.fixture(scope="module")
def opened(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("trade")
    ledger = traded_runs.trading_run(folder / "run", flagged={"zero": [100], "mean": [10]})
    visited = visit(browser, [ledger], folder / "report.html")
    yield visited
    visited.page.close()


@pytest.fixture
def chosen(opened: Visit) -> Iterator[Visit]:
    """The page for tests that choose something: a reload hides it from the others."""
    yield opened
    opened.page.reload()
    opened.page.wait_for_function("window.circuitEcon && circuitEcon.ready")


def index_of(shown: Visit, section: str, nth: int = 0) -> int:
    element = shown.page.locator(f"#{section} .chart").nth(nth).get_attribute("id")
    assert element is not None
    return int(element.removeprefix("chart-"))


def tips(shown: Visit, section: str, nth: int = 0) -> list[dict[str, str]]:
    found = shown.chart(TOOLTIPS, index_of(shown, section, nth))
    return list({str(tip): tip for tip in found}.values())  # a line has its tooltip at each point


def edges(shown: Visit) -> dict[tuple[str, str], dict[str, str]]:
    return {(tip["edge"], tip["port"]): tip for tip in tips(shown, "graph") if "edge" in tip}


def flows(shown: Visit, step: int, baseline: str = "mean") -> dict[tuple[str, str], float]:
    of = (pl.col("step") == step) & (pl.col("baseline") == baseline)
    rows = shown.ledger.table("flows").filter(of).collect().iter_rows(named=True)
    return {
        (f"{row['supplier']} → {row['buyer']}", row["port"]): row["signal"] + row["crowding"]
        for row in rows
    }


def move(shown: Visit, checkpoint: int) -> None:
    shown.page.locator("#choose-checkpoint").fill(str(checkpoint))
    shown.page.wait_for_function(
        f"circuitEcon.views()[{index_of(shown, 'graph')}].signal('checkpoint') === {checkpoint}"
    )


def number(text: str) -> float:
    return float(text.split(" ")[0].replace("−", "-"))


def test_every_picture_is_drawn_without_errors_or_requests(opened: Visit) -> None:
    assert opened.errors == []
    assert {url.partition("#")[0] for url in opened.requests} == {opened.page.url}
    for section in SECTIONS:
        for canvas in opened.page.locator(f"#{section} .chart canvas").all():
            box = canvas.bounding_box()
            assert box is not None and box["width"] > 400 and box["height"] > 100, section
        assert tips(opened, section), section


def test_edges_tell_their_numbers(opened: Visit) -> None:
    expected = flows(opened, 1000)
    found = edges(opened)
    assert set(found) == set(expected)
    for edge, tip in found.items():
        assert number(tip["flow (nats)"]) == pytest.approx(expected[edge], rel=1e-3)
        assert tip["flow (nats)"].endswith(" ± 0.0025")
        assert number(tip["signal"]) == pytest.approx(expected[edge] / 0.8, rel=1e-3)
        assert number(tip["crowding"]) == pytest.approx(expected[edge] / -4, rel=1e-3)
    assert found["a0.h0 → a1.h0", "k"]["counts"] == "yes, inside c0"
    assert found["a0.h0 → a1.h0", "q"]["counts"] == "no"
    largest = max(expected, key=lambda edge: abs(expected[edge]))
    assert number(found[largest]["exact effect (nats)"]) == pytest.approx(
        1.1 * expected[largest], rel=1e-3
    )
    assert "–" in {tip["exact effect (nats)"] for tip in found.values()}


def test_nodes_tell_their_numbers(opened: Visit) -> None:
    found = {tip["component"]: tip for tip in tips(opened, "graph") if "component" in tip}
    expected = flows(opened, 1000)
    income = sum(flow for (edge, _), flow in expected.items() if edge.startswith("a0.h1 "))
    final = expected["a0.h1 → logits", "in"]
    tip = found["a0.h1"]
    assert number(tip["income (nats)"]) == pytest.approx(income, rel=1e-3)
    assert tip["income (nats)"].endswith(" ± 0.0046")
    assert number(tip["value (nats)"]) == pytest.approx(1.2 * income, rel=1e-3)
    assert number(tip["sold to components (nats)"]) == pytest.approx(income - final, rel=1e-3)
    assert number(tip["sold to logits (nats)"]) == pytest.approx(final, rel=1e-3)
    assert number(tip["upstreamness (stages)"]) > 1
    assert found["logits"]["income (nats)"] == "–"
    assert set(found) == {"a0.h0", "a0.h1", "a0.h2", "m0", "a1.h0", "a1.h1", "a1.h2", "m1",
                          "logits"}  # fmt: skip


def test_slider_shows_another_checkpoint(chosen: Visit) -> None:
    assert "step 1,000, mean baseline" in chosen.page.evaluate(
        f"JSON.stringify(circuitEcon.views()[{index_of(chosen, 'graph')}].scenegraph().toJSON())"
    )
    move(chosen, 1)
    expected = flows(chosen, 10)
    edge = ("a0.h0 → a1.h0", "k")
    assert number(edges(chosen)[edge]["flow (nats)"]) == pytest.approx(expected[edge], rel=1e-3)
    (cell,) = [tip for tip in tips(chosen, "matrix") if tip["edge"] == edge[0]]
    together = sum(flow for (ends, _), flow in expected.items() if ends == edge[0])
    assert number(cell["flow (nats)"]) == pytest.approx(together, rel=1e-3)
    crowding = {tip["component"]: tip for tip in tips(chosen, "crowding")}
    assert number(crowding["m0"]["signal (nats)"]) == pytest.approx(
        sum(flow for (ends, _), flow in expected.items() if ends.startswith("m0 ")) / 0.8, rel=1e-3
    )
    assert chosen.errors == []


def test_threshold_leaves_the_larger_flows(chosen: Visit) -> None:
    box = chosen.page.locator("#graph .vega-bindings select")
    assert box.locator("option").first.inner_text() == "all that are kept"
    assert len(edges(chosen)) == 54
    expected = {edge for edge, flow in flows(chosen, 1000).items() if abs(flow) >= 0.01}
    assert 0 < len(expected) < 54
    box.select_option(label="0.01")
    graph = index_of(chosen, "graph")
    chosen.page.wait_for_function(f"circuitEcon.views()[{graph}].signal('smallest') === 0.01")
    assert set(edges(chosen)) == expected
    drawn = chosen.chart("return JSON.stringify(view.scenegraph().toJSON())", graph)
    assert f"{len(expected)} of 54 edges, with " in drawn


def test_switch_leaves_the_edges_that_count(chosen: Visit) -> None:
    chosen.page.locator("#graph .vega-bindings input[type=checkbox]").check()
    graph = index_of(chosen, "graph")
    chosen.page.wait_for_function(f"circuitEcon.views()[{graph}].signal('counted_only')")
    assert set(edges(chosen)) == {
        ("a0.h0 → a1.h0", "k"), ("a0.h0 → m0", "in"), ("a0.h0 → m1", "in"),
        ("a0.h0 → logits", "in"), ("a1.h0 → m1", "in"), ("a1.h0 → logits", "in"),
    }  # fmt: skip


def test_pointing_at_a_node_leaves_its_edges_and_tells_its_income(opened: Visit) -> None:
    graph = index_of(opened, "graph")
    canvas = opened.page.locator(f"#chart-{graph} canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = opened.chart(
        "const [x, y] = view.signal('places')['a1.h1'], [left, top] = view.origin();"
        "const padding = view.padding();"
        "return [padding.left + left + view.scale('x')(x),"
        "        padding.top + top + view.scale('y')(y)];",
        graph,
    )
    faint = """
        const found = {};
        (function walk(item) {
            if (item.tooltip?.edge) found[item.tooltip.edge] = item.opacity < 0.2;
            for (const child of item.items ?? []) walk(child);
        })(view.scenegraph().root);
        return found;
    """
    assert not any(opened.chart(faint, graph).values())
    opened.page.mouse.move(box["x"] + x, box["y"] + y)
    opened.page.wait_for_selector("#vg-tooltip-element.visible")
    tooltip = opened.page.locator("#vg-tooltip-element").inner_text()
    assert "a1.h1" in tooltip and "income (nats)" in tooltip and " ± 0.0046" in tooltip
    assert {edge for edge, dim in opened.chart(faint, graph).items() if not dim} == {
        "a0.h0 → a1.h1", "a0.h1 → a1.h1", "a0.h2 → a1.h1", "m0 → a1.h1", "a1.h1 → m1",
        "a1.h1 → logits",
    }  # fmt: skip
    opened.page.mouse.move(0, 0)
    opened.page.wait_for_selector("#vg-tooltip-element:not(.visible)", state="attached")
    assert not any(opened.chart(faint, graph).values())


def test_port_and_baseline_are_chosen(chosen: Visit) -> None:
    chosen.page.locator("#matrix .vega-bindings select").select_option("k")
    chosen.page.select_option("#choose-baseline", "zero")
    matrix = index_of(chosen, "matrix")
    chosen.page.wait_for_function(
        f"(view => view.signal('port') === 'k' && view.signal('under') === 'zero')"
        f"(circuitEcon.views()[{matrix}])"
    )
    expected = {
        edge: flow for (edge, port), flow in flows(chosen, 1000, "zero").items() if port == "k"
    }
    found = {tip["edge"]: number(tip["flow (nats)"]) for tip in tips(chosen, "matrix")}
    assert found == pytest.approx(expected, rel=1e-3)
    lanes = [tip for tip in tips(chosen, "circuits") if "roles" in tip]
    assert {tip["baseline"] for tip in lanes} == {"zero"}


def test_lanes_tell_members_and_events(opened: Visit) -> None:
    found = tips(opened, "circuits")
    circuits = {(t["line"], t["step"]): t for t in found if "roles" in t}
    assert set(circuits) == {("L1", "10"), ("L1", "100"), ("L1", "1,000"), ("L2", "100")}
    told = circuits["L2", "100"]
    assert told["roles"] == "a0.h1 · a1.h1"
    assert told["joint value (nats)"] == "1.154 ± 0.01"
    assert told["redundancy (nats)"] == "0.9231 ± 0.012"
    events = sorted((t["event"], t["line"], t["step"]) for t in found if "event" in t)
    assert events == [
        ("birth", "L1", "10"), ("death", "L2", "1,000"), ("split", "L1", "100"),
        ("split", "L2", "100"),
    ]  # fmt: skip


def test_capital_share_tells_flags_and_gaps(opened: Visit) -> None:
    found = {(tip["step"], tip["baseline"]): tip for tip in tips(opened, "capital")}
    assert found["100", "zero"]["flagged"].startswith("yes")
    assert found["100", "mean"]["flagged"] == "no"
    assert found["0", "mean"]["capital share"].startswith("undefined")
    assert opened.page.locator("#graph .notices").inner_text().count("mean baseline: step 10,") == 1


def test_one_run_of_several_is_chosen(browser: Browser, tmp_path: Path) -> None:
    first = traded_runs.trading_run(tmp_path / "seed0")
    tables = ("value", *traded_runs.INCOME)
    second = traded_runs.trading_run(tmp_path / "seed1", layers=3, mlp=False, tables=tables)
    opened = visit(browser, [first, second], tmp_path / "report.html")

    def places() -> list[str]:
        return opened.page.locator("#graph .chart canvas").evaluate_all(
            "all => all.map((canvas) => canvas.closest('.of-run').dataset.run)"
        )

    assert places() == ["seed0"]
    assert opened.page.locator("#circuits .of-run:visible").count() == 3
    opened.page.select_option("#choose-run", "seed1")
    opened.page.wait_for_function(
        "!document.querySelector('#graph [data-run=seed1]').hidden && "
        "circuitEcon.views().at(-1) !== undefined"
    )
    opened.page.wait_for_selector("#graph [data-run=seed1] canvas")
    assert opened.page.locator("#graph [data-run=seed0]:visible").count() == 0
    assert opened.page.locator("#circuits .of-run:visible").count() == 0
    assert opened.errors == []
    opened.page.close()


@pytest.mark.parametrize(
    "options",
    [
        {"tables": ["flows"]},
        {"tables": ["edges"]},
        {"tables": ["value", "direct", "circuit_agreement"]},
        {"steps": [0], "baselines": ("mean",)},
        {"layers": 1, "heads": 1, "mlp": False},
    ],
)
def test_incomplete_economies_open_without_errors(
    browser: Browser, tmp_path: Path, options: dict[str, Any]
) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", **options)
    opened = visit(browser, [ledger], tmp_path / "report.html")
    assert opened.errors == []
    opened.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_on_a_telephone(browser: Browser, tmp_path: Path, scheme: str) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", layers=4, heads=4)
    narrow = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    opened = visit(browser, [ledger], tmp_path / "report.html", **narrow)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    for canvas in opened.page.locator(".chart canvas").all():
        box = canvas.bounding_box()
        assert box is not None and box["width"] <= 390
    assert opened.errors == []
    opened.page.close()

"""The page as a reader meets it, in a real browser: offline, without errors, and it follows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import synthetic
from page_visits import SCATTER, TOOLTIPS, Visit, visit
from playwright.sync_api import Browser

from circuit_econ.accounts import returns
from circuit_econ.report.words import plus_minus

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"


LONG = "x" * 10_000


@pytest.fixture(scope="module")
def opened(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("browser")
    ledger = synthetic.ledger(folder / "run", failed={10: HOSTILE}, run={"study": HOSTILE})
    visited = visit(browser, [ledger], folder / "report.html")
    yield visited
    visited.page.close()


def test_a_value_of_ten_thousand_characters_is_cut_wherever_it_stands(
    browser: Browser, tmp_path: Path
) -> None:
    """Unbroken, it would stop the browser; two of them stay two."""
    ledger = synthetic.ledger(
        tmp_path / "run",
        steps=(0, 10),
        failed={10: f"cannot read {LONG}"},
        audit={0: LONG},
        extra={(f"{LONG}+y", "mean"): 0.5, (f"{LONG}+z", "mean"): 0.4},
        run={"study": LONG, "notes": [LONG], "configuration": {LONG: {"path": LONG}}},
    )
    visited = visit(browser, [ledger], tmp_path / "report.html")
    try:
        assert visited.errors == []
        text = visited.page.content()
        assert LONG[:301] not in text
        cut = "… (10,000 characters, sha256 "
        assert visited.page.locator("h1").inner_text().startswith("x" * 150 + cut)
        names = visited.column(1)
        assert sum(name.startswith("x" * 150) for name in names) == 2
        assert len(set(names)) == len(names)
        assert f"cannot read {'x' * 150}{cut}" in text
    finally:
        visited.page.close()


@pytest.fixture
def shown(opened: Visit) -> Visit:
    """The page as it opens: a reload, so that no test sees another's choices."""
    opened.page.reload()
    opened.page.wait_for_function("window.circuitEcon && circuitEcon.ready")
    return opened


def test_page_opens_without_errors_or_requests(shown: Visit) -> None:
    assert shown.errors == []
    assert {url.partition("#")[0] for url in shown.requests} == {shown.page.url}
    assert shown.page.evaluate("window.pwned") is None
    assert shown.page.locator("h1").inner_text() == HOSTILE
    for chart in shown.page.locator(".chart canvas").all():
        box = chart.bounding_box()
        assert box is not None and box["width"] > 400 and box["height"] > 100
    assert shown.page.locator(".chart canvas").count() == 5


def test_table_opens_with_the_largest_value_of_the_last_checkpoint(shown: Visit) -> None:
    assert shown.column(1)[:3] == ["m1", "m0", "a1.h2"]
    value = synthetic.value_of("m1", 1000, "mean")
    assert shown.column(3)[0] == plus_minus(value, 0.001)
    assert shown.column(4)[0] == plus_minus(value / 4, 0.001)
    assert shown.column(5)[0] == "4,096"
    assert shown.column(7)[0] == "useful"
    caption = shown.page.locator("#caption").inner_text()
    assert caption == "step 1,000 · baseline mean · capacity in parameters"


@pytest.mark.parametrize("currency", ["parameters", "squared_norm", "stream_share"])
def test_table_prints_the_returns_of_the_accounts(shown: Visit, currency: str) -> None:
    shown.page.select_option("#choose-currency", currency)
    value, capacity = shown.ledger.table("value"), shown.ledger.table("capacity")
    expected = (
        returns(value, capacity, currency, baseline="mean").filter(pl.col("step") == 1000).collect()
    )
    told = {
        component: plus_minus(price, error)
        for component, price, error in expected.select("component", "return", "return_se").rows()
    }
    assert dict(zip(shown.column(1), shown.column(6), strict=True)) == told


def test_table_sorts_by_any_column(shown: Visit) -> None:
    heading = shown.page.locator("#accounts th", has_text="return")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert shown.page.locator("#accounts th[aria-sort]").count() == 1
    returned = {c: synthetic.value_of(c, 1000, "mean") / synthetic.capacity_of(c, "parameters", 0)
                for c in synthetic.components(2, 3)}  # fmt: skip
    largest_first = sorted(returned, key=lambda c: -returned[c])
    assert shown.column(1) == largest_first
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert shown.column(1) == largest_first[::-1]
    shown.page.locator("#accounts th", has_text="component").locator("button").click()
    assert shown.column(1) == synthetic.components(2, 3)


def test_unknown_returns_come_last_either_way(shown: Visit) -> None:
    shown.page.select_option("#choose-currency", "stream_share")
    button = shown.page.locator("#accounts th", has_text="return").locator("button")
    for _ in range(2):
        button.click()
        assert shown.column(1)[-1] == "a0.h1"  # its share is 0
        assert shown.column(6)[-1] == "–"


def test_filter_keeps_what_matches(shown: Visit) -> None:
    shown.page.fill("#filter", "A1.h")
    assert sorted(shown.column(1)) == ["a1.h0", "a1.h1", "a1.h2"]
    shown.page.fill("#filter", "mlp")
    assert sorted(shown.column(1)) == ["m0", "m1"]


def test_slider_moves_the_chart_and_the_table_but_not_the_axes(shown: Visit) -> None:
    state = """
        const title = view.signal("checkpoint");
        const drawn = view.scenegraph().toJSON();
        return [title, view.scale("x").domain(), view.scale("y").domain(),
                drawn.includes("step 1,000: value"), drawn.includes("step 1: value")];
    """
    shown.page.select_option("#choose-currency", "squared_norm")
    shown.page.wait_for_function(
        f"circuitEcon.views()[{SCATTER}].signal('currency') === 'squared_norm'"
    )
    before = shown.chart(state)
    assert before[0] == 3 and before[3] and not before[4]
    slider = shown.page.locator("#choose-checkpoint")
    assert slider.get_attribute("max") == "3"  # the failed one cannot be chosen
    slider.fill("1")
    shown.page.wait_for_function(f"circuitEcon.views()[{SCATTER}].signal('checkpoint') === 1")
    after = shown.chart(state)
    assert after[0] == 1 and after[4] and not after[3]
    assert after[1:3] == before[1:3]
    assert after[1][0] == 0  # rays of equal return start at an origin that is seen
    assert after[1][1] >= 22 and after[2][1] >= 2 * 1000 / 1030
    assert slider.get_attribute("aria-valuetext") == "step 1 (2 of 4)"
    value = synthetic.value_of("m1", 1, "mean")
    assert dict(zip(shown.column(1), shown.column(3), strict=True))["m1"] == plus_minus(
        value, 0.001
    )
    assert shown.errors == []


def test_hovering_tells_what_is_plotted(shown: Visit) -> None:
    shown.page.select_option("#choose-baseline", "zero")
    shown.page.wait_for_function(f"circuitEcon.views()[{SCATTER}].signal('baseline') === 'zero'")
    tips = {tip["component"]: tip for tip in shown.chart(TOOLTIPS)}
    assert set(tips) == set(synthetic.components(2, 3))
    assert tips["m1"] == {
        "component": "m1",
        "step": "1,000",
        "baseline": "zero",
        "value": "2.913 ± 0.001",
        "95 % interval": "2.911 … 2.915",
        "placebo": "0.7282 ± 0.001",
        "capacity": "4,096",
        "return": "0.000711",
    }


def test_baseline_changes_every_chart_and_the_table(shown: Visit) -> None:
    shown.page.select_option("#choose-baseline", "zero")
    shown.page.wait_for_function(
        "circuitEcon.views().slice(1).every((view) => view.signal('baseline') === 'zero')"
    )
    assert shown.column(3)[0] == plus_minus(1.5 * synthetic.value_of("m1", 1000, "mean"), 0.001)


def test_choices_survive_a_change_of_width(shown: Visit) -> None:
    shown.page.select_option("#choose-baseline", "zero")
    shown.page.evaluate("circuitEcon.views()[0].marked = true")
    shown.page.set_viewport_size({"width": 900, "height": 900})
    shown.page.wait_for_function(
        "circuitEcon.views().length === 5 && !circuitEcon.views()[0].marked"
    )
    assert shown.chart("return view.signal('baseline')") == "zero"
    shown.page.set_viewport_size({"width": 1200, "height": 900})


def test_quantity_is_chosen_at_its_chart(shown: Visit) -> None:
    box = shown.page.locator("#attention .vega-bindings select")
    assert box.locator("option").all_inner_texts() == ["prefix matching", "previous token"]
    assert shown.page.locator(".vega-bindings select, .vega-bindings input").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_on_a_telephone(browser: Browser, tmp_path: Path, scheme: str) -> None:
    ledger = synthetic.ledger(tmp_path / "run", layers=4, heads=4)
    narrow = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    opened = visit(browser, [ledger], tmp_path / "report.html", **narrow)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    for canvas in opened.page.locator(".chart canvas").all():
        box = canvas.bounding_box()
        assert box is not None and box["width"] <= 390
    # The heat map's panels stand below each other, wide enough to read.
    assert opened.page.evaluate("circuitEcon.views()[1].signal('child_width')") > 200
    colours = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 27, 34)"}[scheme]
    assert opened.errors == []
    opened.page.close()


@pytest.mark.parametrize(
    "options",
    [
        {"tables": ["value"]},
        {"tables": ["capacity", "attention"]},
        {"steps": [7], "baselines": ["mean"], "se": None},
        {"failed": dict.fromkeys(synthetic.STEPS, "corrupt")},
        {"steps": []},
    ],
)
def test_incomplete_ledgers_open_without_errors(
    browser: Browser, tmp_path: Path, options: dict[str, Any]
) -> None:
    ledger = synthetic.ledger(tmp_path / "run", **options)
    opened = visit(browser, [ledger], tmp_path / "report.html")
    assert opened.errors == []
    opened.page.close()


def test_runs_of_different_shape_are_compared(browser: Browser, tmp_path: Path) -> None:
    first = synthetic.ledger(tmp_path / "seed0")
    second = synthetic.ledger(tmp_path / "seed1", layers=1, steps=[0, 20, 1000])
    opened = visit(browser, [first, second], tmp_path / "report.html")
    assert opened.errors == []
    rows = list(zip(opened.column(1), opened.column(2), strict=True))
    assert len(rows) == 8 + 4
    assert rows[0] == ("seed0", "m1")
    assert ("seed1", "m0") in rows
    opened.page.close()

"""What the pictures of the composition graph are made of, of economies that are known exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import synthetic
import traded_runs
from test_report_page import content_of, visible

from circuit_econ.graph import capital_share
from circuit_econ.report import gather, write_page
from circuit_econ.report.trade import LAST_STAGE
from circuit_econ.report.words import amount, listed_steps, margin, notices

SHARED = ["loss", "value", "largest", "capacity", "table", "record"]


def row(frame: pl.DataFrame, **wanted: Any) -> dict[str, Any]:
    return frame.row(by_predicate=pl.all_horizontal(pl.col(k) == v for k, v in wanted.items()),
                     named=True)  # fmt: skip


def sections(page: Path) -> list[str]:
    return [part.split('"')[0] for part in visible(page).split('<section id="')[1:]]


def test_nodes_add_up_the_flows(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run")
    trade = gather(ledger).trade
    at = {"step": 100, "baseline": "zero"}
    found = row(trade.nodes, component="a0.h1", **at)
    flows = ledger.table("flows").collect()
    own = flows.filter(
        (pl.col("supplier") == "a0.h1") & (pl.col("step") == 100) & (pl.col("baseline") == "zero")
    )
    capital = own.filter(pl.col("buyer") != "logits")
    assert found["income"] == pytest.approx(sum(own["signal"]) + sum(own["crowding"]))
    assert found["signal"] == pytest.approx(sum(own["signal"]))
    assert found["capital"] == pytest.approx(sum(capital["signal"]) + sum(capital["crowding"]))
    assert found["share"] == pytest.approx(found["capital"] / found["income"])
    assert found["share"] == pytest.approx(capital_share(own))
    assert (found["run"], found["kind"], found["layer"]) == ("run", "head", 0)
    assert (found["se"], found["integration_error"]) == (0.002, 0.0007)
    assert found["value"] == pytest.approx(1.2 * found["income"])
    # One part at stage 1, three quarters of the rest at stage 2, the rest over the last three.
    rest = found["income"] - (final := found["income"] - found["capital"])
    assert found["upstreamness"] == pytest.approx(
        (final + 2 * 0.75 * rest + (3 + 4 + 5) * 0.25 * rest / 3) / found["income"]
    )
    logits = row(trade.nodes, component="logits", **at)
    bought = flows.filter(
        (pl.col("buyer") == "logits") & (pl.col("step") == 100) & (pl.col("baseline") == "zero")
    )
    assert (logits["income"], logits["share"], logits["kind"]) == (None, None, "logits")
    assert logits["bought"] == pytest.approx(sum(bought["signal"]) + sum(bought["crowding"]))
    assert trade.components[0] == "a0.h0"
    assert trade.components[-1] == "logits"
    assert trade.steps == [0, 10, 100, 1000]
    assert trade.baselines == ["mean", "zero"]


def test_edges_know_their_exact_effects_and_whether_they_count(tmp_path: Path) -> None:
    trade = gather(traded_runs.trading_run(tmp_path / "run")).trade
    here = trade.edges.filter((pl.col("step") == 1000) & (pl.col("baseline") == "mean"))
    sizes = (here["signal"] + here["crowding"]).abs()
    assert sizes.to_list() == sorted(sizes, reverse=True)
    largest = here.row(0, named=True)
    assert largest["effect"] == pytest.approx(1.1 * (largest["signal"] + largest["crowding"]))
    inside = row(here, supplier="a0.h0", buyer="a1.h0", port="k")
    assert (inside["counts"], inside["circuit"]) == ("yes", "c0")
    outside = row(here, supplier="a0.h0", buyer="logits", port="in")
    assert (outside["counts"], outside["circuit"]) == ("yes", None)
    assert row(here, supplier="a0.h0", buyer="a1.h0", port="q")["counts"] is None
    assert here["all"].unique().to_list() == [here.height]
    assert here["total"][0] == pytest.approx(sizes.sum())


def test_a_large_model_keeps_circuits_and_the_largest_flows(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(
        tmp_path / "run", layers=6, heads=6, steps=(10, 100), baselines=("mean",)
    )
    trade = gather(ledger).trade
    here = trade.edges.filter(pl.col("step") == 100)
    assert trade.kept == here.height == 400
    inside = row(here, supplier="a0.h1", buyer="a1.h1", port="k")
    assert inside["circuit"] == "c1"
    flows = ledger.table("flows").filter(pl.col("step") == 100).collect()
    size = (flows["signal"] + flows["crowding"]).abs().sort(descending=True)
    kept = (here["signal"] + here["crowding"]).abs()
    # Two edges are inside of circuits, all others are the largest.
    assert set(size.head(398)) <= set(kept)
    told = row(trade.economies, step=100)
    assert (told["edges"], told["left"]) == (flows.height, flows.height - 400)
    assert told["left_share"] == pytest.approx(1 - kept.sum() / size.sum())
    text = visible(write_page([ledger], tmp_path / "report.html"))
    assert (
        f"At step 100 (mean baseline) {flows.height - 400:,} smaller ones of {flows.height:,} are "
        f"left out, with {told['left_share']:.1%} of all |flow|"
    ) in text


def test_capital_share_has_gaps_and_a_band(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", cancelled=[100])
    trade = gather(ledger).trade
    flows = ledger.table("flows").collect()
    for step, baseline, share in trade.economies.select("step", "baseline", "share").rows():
        part = flows.filter((pl.col("step") == step) & (pl.col("baseline") == baseline))
        assert share == capital_share(part)
    assert trade.economies.filter(pl.col("step") == 100)["share"].to_list() == [None, None]
    at = trade.economies.filter(pl.col("step") == 10)
    assert at["low"].unique().to_list() == [at["share"].min()]
    assert at["high"].unique().to_list() == [at["share"].max()]


def test_stages_are_added_up_by_layer(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", layers=4)
    trade = gather(ledger).trade
    assert trade.stages["stage"].max() == LAST_STAGE
    assert trade.stages["group"].unique().sort().to_list() == [f"layer {i}" for i in range(4)]
    stages = ledger.table("income_stages").filter(pl.col("component").str.contains("^[am]1"))
    stages = stages.filter((pl.col("step") == 10) & (pl.col("baseline") == "mean")).collect()
    of = {"step": 10, "baseline": "mean", "layer": 1}
    first = stages.filter(pl.col("stage") == 1)["income"].sum()
    assert row(trade.stages, stage=1, **of)["income"] == pytest.approx(first)
    last = stages.filter(pl.col("stage") >= LAST_STAGE)["income"].sum()
    assert row(trade.stages, stage=LAST_STAGE, **of)["income"] == pytest.approx(last)


def test_lives_follow_lineages(tmp_path: Path) -> None:
    trade = gather(traded_runs.trading_run(tmp_path / "run")).trade
    circuits = trade.lives.circuits
    assert trade.lives.lineages == ["L1", "L2"]
    found = row(circuits, step=100, circuit="c1", baseline="zero")
    assert (found["lineage"], found["roles"], found["members"]) == ("L2", "a0.h1 · a1.h1", 2)
    assert found["value"] == pytest.approx(1.5 * 100 / 130)
    counted = trade.edges.filter((pl.col("step") == 100) & (pl.col("circuit") == "c1"))
    here = counted.filter(pl.col("baseline") == "mean")
    assert found["trade"] == pytest.approx((here["signal"] + here["crowding"]).abs().sum())
    three = row(circuits, step=10, circuit="c0", baseline="mean")
    assert (three["roles"], three["members"]) == ("a0.h0 · a1.h0, a1.h1", 3)
    events = trade.lives.events.select("step", "event", "lineage", "from_step", "from_lineage")
    assert sorted(events.rows(), key=str) == sorted(
        [
            (10, "birth", "L1", 0, None),
            (100, "split", "L1", 10, "L1"),
            (100, "split", "L2", 10, "L1"),
            (1000, "continuation", "L1", 100, "L1"),
            (1000, "death", "L2", 100, "L2"),
        ],
        key=str,
    )


def test_without_events_every_circuit_is_a_line_of_its_own(tmp_path: Path) -> None:
    tables = [table for table in traded_runs.ALL if table != "circuit_events"]
    ledger = traded_runs.trading_run(tmp_path / "run", steps=(10, 50, 100), tables=tables)
    assert gather(ledger).trade.lives.lineages == ["L1", "L2", "L3"]


def test_flagged_economies_are_named_where_edges_count(tmp_path: Path) -> None:
    flagged = {"mean": [0, 100, 1000], "zero": [10]}
    ledger = traded_runs.trading_run(tmp_path / "run", flagged=flagged)
    counted = gather(ledger).trade.economies.filter(pl.col("counted") > 0)
    # Circuits are looked for under the first baseline; nothing counts at step 0.
    assert counted.select("step", "baseline").rows() == [(s, "mean") for s in (10, 100, 1000)]
    text = (
        "With every component at its baseline the model is worse than the unigram frequencies in "
        "2 of 3 economies whose edges count: those edges and the circuits of them are priced "
        "there, too."
    )
    case = "mean baseline: steps 100; 1,000, by up to 0.5 nats"
    (found,) = [n for n in notices(gather(ledger)) if "unigram" in n.text]
    assert (found.text, found.details) == (text, (case,))
    page = visible(write_page([ledger], tmp_path / "report.html"))
    graph = page.split('<section id="graph">')[1].split("</section>")[0]
    assert f"{text} {case}." in graph


def test_economies_that_have_not_converged_are_named(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", unsettled=[10, 1000])
    run = gather(ledger)
    (notice,) = notices(run)
    assert notice.text.startswith(
        "The integral behind incomes has not converged in 4 of 8 economies: the ± of incomes and "
        "flows there says how far off they may be"
    )
    assert notice.details == tuple(
        f"{baseline} baseline: steps 10; 1,000, with up to 0.0056 nats of the loss missed"
        for baseline in ("mean", "zero")
    )
    text = visible(write_page([ledger], tmp_path / "report.html"))
    assert notice.text in text and "10, 1,000" in text
    assert notices(gather(traded_runs.trading_run(tmp_path / "settled"))) == []


def test_errors_of_incomes_and_flows_add() -> None:
    assert margin(0.5, 0.25) == 1.96 * 0.5 + 0.25
    assert margin(0.0, 0.25) == 0.25
    assert margin(None, 0.25) is margin(0.5, None) is None


def test_flagged_economies_that_nothing_rests_on_get_a_sentence(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", flagged={"zero": [100, 1000]})
    assert not [n for n in notices(gather(ledger)) if "unigram" in n.text]
    page = visible(write_page([ledger], tmp_path / "report.html"))
    sentence = "Flagged: with every component at its baseline the model is worse than guessing by"
    assert page.count(sentence) == 1
    assert sentence in page.split('<section id="capital">')[1].split("</section>")[0]
    sound = traded_runs.trading_run(tmp_path / "sound")
    assert not [n for n in notices(gather(sound)) if "unigram" in n.text]
    assert "unigram frequencies" not in visible(write_page([sound], tmp_path / "sound.html"))


def test_an_ablated_loss_within_the_error_of_unigrams_is_not_flagged(tmp_path: Path) -> None:
    for error, marked in ((0.25, [100]), (0.26, []), (None, [100])):
        ledger = traded_runs.trading_run(
            tmp_path / f"run{error}", flagged={"zero": [100]}, unigram_se=error
        )
        assert gather(ledger).trade.flagged["step"].to_list() == marked


def test_many_steps_are_abbreviated() -> None:
    assert listed_steps([]) == ""
    assert listed_steps([1000]) == "step 1,000"
    assert listed_steps(list(range(1, 7))) == "steps 1; 2; 3; 4; 5; 6"
    assert listed_steps(list(range(1, 9))) == "steps 1; 2; 3; 4; 5; … 8 (8 checkpoints)"


@pytest.mark.parametrize(
    ("tables", "there"),
    [
        (traded_runs.ALL, ["graph", "matrix", "crowding", "capital", "circuits", "stages", "exact",
                           "direct"]),
        (("flows",), ["graph", "matrix", "crowding", "capital"]),
        (("value", "flows", "income_gap"), ["graph", "matrix", "crowding", "capital"]),
        (("value", "direct"), ["direct"]),
        (("edges",), ["exact"]),
        (("value", "circuit_agreement"), ["circuits"]),
        (("value",), []),
    ],
)  # fmt: skip
def test_page_shows_what_was_measured(tmp_path: Path, tables: list[str], there: list[str]) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", tables=tables)
    page = write_page([ledger], tmp_path / "report.html")
    assert [s for s in sections(page) if s not in SHARED] == there
    content = content_of(page)
    for chart in content["charts"]:
        assert set(name.split("/")[0] for name in chart["data"]) <= set(content["tables"])
        assert "datasets" not in chart["spec"]
    assert content["baselines"] == ["mean", "zero"]
    assert content["steps"] == [0, 10, 100, 1000]


def test_page_tells_how_well_incomes_add_up(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", flagged={"zero": [100]})
    text = visible(write_page([ledger], tmp_path / "report.html"))
    capital = text.split('<section id="capital">')[1].split("</section>")[0]
    assert "How well incomes add up, in nats per scored position" in capital
    cells = [part.split("</td>")[0].split(">")[-1] for part in capital.split("<td ")[1:]]
    product = ledger.table("income_gap").collect().filter(pl.col("step") == 1000)["product"]
    assert cells[:10] == [
        "mean", "1,000", f"{product[0]:.4g}", "0.0012", "0.0034", "17", "none", "5",
        "6.00 ± 0.10", "none",
    ]  # fmt: skip
    assert cells[10:][-1] == "1 of 4"


def test_page_tells_what_circuits_make(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", steps=(0, 10, 100))
    counted = ledger.table("counted").filter(pl.col("step") == 100).collect()
    sold = row(counted, supplier="a0.h1", buyer="a1.h1", port="k")["flow"]
    outside = counted.filter(
        pl.col("supplier").is_in(["a0.h1", "a1.h1"]) & (pl.col("circuit").is_null())
    )
    text = visible(write_page([ledger], tmp_path / "report.html"))
    section = text.split('<section id="circuits">')[1].split("</section>")[0]
    assert "Circuits at step 100" in section
    assert "values under the mean baseline" in section
    cells = [part.split("</td>")[0].split(">")[-1] for part in section.split("<td ")[1:]]
    lines = {cells[at]: cells[at + 1 : at + 3] for at in range(0, 33, 3)}
    assert lines["roles"] == ["a0.h0 | a1.h0", "a0.h1 | a1.h1"]
    assert lines["trades inside"][1] == f"r0 → r1 k {sold:.3g}"
    grown = 100 / 130
    assert lines["joint value"][0].startswith(f"{0.5 * grown:.3f} ±")
    assert lines["redundancy"][1].startswith(f"{1.2 * grown:.3f} ±")
    assert lines["largest of a pair"] == ["–", "–"]
    assert lines["sells outside, net"][1] == amount(outside["flow"].sum())


def test_page_tells_what_counts_and_how_many_sequences_it_would_take(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", steps=(0, 10))
    text = visible(write_page([ledger], tmp_path / "report.html"))
    section = text.split("What counts, and what it would take")[1].split("</details>")[0]
    cells = [part.split("</td>")[0].split(">")[-1] for part in section.split("<td ")[1:]]
    edges = ledger.table("counted").filter(pl.col("step") == 10).collect().height
    first = ledger.table("counting").collect().row(0, named=True)
    assert first["port"] == "in"  # which goes without saying
    name = f"{first['supplier']} → {first['buyer']}"
    # 1.96 standard errors of 0.002 and an integration error of 0.0003.
    told = [name, "0.0100 ± 0.0042", "0.0005", "2,000", "never"]
    assert cells[:9] == ["0", "0", "0", "64", *told]
    assert cells[9:] == ["10", str(edges), "0", "64", *told]


def test_page_without_circuits_says_so(tmp_path: Path) -> None:
    ledger = traded_runs.trading_run(tmp_path / "run", steps=[0])
    text = visible(write_page([ledger], tmp_path / "report.html"))
    assert "No circuit was found at any checkpoint." in text
    assert "Agreement between halves of the data" in text


def test_page_of_a_large_economy_stays_small(tmp_path: Path) -> None:
    steps = [0, 10, 100, 1000, *range(2000, 18000, 1000)]
    ledger = traded_runs.trading_run(
        tmp_path / "run", layers=12, heads=12, steps=steps, baselines=("mean",)
    )
    page = write_page([ledger], tmp_path / "report.html")
    assert content_of(page)["tables"]["trade"]["height"] == 20 * 400
    assert page.stat().st_size < 1_500_000


def test_runs_with_and_without_trade_share_a_page(tmp_path: Path) -> None:
    first = traded_runs.trading_run(tmp_path / "seed0")
    second = traded_runs.trading_run(tmp_path / "seed1", layers=3, steps=(0, 500), mlp=False)
    third = synthetic.ledger(tmp_path / "plain")
    page = write_page([first, second, third], tmp_path / "report.html")
    content = content_of(page)
    graphs = [c for c in content["charts"] if c["data"] and c["data"][0].startswith("trade/")]
    assert [(c["run"], c["chosen"]) for c in graphs[:2]] == [("seed0", True), ("seed1", True)]
    assert content["steps"] == [0, 1, 10, 100, 500, 1000]
    # Where a run has no checkpoint the one before it is shown.
    now = {p["name"]: p for p in graphs[1]["spec"]["params"]}["now"]
    assert json.loads(now["expr"].removesuffix("[checkpoint]")) == [0, 0, 0, 0, 500, 500]

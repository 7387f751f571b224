"""The report: what charts, page and terminal say of ledgers that are known exactly."""

from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
import synthetic
import vl_convert
from rich.console import Console

from circuit_econ.errors import ConfigurationError, LedgerError
from circuit_econ.report import (
    gather,
    loss_curve,
    score_and_value,
    summary,
    value_against_capacity,
    value_heatmap,
    value_over_time,
    write_page,
)
from circuit_econ.report.charts.encodings import colour_limit, step_axis
from circuit_econ.report.frames import run_names
from circuit_econ.report.packing import pack
from circuit_econ.report.words import amount, headline, notices, plus_minus

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>'\"&"


# ---- frames ------------------------------------------------------------------------------------


def test_accounts_hold_one_wide_row_per_value(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run"))
    assert run.accounts.height == 5 * 8 * 3
    row = run.accounts.row(
        by_predicate=(pl.col("step") == 100)
        & (pl.col("component") == "a1.h2")
        & (pl.col("baseline") == "zero"),
        named=True,
    )
    assert row["run"] == "run"
    assert (row["kind"], row["layer"], row["group"], row["label"]) == ("head", 1, "layer 1", "h2")
    assert row["value"] == synthetic.value_of("a1.h2", 100, "zero")
    assert row["parameters"] == 1024.0
    # Of the stream's places the last: 0.5 was written at the blocks.
    assert row["stream_share"] == synthetic.capacity_of("a1.h2", "stream_share", 100)
    assert row["score:prefix_matching"] == 100 / 130 / 3
    assert row["verdict"] == "useful"
    assert run.currencies["stream_share"] == "share of the residual stream, at the last norm"
    assert run.scores == {
        "score:prefix_matching": "prefix matching",
        "score:previous_token": "previous token",
    }
    assert run.baselines == ["mean", "zero", "resample"]
    assert run.steps == [0, 1, 10, 100, 1000]


def test_components_come_in_the_order_of_the_forward_pass(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", layers=11, heads=11, steps=[0]))
    order = run.accounts["component"].unique(maintain_order=True).to_list()
    assert order == synthetic.components(11, 11)


def test_what_is_no_component_has_capacity_apart(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run"))
    assert set(run.others["component"]) == {"a0.b_O", "ln_final", "unembed"}
    assert not set(run.accounts["component"]) & {"a0.b_O", "ln_final", "unembed", "embed"}


def test_without_values_components_stand_with_their_capacity(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", tables=["capacity"], steps=[3]))
    assert run.accounts["component"].to_list() == ["embed", *synthetic.components(2, 3)]
    assert run.accounts["value"].null_count() == run.accounts["baseline"].null_count() == 9
    assert run.baselines == []
    assert not run.has_values


def test_the_configured_baseline_comes_first(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", baselines=("zero", "mean")))
    assert run.baselines == ["zero", "mean"]
    other = {"configuration": {}}
    run = gather(synthetic.ledger(tmp_path / "plain", baselines=("zero", "mean"), run=other))
    assert run.baselines == ["mean", "zero"]


def test_sets_of_components_are_kept_apart(tmp_path: Path) -> None:
    joint = {("a0.h0+a1.h0", "mean"): 0.5}
    ledger = synthetic.ledger(tmp_path / "run", baselines=("mean",), steps=[5], extra=joint)
    row = gather(ledger).accounts.row(by_predicate=pl.col("kind") == "joint", named=True)
    assert (row["group"], row["label"], row["value"]) == ("joint", "a0.h0+a1.h0", 0.5)
    assert row["parameters"] is None


def test_run_names_are_the_shortest_that_differ(tmp_path: Path) -> None:
    ledgers = [synthetic.ledger(tmp_path / p, steps=[0]) for p in ("a/run", "b/run", "c")]
    assert run_names(ledgers[:1]) == ["run"]
    assert run_names(ledgers) == ["a/run", "b/run", f"{tmp_path.name}/c"]
    assert run_names([ledgers[2], ledgers[2]]) == ["c", "c (2)"]


# ---- numbers in words --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (0.12345, 0.0456, "0.123 ± 0.046"),
        (-1.5, 0.25, "−1.50 ± 0.25"),
        (12.0, 3.4, "12.0 ± 3.4"),
        (1.23e-5, 4.5e-7, "(1.230 ± 0.045)×10⁻⁵"),
        (0.0, 0.0, "0 ± 0"),
        (0.5, 0.0, "0.500 ± 0.000"),
        (1234567.0, 120.0, "(1.23457 ± 0.00012)×10⁶"),
        (0.5, None, "0.500 (no se)"),
        (2e-7, None, "2.00×10⁻⁷ (no se)"),
        (0.5, math.nan, "0.500 (no se)"),
        (None, 0.1, "–"),
        (math.nan, 0.1, "–"),
    ],
)
def test_plus_minus(value: float | None, se: float | None, text: str) -> None:
    assert plus_minus(value, se) == text


def test_amount() -> None:
    assert [amount(x) for x in (None, 4096.0, 0.123456, 12345.678, math.inf, 1e6)] == [
        "–", "4,096", "0.1235", "12,346", "–", "1,000,000",
    ]  # fmt: skip


def test_headline_names_the_largest_with_their_errors(tmp_path: Path) -> None:
    # Beyond 2 se of zero, but not beyond 2 se of its placebo, which is a fourth of it.
    small = {("a0.h0", "mean"): 0.003}
    run = gather(synthetic.ledger(tmp_path / "run", failed={1: "NaN"}, overrides=small))
    assert headline(run) == (
        "At step 1,000, with a loss of 1.117 ± 0.020 nats per position, m1 (1.9417 ± 0.0010) "
        "earned most, then m0 (0.9709 ± 0.0010) and a1.h2 (0.0777 ± 0.0010): that much would be "
        "lost if the component were replaced by its mean baseline. 8 of 8 components are further "
        "than two standard errors from zero; 7 are that far above their placebo. 4 of 5 "
        "checkpoints were measured."
    )


def test_notices_tell_what_to_beware_of(tmp_path: Path) -> None:
    ledger = synthetic.ledger(
        tmp_path / "run",
        failed={1: "blocks.0.attn.W_Q holds NaN"},
        audit={10: "equals step 0"},
        overrides={("a0.h1", "zero"): -0.7},
        run={"notes": ["Baselines are taken from the evaluation sequences themselves."]},
    )
    found = notices(gather(ledger))
    assert [(n.text, n.details) for n in found] == [
        ("1 checkpoint could not be measured.", ("step 1: blocks.0.attn.W_Q holds NaN",)),
        (
            "The audit of the trajectory has 1 finding.",
            ("step 10: identical: equals step 0",),
        ),
        (
            "The baselines disagree about 1 component: beyond 2 se, useful under one and harmful "
            "under another.",
            (
                "a0.h1: at 3 checkpoints; at step 1,000 positive under mean, resample, negative "
                "under zero",
            ),
        ),
        ("Baselines are taken from the evaluation sequences themselves.", ()),
    ]


def test_missing_errors_are_said(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", se=None))
    assert [n.text for n in notices(run)] == [
        "120 of 120 values have no standard error: the evaluation set is a single sequence."
    ]
    assert "(no se)" in headline(run)
    assert "standard errors" not in headline(run)


def test_a_sound_run_has_no_notices(tmp_path: Path) -> None:
    assert notices(gather(synthetic.ledger(tmp_path / "run"))) == []


# ---- packing -----------------------------------------------------------------------------------


def unpacked(column: dict[str, Any]) -> list[Any]:
    """What page.js does, in Python."""
    kind = {"text": "<u4", "integer": "<f8", "float": "<f4"}[column["type"]]
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(column["data"])), kind)
    if column["type"] == "text":
        return [column["words"][c] if c < len(column["words"]) else None for c in numbers]
    return [None if np.isnan(x) else float(x) for x in numbers]


def test_packing_keeps_everything() -> None:
    frame = pl.DataFrame(
        {
            "word": ["b", None, "a", "b"],
            "count": [2**53, None, -3, 0],
            "size": [0.5, None, math.nan, -math.inf],
            "nothing": [None] * 4,
        },
        schema={"word": pl.String, "count": pl.Int64, "size": pl.Float64, "nothing": pl.String},
    )
    packed = pack(frame)
    assert packed["height"] == 4
    columns = {name: unpacked(column) for name, column in packed["columns"].items()}
    assert columns == {
        "word": ["b", None, "a", "b"],
        "count": [2.0**53, None, -3.0, 0.0],
        "size": [0.5, None, None, None],
        "nothing": [None] * 4,
    }
    assert pack(frame.clear())["height"] == 0
    with pytest.raises(TypeError, match="column 'day' of type Date cannot be packed"):
        pack(pl.DataFrame({"day": [None]}, schema={"day": pl.Date}))


# ---- charts ------------------------------------------------------------------------------------


def svg(chart: Any) -> str:
    """The drawn chart: fails on whatever Vega-Lite refuses."""
    return vl_convert.vegalite_to_svg(chart.to_dict())


def marks(text: str, kind: str) -> int:
    """How many marks of a kind were drawn, by the role that Vega gives them."""
    return len(re.findall(rf'aria-roledescription="{kind}"', text))


def test_loss_curve_marks_failed_checkpoints(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", failed={10: "truncated file"}))
    text = svg(loss_curve([run]))
    assert marks(text, "point") == 5
    assert text.count("reason: truncated file") == 1
    assert "tokens seen: 512,000; loss: 1.1165 ± 0.02" in text


def test_heat_map_has_a_cell_for_every_value_of_the_chosen_baseline(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", failed={10: "x"}))
    text = svg(value_heatmap(run))
    assert marks(text, "rect mark") == 4 * 8
    assert "step: 1000; label: mlp; value: 1.94175; component: m1; baseline: mean" in text
    assert ">layer 0<" in text
    assert ">layer 1<" in text


def test_heat_map_is_symmetric_about_zero(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", overrides={("m1", "mean"): -4.2}))
    scale = value_heatmap(run).to_dict()["spec"]["encoding"]["color"]["scale"]
    assert scale["domain"] == [-5.0, 5.0]
    assert scale["domainMid"] == 0


def test_colour_limit_withstands_an_outlier() -> None:
    values = pl.Series([0.1 * i / 1000 for i in range(1000)] + [500.0])
    assert colour_limit([values]) == 0.1
    assert colour_limit([values, -values * 10]) == 1.0
    assert colour_limit([pl.Series([0.0, None, math.nan])]) == 1.0
    assert colour_limit([pl.Series([], dtype=pl.Float64)]) == 1.0
    assert colour_limit([pl.Series([0.3])]) == 0.3


@pytest.mark.parametrize(
    ("steps", "domain", "ticks"),
    [
        ([0, 1, 10, 143000], [0, 143000], [0, 1, 10, 100, 1000, 10000, 100000]),
        ([0, 50, 400], [0, 400], [0, 50, 100, 200]),
        ([512], [511, 513], [512]),
        ([0], [-1, 1], [0]),
        ([1000, 2000], [1000, 2000], [1000, 2000]),
    ],
)
def test_step_axis(steps: list[int], domain: list[int], ticks: list[int]) -> None:
    axis: Any = step_axis(steps).to_dict()
    assert axis["scale"]["domain"] == domain
    assert axis["axis"]["values"] == ticks


def test_scatter_shows_the_last_checkpoint_and_names_the_largest(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run"))
    chart = value_against_capacity([run])
    text = svg(chart)
    assert "step 1,000: value against parameters" in text
    assert marks(text, "point") == 8
    assert ">m1<" in text
    assert "return: 0.000474" in text  # 1.9417 nats over 4096 parameters
    params = {p["name"]: p for p in chart.to_dict()["params"]}
    assert params["checkpoint"]["bind"] == {
        "input": "range", "min": 0, "max": 4, "step": 1, "name": "checkpoint ",
    }  # fmt: skip
    assert params["baseline"]["bind"]["options"] == ["mean", "zero", "resample"]
    assert params["currency"]["bind"]["options"] == ["parameters", "squared_norm", "stream_share"]


def test_scatter_follows_its_choices(tmp_path: Path) -> None:
    spec = value_against_capacity([gather(synthetic.ledger(tmp_path / "run"))]).to_dict()
    chosen = {"checkpoint": 3, "baseline": "zero", "currency": "stream_share"}
    for param in spec["params"]:
        param["value"] = chosen.get(param["name"], param.get("value"))
    text = vl_convert.vegalite_to_svg(spec)
    assert "step 100: value against share of the residual stream, at the last norm" in text
    # 1.5 × 2 × 100 / 130; the return of a head with a share of 0 is not a number.
    assert re.search(r"component: m1; [^\"]*step: 100; baseline: zero; value: 2.308 ± 0.001", text)
    assert re.search(r"component: a0\.h1; [^\"]*capacity: 0; return: –", text)


def test_lines_colour_the_largest(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run"))
    text = svg(value_over_time(run))
    assert marks(text, "point") == 6 * 5
    assert marks(text, "line mark") == 8  # one per component
    assert marks(text, "area mark") == 6


def test_scores_and_values_share_their_colours(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", heads=5))
    text = svg(score_and_value(run))
    points = re.findall(r'aria-label="[^"]*component: (a\d\.h\d)[^"]*"[^>]*fill="(#\w+)"', text)
    assert len(points) == 2 * 6 * 5  # two panels, six heads, five steps
    assert len(set(points)) == 6
    only_scores = gather(synthetic.ledger(tmp_path / "other", tables=["attention"]))
    assert len(score_and_value(only_scores).to_dict()["vconcat"]) == 1
    assert marks(svg(score_and_value(only_scores)), "point") == 6 * 5


def test_missing_numbers_are_not_shown_as_zero(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", se=None))
    assert "loss: 1.1165 (no se)" in svg(loss_curve([run]))
    assert "placebo: 0.4854 (no se)" in svg(value_heatmap(run))


def test_single_checkpoint_is_drawn(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", steps=[512], baselines=("mean",)))
    assert marks(svg(loss_curve([run])), "point") == 1
    assert marks(svg(value_heatmap(run)), "rect mark") == 8
    chart = value_against_capacity([run])
    assert marks(svg(chart), "point") == 8
    params = {p["name"]: p for p in chart.to_dict()["params"]}
    assert "bind" not in params["checkpoint"]
    assert "bind" not in params["baseline"]


def test_charts_of_many_rows_need_no_global_setting(tmp_path: Path) -> None:
    before = alt.theme.active, alt.data_transformers.active, dict(alt.data_transformers.options)
    run = gather(synthetic.ledger(tmp_path / "run", layers=6, heads=60, steps=range(5)))
    assert run.accounts.height > 5000
    assert marks(svg(value_against_capacity([run])), "point") == 6 * 61
    assert before == (
        alt.theme.active, alt.data_transformers.active, dict(alt.data_transformers.options)
    )  # fmt: skip


# ---- page --------------------------------------------------------------------------------------


def content_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script id="content" type="application/json">(.*?)</script>', text, re.S)
    assert match is not None
    return json.loads(match[1])


def visible(page: Path) -> str:
    """The page's HTML without scripts and style."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)


def test_page_holds_every_number_once(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run")
    page = write_page([ledger], tmp_path / "deep" / "report.html")
    assert page == tmp_path / "deep" / "report.html"
    content = content_of(page)
    assert [c["element"] for c in content["charts"]] == [f"chart-{i}" for i in range(5)]
    for chart in content["charts"]:
        assert f'id="{chart["element"]}"' in visible(page)
        assert "datasets" not in chart["spec"]
        assert "values" not in json.dumps(chart["spec"]["data"])
    packed = content["tables"]["accounts"]["columns"]
    accounts = gather(ledger).accounts
    assert unpacked(packed["component"]) == accounts["component"].to_list()
    assert unpacked(packed["value"]) == pytest.approx(accounts["value"].to_list(), rel=1e-6)
    assert content["steps"] == [0, 1, 10, 100, 1000]


def test_page_is_offline_and_reproducible(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run")
    first = write_page([ledger], tmp_path / "a.html").read_bytes()
    assert first == write_page([ledger], tmp_path / "b.html").read_bytes()
    text = first.decode()
    assert "default-src 'none'" in text
    assert not re.search(
        r"""<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=""", visible(tmp_path / "a.html")
    )
    assert text.count("window.vegaEmbed=") == 1
    assert len(first) < 1_500_000


def test_page_escapes_everything(tmp_path: Path) -> None:
    ledger = synthetic.ledger(
        tmp_path / "run",
        failed={1: HOSTILE},
        audit={10: HOSTILE},
        run={"study": HOSTILE, "notes": [HOSTILE], "trajectory": {HOSTILE: [HOSTILE, {"a": 1}]}},
    )
    page = write_page([ledger], tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    assert "window.pwned=1</script>" not in text
    assert "<img" not in visible(page)
    assert "&lt;/script&gt;&lt;script&gt;window.pwned=1" in visible(page)
    assert text.count("</script>") == 3


def test_page_says_what_was_run(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run", failed={1: "NaN in W_Q"})
    text = visible(write_page([ledger], tmp_path / "report.html"))
    for part in (
        "<h1>synthetic</h1>",
        "<dt>measures.value.n</dt><dd>8</dd>",
        "<dt>device</dt><dd>cpu</dd>",
        "<dt>numbers</dt><dd>float32</dd>",
        "<dt>audit</dt><dd>nothing found</dd>",
        "<dt>time</dt><dd>10.0 s over 5 checkpoints</dd>",
        f"<dd>{'ab' * 32}</dd>",
        "failed: NaN in W_Q",
        "Before you believe it",
        "ln_final",
        "8,192",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        ({"tables": ["value"]}, ["Needs value and capacity"], ["What heads attend to"]),
        (
            {"tables": ["capacity", "attention"]},
            [
                "Value was not measured at any checkpoint.",
                "What heads attend to",
                "Every component",
            ],
            ["The largest values"],
        ),
        (
            {"failed": dict.fromkeys(synthetic.STEPS, "corrupt")},
            ["None of 5 checkpoints could be measured.", "5 checkpoints could not be measured."],
            ["Every component"],
        ),
        ({"steps": []}, ["No checkpoint was recorded"], ["Every component"]),
        ({"steps": [7], "baselines": ["mean"]}, ["Every component"], ["Before you believe"]),
        ({"mlp": False, "others": False}, ["Every component"], ["Capacity without value"]),
    ],
)
def test_page_of_an_incomplete_ledger(
    tmp_path: Path, options: dict[str, Any], present: list[str], absent: list[str]
) -> None:
    ledger = synthetic.ledger(tmp_path / "run", **options)
    page = write_page([ledger], tmp_path / "report.html")
    for part in present:
        assert part in visible(page)
    for part in absent:
        assert part not in visible(page)
    for chart in content_of(page)["charts"]:
        chart["spec"]["datasets"] = {chart["spec"]["data"]["name"]: []}
        vl_convert.vegalite_to_vega(chart["spec"])


def test_page_compares_runs(tmp_path: Path) -> None:
    first = synthetic.ledger(tmp_path / "seed0")
    second = synthetic.ledger(tmp_path / "seed1", tables=["value"], steps=[0, 20], layers=1)
    page = write_page([first, second], tmp_path / "report.html")
    text = visible(page)
    assert "<h1>2 runs compared</h1>" in text
    assert "Before you believe" not in text
    row = re.search(r"<tr><td >seed1</td>.*?</tr>", text)
    assert row is not None
    assert re.findall(r">([^<]+)</td>", row[0]) == [
        "seed1", "2 of 2", "20", "3.400 ± 0.020", "m0: 0.4000 ± 0.0010", "mean, zero, resample",
    ]  # fmt: skip
    content = content_of(page)
    assert content["runs"] == ["seed0", "seed1"]
    assert [c["run"] for c in content["charts"]] == [
        None, "seed0", "seed1", "seed0", "seed1", None, "seed0",
    ]  # fmt: skip
    limits = {
        str(c["spec"]["spec"]["encoding"]["color"]["scale"]["domain"])
        for c in content["charts"]
        if "facet" in c["spec"]
    }
    assert len(limits) == 1
    assert content["steps"] == [0, 1, 10, 20, 100, 1000]


def test_page_of_a_large_run_stays_small(tmp_path: Path) -> None:
    ledger = synthetic.ledger(
        tmp_path / "run", layers=12, heads=12, steps=range(20), baselines=("mean",)
    )
    page = write_page([ledger], tmp_path / "report.html")
    assert content_of(page)["tables"]["accounts"]["height"] == 20 * 156
    assert page.stat().st_size < 2_000_000


def test_page_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = synthetic.ledger(tmp_path / "run", steps=[0])
    page = tmp_path / "report.html"
    page.write_text("the old page")

    def full_disk(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(LedgerError) as caught:
            write_page([ledger], page)
    assert str(caught.value) == (
        f"cannot write the page {str(page)!r}: No space left on device; free space or choose "
        "another place (the ledger is untouched)"
    )
    assert page.read_text() == "the old page"
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []
    write_page([ledger], page)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_page_in_a_place_that_cannot_be(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run", steps=[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"cannot write the page '.*report.html': "):
        write_page([ledger], tmp_path / "file" / "report.html")
    with pytest.raises(ConfigurationError) as caught:
        write_page([], tmp_path / "report.html")
    assert str(caught.value) == ("a report needs at least one run; name the folder a walk wrote")


# ---- terminal ----------------------------------------------------------------------------------


def printed(ledger: Any, width: int) -> list[str]:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(summary(ledger, width))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_summary_shows_the_largest_first(tmp_path: Path) -> None:
    lines = printed(synthetic.ledger(tmp_path / "run"), 100)
    assert lines[0] == "Largest values at step 1,000 (mean baseline, nats per position)"
    rows = [line.split() for line in lines if re.match(r"\s+(a\d\.h\d|m\d) ", line)]
    assert [row[0] for row in rows][:4] == ["m1", "m0", "a1.h2", "a1.h1"]
    assert " ".join(rows[0]) == ("m1 1.9417 ± 0.0010 0.4854 ± 0.0010 4,096 (4.7406 ± 0.0024)×10⁻⁴")
    assert lines[-1] == f"page: {tmp_path / 'run' / 'report.html'}"
    assert not any(line.startswith("!") for line in lines)


def test_summary_of_a_narrow_terminal_leaves_out_the_placebo(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run")
    assert any("placebo" in line for line in printed(ledger, 90))
    narrow = printed(ledger, 72)
    assert not any("placebo" in line for line in narrow)
    assert any("1.9417 ± 0.0010" in line for line in narrow)
    assert "".join(narrow).endswith(f"page:{tmp_path / 'run' / 'report.html'}")


def test_summary_warns_and_counts_the_rest(tmp_path: Path) -> None:
    failed = {step: f"[bold]broken[/bold] {step}" for step in (0, 1, 10, 100)}
    lines = printed(synthetic.ledger(tmp_path / "run", failed=failed), 100)
    start = lines.index("! 4 checkpoints could not be measured.")
    assert lines[start + 1 : start + 5] == [
        "  step 0: [bold]broken[/bold] 0",
        "  step 1: [bold]broken[/bold] 1",
        "  step 10: [bold]broken[/bold] 10",
        "  and 1 more",
    ]


def test_summary_without_values_or_capacity(tmp_path: Path) -> None:
    lines = printed(synthetic.ledger(tmp_path / "a", tables=["capacity"]), 100)
    assert lines[0] == "5 of 5 checkpoints were measured, but not for value."
    lines = printed(synthetic.ledger(tmp_path / "b", tables=["value"]), 100)
    assert any("1.9417 ± 0.0010" in line for line in lines)
    assert not any("return" in line for line in lines)


def test_a_report_needs_no_torch() -> None:
    code = (
        "import sys, circuit_econ.report, circuit_econ.accounts; "
        "print([m for m in ('torch', 'transformer_lens', 'transformers') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

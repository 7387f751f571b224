"""The charts: what is drawn of ledgers that are known exactly."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest
import synthetic
import vl_convert

from circuit_econ.report import (
    gather,
    loss_curve,
    score_and_value,
    value_against_capacity,
    value_heatmap,
    value_over_time,
)
from circuit_econ.report.charts.encodings import colour_limit, step_axis


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


def test_bands_and_bars_are_the_intervals_of_the_ledger(tmp_path: Path) -> None:
    """Not ± 1.96 se; and where an end cannot be given, nothing is drawn on that side."""
    run = gather(synthetic.ledger(tmp_path / "run", steps=(0, 5), baselines=("mean",)))
    value, tailed = pl.col("value"), pl.col("component") == "m0"
    accounts = run.accounts.with_columns(
        low=value - 0.5,
        high=pl.when(~tailed).then(value + 2.0),
        outcome=pl.when(tailed).then(pl.lit("heavy tail")).otherwise(pl.col("outcome")),
        needed=pl.when(tailed).then(900),
    )
    run = dataclasses.replace(run, accounts=accounts)
    lines, scatter = svg(value_over_time(run)), svg(value_against_capacity([run]))
    # Values at step 0 are 0: the bands start at the ends themselves.
    assert "value (nats per position): −0.5; up: 0; component: m0" in lines
    assert "value (nats per position): −0.5; up: 2; component: m1" in lines
    for text, open_end in ((lines, "−0.5 … ?"), (scatter, "−0.3571 … ?")):
        assert f"95 % interval: {open_end} (heavy tail, needs 900 or more)" in text
    assert "95 % interval: −0.5 … 2;" in lines


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

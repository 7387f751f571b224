"""What a report is made of: frames of ledgers that are known exactly, words, packed columns."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest
import synthetic

from circuit_econ.report import gather
from circuit_econ.report.frames import run_names
from circuit_econ.report.packing import pack
from circuit_econ.report.words import amount, headline, notices, plus_minus


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
    # Clear of zero, but not of its placebo, which is a fourth of it.
    small = {("a0.h0", "mean"): 0.003}
    run = gather(synthetic.ledger(tmp_path / "run", failed={1: "NaN"}, overrides=small))
    assert headline(run) == (
        "At step 1,000, with a loss of 1.117 ± 0.020 nats per position, m1 (1.9417 ± 0.0010) "
        "earned most, then m0 (0.9709 ± 0.0010) and a1.h2 (0.0777 ± 0.0010): that much would be "
        "lost if the component were replaced by its mean baseline. 8 of 8 components have a 95 % "
        "interval that excludes zero; 7 are that clear of their placebo. 4 of 5 checkpoints were "
        "measured."
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
            "The baselines disagree about 1 component: clearly useful under one and clearly "
            "harmful under another.",
            (
                "a0.h1: at 3 checkpoints; at step 1,000 positive under mean, resample, negative "
                "under zero",
            ),
        ),
        ("Baselines are taken from the evaluation sequences themselves.", ()),
    ]


def test_intervals_that_are_open_wide_or_missing_are_said_with_the_reason(tmp_path: Path) -> None:
    outcomes = {("a0.h0", "mean"): "heavy tail", ("m0", "zero"): "not estimable"}
    outcomes |= {("m1", "mean"): "few"}
    found = notices(gather(synthetic.ledger(tmp_path / "run", steps=(0, 5), outcomes=outcomes)))
    assert [(n.text, n.details) for n in found] == [
        (
            "2 of 48 values have a heavy tail: a few sequences carry the effects of their "
            "checkpoint, and others may not have been met, so that only the end of the interval "
            "that faces away from the tail is given. Both ends need at least 900 sequences or "
            "documents, and up to 900.",
            ("step 0: a0.h0", "step 5: a0.h0"),
        ),
        (
            "2 of 48 values rest on few documents: their 64 sequences tell as much about an error "
            "as 64.0 documents of one size. Below 16 the intervals are wide, and a heavy tail would"
            " not show.",
            ("step 0: m1", "step 5: m1"),
        ),
        (
            "2 of 48 values are 0 on every sequence measured, which does not say how they vary on "
            "others: they have no interval.",
            ("step 0: m0", "step 5: m0"),
        ),
    ]


def test_missing_errors_are_said(tmp_path: Path) -> None:
    run = gather(synthetic.ledger(tmp_path / "run", se=None))
    assert [n.text for n in notices(run)] == [
        "120 of 120 values have no standard error: the evaluation set is a single sequence or "
        "document."
    ]
    assert "(no se)" in headline(run)
    assert "interval" not in headline(run)


def test_a_sound_run_has_no_notices(tmp_path: Path) -> None:
    assert notices(gather(synthetic.ledger(tmp_path / "run"))) == []


# ---- packing -----------------------------------------------------------------------------------


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
    columns = {name: synthetic.unpacked(column) for name, column in packed["columns"].items()}
    assert columns == {
        "word": ["b", None, "a", "b"],
        "count": [2.0**53, None, -3.0, 0.0],
        "size": [0.5, None, None, None],
        "nothing": [None] * 4,
    }
    assert pack(frame.clear())["height"] == 0
    with pytest.raises(TypeError, match="column 'day' of type Date cannot be packed"):
        pack(pl.DataFrame({"day": [None]}, schema={"day": pl.Date}))

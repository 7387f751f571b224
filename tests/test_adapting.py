"""Sweeps that stop when a component is known well enough, cuts that fit, samples of positions."""

from __future__ import annotations

import re

import polars as pl
import pytest
import torch
import zoo
from commands import WALK, Terminal, shown

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.ledger import open_ledger
from circuit_econ.measures import Context, Plan, Precision
from circuit_econ.measures import plan as cutting
from circuit_econ.measures.plan import Sizes
from circuit_econ.measures.scoring import sample_positions
from circuit_econ.measures.statistics import estimate
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.measures.value import VALUE, ValueSettings
from circuit_econ.model import Model, read_config
from circuit_econ.model.intervene import components, parse_component

CPU = torch.device("cpu")


def context_of(sequences: int = 400, precision: Precision | None = None, **rest: object) -> Context:
    case = zoo.case_named("tl-attn-only")
    tokens = zoo.tokens_of(case, sequences, seed=1)
    evaluation = Evaluation(
        tokens, zoo.targets_of(case, tokens, seed=1), zoo.tokens_of(case, 16, seed=2), **rest
    )
    model = Model.from_source(case.source(0), torch.float64)
    return Context(model, evaluation, 3, ("mean",), Plan(16, 64), 0, precision)


def table_of(context: Context, **fields: object) -> pl.DataFrame:
    return VALUE.run(context, ValueSettings(**{"placebo_draws": 0, **fields}))["value"]


def test_every_row_rests_on_what_it_needs_and_no_more() -> None:
    everything = table_of(context_of())
    assert set(everything["outcome"]) == {"fixed"} and set(everything["sequences"]) == {400}
    typical = float(everything["se"].median())  # type: ignore[arg-type]
    precision = Precision(absolute=1.4 * typical, relative=0.0)
    table = table_of(context_of(precision=precision))
    assert set(table["outcome"]) <= {"met", "used up"} and "met" in set(table["outcome"])
    for row in table.iter_rows(named=True):
        assert (row["se"] <= precision.absolute) == (row["outcome"] == "met")
        assert row["outcome"] == "met" or row["sequences"] == 400 - 32
    assert table["sequences"].n_unique() > 2
    # No more than twice what the error at hand says would have done.
    needed = table["sequences"] * (table["se"] / precision.absolute) ** 2
    assert (table["sequences"] <= 2 * needed + 48 + 16).all()


def test_the_pilot_decides_and_is_not_part_of_the_estimate() -> None:
    context = context_of(precision=Precision(absolute=0.05, relative=0.0))
    part = parse_component("a1.h0", context.model.config)
    row = table_of(context, components=["a1.h0"]).row(0, named=True)
    whole = sweep(context, [Variant((part,), "mean")])
    behind = slice(32, 32 + row["sequences"])
    expected = estimate(whole.difference[0, behind], whole.counts[behind])
    assert row["value"] == pytest.approx(expected.mean, rel=1e-9)
    assert row["se"] == pytest.approx(expected.se, rel=1e-9)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert row["low"] < row["value"] < row["high"]


def test_a_small_set_is_used_whole() -> None:
    table = table_of(context_of(63, Precision(absolute=1e-6, relative=0.0)))
    assert set(table["sequences"]) == {63} and set(table["outcome"]) == {"used up"}


def test_a_relative_precision_asks_less_of_what_is_worth_more() -> None:
    table = table_of(context_of(precision=Precision(absolute=0.0, relative=0.2)))
    met = table.filter(pl.col("outcome") == "met")
    assert met.height and (met["se"] <= 0.2 * met["value"].abs()).all()


def test_documents_are_what_is_counted() -> None:
    clusters = torch.arange(400) // 10
    context = context_of(precision=Precision(absolute=1e-9, relative=0.0), clusters=clusters)
    # 40 documents are fewer than twice the pilot.
    assert set(table_of(context)["sequences"]) == {400}
    clusters = torch.arange(400) // 4
    context = context_of(precision=Precision(absolute=1e9, relative=0.0), clusters=clusters)
    table = table_of(context)
    # Behind a pilot of 32 documents at least 48 more, in whole panels.
    assert table["sequences"].min() >= 4 * 48 - 4  # type: ignore[operator]
    assert table["sequences"].max() < 400 - 4 * 32  # type: ignore[operator]


def test_a_component_that_rarely_does_anything_is_not_estimable() -> None:
    context = context_of(precision=Precision(absolute=0.01, relative=0.0))
    # Its sequences are scored where nothing was changed, but for a few.
    targets = torch.full_like(context.evaluation.targets, -100)
    targets[:, 0] = context.evaluation.targets[:, 0].clamp(min=0)
    for row in range(0, 400, 40):
        targets[row, -1] = 0
    context.evaluation = Evaluation(
        context.evaluation.tokens, targets, context.evaluation.reference
    )
    context.baselines = ("zero",)
    context.model.weights.layers[1].out[:, : context.model.config.d_head] = 0
    row = table_of(context, components=["a1.h0"]).row(0, named=True)
    assert row["outcome"] == "not estimable" and row["affected"] == 0
    assert row["value"] == row["se"] == 0 and row["low"] is row["high"] is None
    assert row["sequences"] == 400 - 32


def test_few_documents_have_wide_intervals_and_a_reason_with_and_without_a_precision(
    run: Terminal,
) -> None:
    tables = {}
    for out, asked in (("plain", ()), ("precise", ("precision={absolute:0.002,relative:0.05}",))):
        more = ("evaluation.sequences=80", "trajectory.steps=[4]", f"out={out}", *asked)
        answer = run("walk", *WALK, *more)
        assert answer.code == 0
        said = re.search(
            r"(\d+) of (\d+) values rest on few documents: their 80 sequences tell as much about an"
            r" error as (\d\.\d) documents of one size\. Below 16 the intervals are wide",
            shown(answer),
        )
        assert said and said[1] == said[2]
        table = tables[out] = open_ledger(run.folder / out).table("value").collect()
        assert set(table["outcome"]) == {"few"} and set(table["sequences"]) == {80}
        assert f"{table['effective'][0]:.1f}" == said[3]
        assert table.select("se", "low", "high").null_count().sum_horizontal().item() == 0
        # One degree of freedom at least: 12.7 standard errors on either side.
        assert ((table["high"] - table["low"]) >= 25.4 * table["se"] - 1e-15).all()
        assert (table["se"] > 0).any()
    assert tables["plain"].equals(tables["precise"])


def test_placebos_run_on_the_pilot() -> None:
    context = context_of(precision=Precision(absolute=0.05, relative=0.0))
    table = table_of(context, placebo_draws=8)
    assert table["placebo"].null_count() == 0 and (table["placebo_se"] > 0).all()
    parts = components(context.model.config, embeddings=False)
    drawn = [Variant((parts[0],), "mean", placebo=True, draw=d) for d in range(2)]
    whole = sweep(context, drawn).difference[:, :32].mean(0)
    expected = estimate(whole, sweep(context, []).counts[:32])
    assert table["placebo"][0] == pytest.approx(expected.mean, rel=1e-9)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cut", [Plan(1, 1), Plan(24, 7), Plan(400, 4000)], ids=str)
def test_neither_cut_nor_threads_change_anything(threads: int, cut: Plan) -> None:
    expected = table_of(context_of(60), placebo_draws=16, positions=3)
    context = context_of(60)
    context.plan = cut
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = table_of(context, placebo_draws=16, positions=3)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for column in ("value", "se", "placebo", "placebo_se", "low", "high"):
        assert float((found[column] - expected[column]).abs().max()) < 1e-11  # type: ignore[arg-type]


def test_what_a_worker_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no losses today")

    context = context_of(40)
    monkeypatch.setattr(Model, "token_losses", refuse)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="no losses today"):
            table_of(context)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_some_positions_stand_for_all_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(5, (300, 12), generator=generator)
    targets[torch.rand(300, 12, generator=generator) < 0.4] = -100
    targets[0] = -100
    losses = torch.rand(300, 12, generator=generator, dtype=torch.float64)
    true = (losses * (targets >= 0)).sum(1)
    totals = torch.zeros(300, dtype=torch.float64)
    for seed in range(400):
        sampled, weights = sample_positions(targets, 3, seed)
        assert ((sampled >= 0).sum(1) == (targets >= 0).sum(1).clamp(max=3)).all()
        assert ((sampled == targets) | (sampled < 0)).all()
        totals += weights * (losses * (sampled >= 0)).sum(1) / 400
    assert totals[0] == true[0] == 0
    assert float((totals - true).mean()) == pytest.approx(0, abs=0.01)
    assert float((totals - true).abs().max()) < 0.6
    same, ones = sample_positions(targets, 12, 0)
    assert torch.equal(same, targets) and (ones == 1).all()


def test_a_sampled_value_is_near_the_whole_one_and_says_how_near() -> None:
    whole, some = table_of(context_of(200)), table_of(context_of(200), positions=2)
    distance = (whole["value"] - some["value"]) / (whole["se"] ** 2 + some["se"] ** 2).sqrt()
    assert 0 < float(distance.abs().max()) < 4  # type: ignore[arg-type]
    assert (some["se"] > whole["se"]).all()


def test_a_cut_fits_the_memory_it_is_given() -> None:
    config = read_config(zoo.case_named("gpt2").source(0))
    sizes = Sizes(config, 16, 40, 40, ("mean",), torch.float32, CPU)
    needs = {"a sweep": lambda plan: plan.bytes(config, 16, CPU, torch.float32), "b": lambda _: 3}
    free = Plan.choose(sizes, 1e12, needs)
    assert free.panel == 32 and free.rows >= 512 // 16
    needed = needs["a sweep"](free)
    less = Plan.choose(sizes, 0.8 * needed, needs)
    assert less.rows < free.rows and less.memory == int(0.8 * needed)
    assert needs["a sweep"](less) <= 0.8 * needed
    least = needs["a sweep"](Plan(8, 1))
    assert Plan.choose(sizes, float(least), needs) == Plan(8, 1, int(least))
    with pytest.raises(ConfigurationError) as caught:
        Plan.choose(sizes, 2.0, {**needs, "a sweep": lambda _: 2_345_678_901})
    assert str(caught.value) == (
        "a sweep needs 2.35 GB and b needs 3e-09 GB beside the weights; 2e-09 GB may be used: "
        "raise device.memory, choose a shorter evaluation.length, or leave out what does not fit"
    )


def test_half_of_what_is_free_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cutting.free_memory(CPU) > 1e8
    monkeypatch.setattr(cutting, "free_memory", lambda _: 1000)
    assert cutting.budget(CPU) == 500


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"absolut": 0.1}, "unknown key 'precision.absolut'; there is: precision.absolute, "),
        ({"absolute": -1.0}, "precision.absolute must be a number of at least 0, not -1.0"),
        ({"absolute": 0.0, "relative": 0.0}, "precision asks for no error at all"),
    ],
)
def test_a_precision_that_means_nothing_is_refused(given: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Precision.make(given)


def test_positions_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="positions must be 1 or more, or null for all"):
        ValueSettings(positions=0)

"""Values against a plain hook loop, on paper, and by the laws they must obey."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import hooks
import paper
import polars as pl
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.statistics import ratio_estimate
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.measures.value import VALUE, ValueSettings
from circuit_econ.model import Model
from circuit_econ.model.intervene import components, draw_donors, parse_component
from circuit_econ.tables import BASELINES

CASES = pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)


def context_of(case: zoo.Case, sequences: int = 5, plan: Plan | None = None) -> Context:
    tokens = zoo.tokens_of(case, sequences, seed=1)
    targets = zoo.targets_of(case, tokens, seed=1)
    evaluation = Evaluation(tokens, targets, reference=zoo.tokens_of(case, 4, seed=2))
    model = Model.from_source(case.source(0), torch.float64)
    return Context(model, evaluation, 7, BASELINES, plan or Plan(3, 4), seed=0)


def table_of(context: Context, **fields: object) -> pl.DataFrame:
    return VALUE.run(context, ValueSettings(**{"placebo_draws": 0, **fields}))["value"]


def values(table: pl.DataFrame, baseline: str = "zero") -> dict[str, float]:
    rows = table.filter(pl.col("baseline") == baseline)
    return dict(zip(rows["component"], rows["value"], strict=True))


@CASES
def test_every_value_is_that_of_a_plain_hook_loop(case: zoo.Case) -> None:
    context = context_of(case)
    evaluation, reference = context.evaluation, context.evaluation.reference
    assert reference is not None
    bridge = zoo.shared_bridge(case)
    last = context.model.config.n_layers - 1
    sets = [["a0.h0", f"a{last}.h1"], ["a0.h0", "a0.h1"], ["embed", "a0.h1"]]
    if context.model.config.d_mlp is not None:
        sets += [["a0.h1", "m0"], ["a0.h0", "m0", f"m{last}"]]
    table = table_of(context, embeddings=True, sets=sets)
    clean = hooks.hook_losses(bridge, evaluation.tokens, evaluation.targets, {})
    counts = (evaluation.targets >= 0).sum(1)
    donors = draw_donors(len(evaluation.tokens), len(reference), same_set=False, seed=1)
    singles = hooks.components_of(bridge)
    assert table.height == (len(singles) + len(sets)) * len(BASELINES)
    largest = 0.0
    for component, baseline, value, se in table.select(
        "component", "baseline", "value", "se"
    ).iter_rows():
        replacements = {
            name: hooks.baseline_replacements(
                bridge, evaluation.tokens, reference, name, baseline, donors
            )
            for name in component.split("+")
        }
        losses = hooks.hook_losses(bridge, evaluation.tokens, evaluation.targets, replacements)
        mean, error = ratio_estimate(losses - clean, counts)
        scale = 1e-9 if case.exact else 1e-5
        assert value == pytest.approx(float(mean), abs=scale * float(clean.sum() / counts.sum()))
        assert se == pytest.approx(float(error), rel=1e-3, abs=10 * scale)
        largest = max(largest, abs(value))
    assert largest > 0.05
    nonzero = table.filter(pl.col("value").abs() > 1e-4).height
    exact_zeros = table.filter(pl.col("value") == 0)
    # The mean of a learned position at each position is that position: nothing changes.
    assert exact_zeros["component"].unique().to_list() in ([], ["pos"])
    assert nonzero + exact_zeros.height >= 0.9 * table.height


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "mistral", "tl-attn-only"])
@pytest.mark.parametrize("plan", [Plan(1, 1), Plan(2, 3), Plan(5, 7), Plan(100, 1000)], ids=str)
def test_values_do_not_depend_on_how_the_work_is_cut(name: str, plan: Plan) -> None:
    case = zoo.case_named(name)
    sets = [["a0.h0", "a1.h1"]]
    expected = table_of(context_of(case), sets=sets)
    found = table_of(context_of(case, plan=plan), sets=sets)
    assert found.select("component", "baseline").equals(expected.select("component", "baseline"))
    for column in ("value", "se"):
        difference = (found[column] - expected[column]).abs().max()
        assert isinstance(difference, float) and difference < 1e-11


@pytest.mark.parametrize("name", ["gpt2", "neox", "tl-attn-only"])
def test_no_block_below_the_ablated_one_is_run_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(zoo.case_named(name), plan=Plan(5, 1000))
    context.baselines = ("zero",)
    runs: dict[int, int] = {}
    attend = Model.attend

    def counted(self: Model, layer: int, stream: torch.Tensor) -> torch.Tensor:
        runs[layer] = runs.get(layer, 0) + len(stream)
        return attend(self, layer, stream)

    monkeypatch.setattr(Model, "attend", counted)
    table_of(context)
    config = context.model.config
    per_layer = config.n_heads + (config.d_mlp is not None)
    for layer in range(config.n_layers):
        # The clean pass, and one row per sequence for every component of the layers before.
        assert runs[layer] == 5 * (1 + layer * per_layer), (layer, runs)


def test_a_gate_of_two_heads_on_paper() -> None:
    tokens = torch.randint(4, (6, 5), generator=torch.Generator().manual_seed(0))
    evaluation = Evaluation(tokens, torch.zeros_like(tokens))
    everything = math.log(4)
    pair = [["a0.h0", "a0.h1"]]
    found = {
        kind: values(table_of(Context(paper.gate(kind), evaluation, 0, ("zero",)), sets=pair))
        for kind in ("and", "or")
    }
    assert found["and"]["a0.h0"] == pytest.approx(everything, abs=1e-12)
    assert found["and"]["a0.h1"] == pytest.approx(everything, abs=1e-12)
    assert found["and"]["a0.h0+a0.h1"] == pytest.approx(everything, abs=1e-12)
    assert found["or"]["a0.h0"] == found["or"]["a0.h1"] == 0
    assert found["or"]["a0.h0+a0.h1"] == pytest.approx(everything, abs=1e-12)
    # Redundancy V(S) − ΣV(c), in units of what is at stake: −1 needs both, +1 stands in.
    redundancy = {k: f["a0.h0+a0.h1"] - f["a0.h0"] - f["a0.h1"] for k, f in found.items()}
    assert redundancy["and"] / everything == pytest.approx(-1, abs=1e-12)
    assert redundancy["or"] / everything == pytest.approx(1, abs=1e-12)


def test_an_exact_induction_circuit_on_paper() -> None:
    evaluation = Evaluation(*paper.repeated(8))
    context = Context(paper.induction(), evaluation, 0, ("zero",))
    table = VALUE.run(context, ValueSettings(sets=[["a0.h0", "a1.h0"]]))["value"]
    found, placebo = values(table), dict(zip(table["component"], table["placebo"], strict=True))
    assert found["a1.h0"] == pytest.approx(math.log(7), abs=1e-9)
    # Without the previous token every key scores alike: attention spreads over the context.
    assert found["a0.h0"] > 0.5
    assert found["a0.h0+a1.h0"] == pytest.approx(math.log(7), abs=1e-9)
    for idle in ("a0.h1", "a1.h1"):
        assert found[idle] == 0 and placebo[idle] == 0
        row = table.filter(pl.col("component") == idle)
        assert row["se"].item() == 0


def test_a_component_that_does_nothing_is_worth_exactly_nothing() -> None:
    case = zoo.case_named("llama")
    source = case.source(0)
    name = "model.layers.1.self_attn.o_proj.weight"
    width = source.config["hidden_size"] // source.config["num_attention_heads"]
    source.tensors[name] = source.tensors[name].clone()
    source.tensors[name][:, :width] = 0
    tokens = zoo.tokens_of(case, 5, seed=1)
    context = Context(Model.from_source(source), Evaluation(tokens), 0, BASELINES, Plan(2, 3))
    table = VALUE.run(context, ValueSettings())["value"]
    idle = table.filter(pl.col("component") == "a1.h0")
    assert idle["value"].to_list() == [0.0] * 4 and idle["placebo"].to_list() == [0.0] * 4
    others = table.filter(pl.col("component") != "a1.h0")
    assert (others["value"].abs() > 0).all() and (others["placebo"].abs() > 0).all()


def test_a_placebo_moves_as_much_as_the_ablation_does() -> None:
    # With one position and mean-position, shuffling over sequences permutes the ablated streams.
    case = zoo.case_named("tl-attn-only")
    tokens = zoo.tokens_of(case, 6, seed=3, length=1)
    targets = (tokens * 3) % case.d_vocab_out
    context = Context(
        Model.from_source(case.source(0), torch.float64), Evaluation(tokens, targets), 0,
        ("zero",), Plan(6, 4),
    )  # fmt: skip
    part = parse_component("a0.h1", context.model.config)
    place = part.place(context.model)
    run = Model.run

    def ablated(variant: Variant) -> torch.Tensor:
        """How far the streams that chunks start from are from the clean ones."""
        seen: list[torch.Tensor] = []

        def spy(self: Model, stream: torch.Tensor, start: int, *rest: Any, **named: Any) -> Any:
            if start == place and "until" not in named:
                seen.append(stream)
            return run(self, stream, start, *rest, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Model, "run", spy)
            order = sweep(context, [variant]).order
        with torch.no_grad():
            return torch.cat(seen) - context.model.trace(tokens[order]).streams[place]

    moved, other = (ablated(Variant((part,), "zero", placebo=p)) for p in (False, True))
    assert not torch.allclose(moved, other)
    assert torch.allclose(moved.sum(0), other.sum(0))
    norms = [d.norm(dim=-1).flatten().sort().values for d in (moved, other)]
    assert torch.allclose(*norms)


def test_the_largest_seed_draws_like_any_other() -> None:
    context = replace(context_of(zoo.case_named("gpt2")), seed=2**63 - 1)
    found = table_of(context, placebo_draws=1)
    assert found["placebo"].is_not_null().all() and found["placebo"].abs().max() > 0  # type: ignore[operator]


def test_the_placebos_error_covers_its_draws() -> None:
    case = zoo.case_named("gpt2")
    tokens = zoo.tokens_of(case, 32, seed=5)
    targets = zoo.targets_of(case, tokens, seed=5)
    model = Model.from_source(case.source(0))
    found, errors = [], []
    for seed in range(12):
        context = Context(model, Evaluation(tokens, targets), 0, ("mean",), Plan(8, 64), seed)
        row = VALUE.run(context, ValueSettings(components=["a1.h0"]))["value"].row(0, named=True)
        found.append(row["placebo"])
        errors.append(row["placebo_se"])
    # Over draws alone the spread cannot exceed the error by more than twelve draws may show.
    assert 0 < torch.tensor(found).std() < 1.6 * torch.tensor(errors).mean()


def test_donors_come_from_the_reference_and_never_from_oneself() -> None:
    own = draw_donors(50, 50, same_set=True, seed=3)
    assert (own != torch.arange(50)).all() and len(own.unique()) > 20
    assert torch.equal(own, draw_donors(50, 50, same_set=True, seed=3))
    assert not torch.equal(own, draw_donors(50, 50, same_set=True, seed=4))
    assert draw_donors(9, 4, same_set=False, seed=0).max() <= 3


def test_one_sequence_has_no_standard_error() -> None:
    context = context_of(zoo.case_named("gpt2"), sequences=1)
    table = VALUE.run(context, ValueSettings())["value"]
    assert table["se"].null_count() == table["placebo_se"].null_count() == table.height
    assert table["value"].null_count() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(0.1, 5))
def test_the_ratio_is_the_mean_over_positions_and_scales(n: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    sums = torch.randn(n, generator=generator, dtype=torch.float64)
    counts = torch.randint(1, 9, (n,), generator=generator)
    mean, se = ratio_estimate(sums, counts)
    assert float(mean) == pytest.approx(float(sums.sum() / counts.sum()))
    scaled = ratio_estimate(scale * sums, counts)
    assert float(scaled[0]) == pytest.approx(scale * float(mean), rel=1e-9, abs=1e-12)
    assert float(scaled[1]) == pytest.approx(scale * float(se), rel=1e-9)
    same = torch.full((n,), 3)
    plain = ratio_estimate(sums, same)[1]
    assert float(plain) == pytest.approx(float(sums.std() / 3 / math.sqrt(n)), rel=1e-9)
    one_each = ratio_estimate(sums, counts, torch.arange(n))
    assert float(one_each[1]) == pytest.approx(float(se))


def test_windows_of_one_document_are_not_independent() -> None:
    # Ten windows of each of 40 documents that differ: the error is that of 40, not of 400.
    generator = torch.Generator().manual_seed(0)
    errors, means = [], []
    for _ in range(200):
        documents = torch.randn(40, generator=generator).repeat_interleave(10)
        clusters = torch.arange(40).repeat_interleave(10)
        mean, se = ratio_estimate(documents, torch.ones(400), clusters)
        errors.append(float(se))
        means.append(float(mean))
    spread = float(torch.tensor(means).std())
    assert sum(errors) / 200 == pytest.approx(spread, rel=0.12)
    assert spread == pytest.approx(1 / math.sqrt(40), rel=0.12)
    alone = ratio_estimate(documents, torch.ones(400), torch.zeros(400, dtype=torch.int64))
    assert alone[1].isnan()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"components": ["a9.h9"]}, "unknown component 'a9.h9'; there is: embed, pos, a0.h0"),
        ({"sets": [["a0.h0", "x"]]}, "unknown component 'x'"),
    ],
)
def test_an_unknown_component_says_what_there_is(fields: dict, text: str) -> None:
    context = context_of(zoo.case_named("gpt2"))
    with pytest.raises(ConfigurationError, match=text):
        VALUE.check(context.model.config, ValueSettings(**fields))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="is not a set of at least two different"):
        ValueSettings(sets=[["a0.h0", "a0.h0"]])
    with pytest.raises(ConfigurationError, match="placebo_draws must be 0 or more, not -1"):
        ValueSettings(placebo_draws=-1)


def test_component_names_cover_the_model() -> None:
    config = context_of(zoo.case_named("gpt2")).model.config
    names = [c.name for c in components(config)]
    assert names[:3] == ["embed", "pos", "a0.h0"] and names[-1] == f"m{config.n_layers - 1}"
    assert len(names) == 2 + config.n_layers * (config.n_heads + 1)

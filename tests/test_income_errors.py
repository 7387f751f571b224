"""The errors of incomes, and how their work is cut and what memory it takes."""

from __future__ import annotations

import weakref
from typing import Any

import polars as pl
import pytest
import torch
import zoo
from test_income import FEW, context_of, made, random_model, tables_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan, income_economy
from circuit_econ.measures.flows import trade
from circuit_econ.measures.income import INCOME, IncomeSettings, cut_of
from circuit_econ.measures.income_economy import Economy
from circuit_econ.measures.income_pass import Dialled, numbers
from circuit_econ.measures.statistics import ratio_estimate
from circuit_econ.model import ModelConfig
from circuit_econ.tables import BASELINES


def integrated(context: Context, level: int) -> Tensor:
    """Incomes by one rule."""
    economy = Economy(context, "mean", cut_of(context.sizes, IncomeSettings(), context.plan))
    return economy.mean(economy.integrate(level).earned)


def one_by_one(context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Incomes and flows of each sequence alone, summed over its positions, and their counts."""
    evaluation, incomes, traded = context.evaluation, [], []
    counts = (evaluation.targets >= 0).sum(1)
    for i, count in enumerate(counts.tolist()):
        alone = Evaluation(
            evaluation.tokens[i : i + 1], evaluation.targets[i : i + 1], evaluation.reference
        )
        found = tables_of(Context(context.model, alone, 0, context.baselines), **FEW)
        assert found["income"]["se"].is_null().all() and found["flows"]["se"].is_null().all()
        incomes.append(count * found["income"]["income"].to_torch())
        flow = found["flows"]["signal"] + found["flows"]["crowding"]
        traded.append(count * flow.to_torch())
    return torch.stack(incomes, -1), torch.stack(traded, -1), counts


@pytest.mark.parametrize("clusters", [None, torch.tensor([4, 4, 9, 9, 9, 1])])
def test_given_the_baseline_errors_come_from_sequences(clusters: Tensor | None) -> None:
    context = context_of(zoo.case_named("gpt2"), clusters=clusters)
    found = tables_of(context, **FEW)
    *sums, counts = one_by_one(context)
    for table, each in zip(("income", "flows"), sums, strict=True):
        mean, se = ratio_estimate(each, counts, clusters)
        columns = found[table]
        amount = columns["income"] if table == "income" else columns["signal"] + columns["crowding"]
        assert torch.allclose(amount.to_torch(), mean, atol=1e-10)
        assert torch.allclose(columns["se"].to_torch(), se, atol=1e-10)


def test_many_documents_are_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(zoo.case_named("gpt2"))
    monkeypatch.setattr(income_economy, "GROUPS", 4)
    found = tables_of(context, **FEW)
    incomes, _, counts = one_by_one(context)
    mean, se = ratio_estimate(incomes, counts, torch.arange(6) % 4)
    assert torch.allclose(found["income"]["income"].to_torch(), mean, atol=1e-10)
    assert torch.allclose(found["income"]["se"].to_torch(), se, atol=1e-10)


def test_the_reference_has_a_part_by_leaving_its_groups_out() -> None:
    context = context_of(zoo.case_named("gpt2"))
    evaluation, reference = context.evaluation, context.evaluation.reference
    assert reference is not None
    groups = 3
    effects = []
    for group in range(groups):
        mine = torch.arange(6) % groups == group
        left = reference[torch.arange(5) % groups != group]
        incomes = [
            integrated(
                Context(
                    context.model,
                    Evaluation(evaluation.tokens[mine], evaluation.targets[mine], some),
                ),
                level=1,
            )
            for some in (left, reference)
        ]
        effects.append(incomes[0] - incomes[1])
    moved = torch.stack(effects)
    variance = (groups - 1) / groups * (moved - moved.mean(0)).square().sum(0)
    given = tables_of(context, **FEW)["income"]["se"].to_torch()
    both = tables_of(context, **FEW, reference_groups=3)["income"]["se"].to_torch()
    assert torch.allclose(both, (given.square() + variance).sqrt(), atol=1e-10)
    assert (both > 1.001 * given).all()


def test_what_has_no_reference_or_too_little_of_it() -> None:
    context = context_of(zoo.case_named("gpt2"), baselines=BASELINES)
    given, both = (tables_of(context, **FEW, reference_groups=g)["income"] for g in (0, 2))
    for baseline in ("zero", "resample"):
        ours, theirs = (x.filter(pl.col("baseline") == baseline)["se"] for x in (given, both))
        assert ours.to_list() == theirs.to_list()
    evaluation, reference = context.evaluation, context.evaluation.reference
    assert reference is not None
    alone = Evaluation(evaluation.tokens, evaluation.targets, reference[:1])
    context = Context(context.model, alone, 0, ("mean", "zero"))
    found = tables_of(context, **FEW, reference_groups=2)
    for table in ("income", "flows"):
        unknown = pl.col("baseline") == "mean"
        assert found[table].filter(unknown)["se"].is_null().all()
        assert found[table].filter(~unknown)["se"].is_not_null().all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"nodes": 4},
            "measures.income: rules have 5, 9, 17, 33 … nodes; nodes must be at least 5, "
            "most_nodes at most 513, and a rule must lie between; got 4 and 65",
        ),
        (
            {"nodes": 10, "most_nodes": 16},
            "measures.income: rules have 5, 9, 17, 33 … nodes; nodes must be at least 5, "
            "most_nodes at most 513, and a rule must lie between; got 10 and 16",
        ),
        (
            {"reference_groups": 1},
            "measures.income.reference_groups must be 0 (given this baseline) or at least 2, not 1",
        ),
    ],
)
def test_wrong_numbers_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        IncomeSettings(**fields)
    assert str(caught.value) == message


# ── how the work is cut ───────────────────────────────────────────────────────────────────────────


def test_incomes_do_not_depend_on_how_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(zoo.case_named("llama"), baselines=("mean", "resample"))
    few = {"nodes": 5, "most_nodes": 5, "reference_groups": 2}
    expected = tables_of(context, **few)
    panels: list[int] = []
    run = Dialled.run

    def watched(self: Dialled, tokens: Tensor, *rest: Any) -> Any:
        panels.append(len(tokens))
        return run(self, tokens, *rest)

    monkeypatch.setattr(Dialled, "run", watched)
    context.plan = Plan(100, 1)
    whole = tables_of(context, **few)
    assert max(panels) == 6
    panels.clear()
    # Memory for one sequence alone, and few logits.
    context.plan = Plan(100, 1, 1)
    assert cut_of(context.sizes, IncomeSettings(**few), context.plan).panel == 1
    single = tables_of(context, **few)
    assert set(panels) == {1}
    for found in (whole, single):
        for table, frame in found.items():
            for column in frame.columns:
                if frame.schema[column] == pl.Float64:
                    difference = (frame[column] - expected[table][column]).abs().max()
                    assert difference is None or difference < 1e-10  # type: ignore[operator]


class Peak(TorchDispatchMode):
    """The most bytes that tensors held at once while it was on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self._hold(storage)
        return out

    def _hold(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def release() -> None:
            self.known.discard(key)
            self.now -= size

        weakref.finalize(storage, release)


@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("gated", [False, True])
def test_memory_is_what_the_formula_says(
    heads: int, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, t = random_model(
        n_layers=4, n_heads=heads, d_head=32 // heads, d_model=32, n_ctx=64, d_vocab=11,
        d_mlp=128, gated_mlp=gated, act_fn="silu",
    )  # fmt: skip
    dialled = Dialled(made(config, t))
    tokens = torch.randint(11, (4, 64), generator=torch.Generator().manual_seed(0))
    shapes = [(64, heads, 32 // heads), (64, 1, 32)] * 4
    bases = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    for stages in (1, dialled.stages):
        with Peak() as peak:
            trade(dialled.run(tokens, tokens, bases, 0.5, stages), 1 << 16)
        formula = 8 * len(tokens) * numbers(dialled.model.config, 64, stages)
        assert 0.5 * formula < peak.most < formula + 8 * (1 << 17)


@pytest.mark.parametrize(("reference_groups", "stages"), [(0, False), (2, True)])
def test_the_plan_counts_the_passes(
    reference_groups: int, stages: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(zoo.case_named("gpt2"), baselines=("mean", "zero"))
    settings = IncomeSettings(5, 5, stages, reference_groups)
    backward: list[float] = []
    run = Dialled.run

    def watched(self: Dialled, tokens: Tensor, t: Any, b: Any, a: float, *rest: int) -> Any:
        # A forward pass and, stage by stage from the logits down, one backward pass more.
        backward.append((1 + 2 * (rest[0] + 1) / 2) * len(tokens) / 6)
        return run(self, tokens, t, b, a, *rest)

    monkeypatch.setattr(Dialled, "run", watched)
    INCOME.run(context, settings)
    config: ModelConfig = context.model.config
    planned = INCOME.passes(config, context.evaluation, context.baselines, settings)
    # Beside those the reference.
    assert planned == pytest.approx(sum(backward) + 2)

"""Incomes on paper, by their identities, and with the errors that they are given."""

from __future__ import annotations

import math
from typing import Any

import hooks
import paper
import polars as pl
import pytest
import torch
import zoo
from torch import Tensor

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.flows import trade
from circuit_econ.measures.income import INCOME, IncomeSettings
from circuit_econ.measures.income_pass import Dialled
from circuit_econ.measures.unigram import unigram_loss
from circuit_econ.model import Format, Model, Source
from circuit_econ.model.intervene import draw_donors
from circuit_econ.tables import BASELINES, TABLES

LENGTH = 7
FEW = {"nodes": 5, "most_nodes": 5, "stages": False}


def context_of(
    case: zoo.Case, sequences: int = 6, baselines: tuple[str, ...] = ("mean",), **rest: Any
) -> Context:
    tokens = zoo.tokens_of(case, sequences, seed=1, length=LENGTH)
    targets = zoo.targets_of(case, tokens, seed=1)
    reference = zoo.tokens_of(case, 5, seed=2, length=LENGTH)
    evaluation = Evaluation(tokens, targets, reference=reference, **rest)
    model = Model.from_source(case.source(0), torch.float64)
    return Context(model, evaluation, 7, baselines, Plan(8, 8), seed=0)


def tables_of(context: Context, **fields: Any) -> dict[str, pl.DataFrame]:
    return dict(INCOME.run(context, IncomeSettings(**{"reference_groups": 0, **fields})))


def made(config: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    source = Source(Format.TRANSFORMER_LENS, config, tensors, "a model on paper")
    return Model.from_source(source, torch.float64)


def random_model(seed: int = 0, **config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    fresh = Model.initialise(config).to_transformer_lens()
    tensors = {
        name: 0.7 * torch.randn(t.shape, generator=generator, dtype=torch.float64)
        for name, t in fresh.items()
    }
    return config, tensors


# ── on paper ──────────────────────────────────────────────────────────────────────────────────────


def test_induction_sells_one_capital_good() -> None:
    context = Context(paper.induction(), Evaluation(*paper.repeated(3)), 0, ("zero",))
    found = tables_of(context, nodes=32)
    traded = found["flows"].filter((pl.col("signal") != 0) | (pl.col("crowding") != 0))
    assert traded.select("supplier", "buyer", "port").rows() == [
        ("a0.h0", "a1.h0", "k"),
        ("a1.h0", "logits", "in"),
    ]
    assert (traded["signal"] > 0.5).all() and (traded["crowding"] == 0).all()
    gap = found["income_gap"].row(0, named=True)
    assert gap["product"] == gap["ablated_loss"] == pytest.approx(math.log(7), abs=1e-9)
    assert gap["nodes"] == 65 and abs(gap["gap"]) < 1e-3 and gap["converged"]
    stages = found["income_stages"].filter(pl.col("income") != 0)
    assert stages.select("component", "stage").rows() == [("a1.h0", 1), ("a0.h0", 2)]


@pytest.mark.parametrize("kind", ["and", "or"])
def test_two_equal_suppliers_earn_the_same(kind: str) -> None:
    tokens = torch.randint(4, (3, 5), generator=torch.Generator().manual_seed(0))
    context = Context(paper.gate(kind), Evaluation(tokens, torch.zeros_like(tokens)), 0, ("zero",))
    found = tables_of(context)
    income = dict(found["income"].select("component", "income").iter_rows())
    assert income["a0.h0"] == income["a0.h1"] > 0.05
    gap = found["income_gap"].row(0, named=True)
    assert gap["product"] == pytest.approx(math.log(4), abs=1e-12)
    assert gap["gap"] == pytest.approx(sum(income.values()) - math.log(4), abs=1e-12)
    # The kink of relu, where a dial of 60 opens, is too sharp for 65 nodes; or it is at none.
    assert gap["converged"] == (kind == "or") and abs(gap["gap"]) <= gap["missed"]


def unread(norm: str | None) -> Context:
    """Head 0 of layer 0 writes into coordinate 7 alone, which nobody reads."""
    config, t = random_model(
        n_layers=2, n_heads=2, d_head=4, d_model=8, n_ctx=6, d_vocab=5, attn_only=True,
        normalization_type=norm, eps=1e-3,
    )  # fmt: skip
    first, second = "blocks.0.attn.", "blocks.1.attn."
    t[first + "W_O"][0, :, :7] = 0
    for name in ("W_Q", "W_K", "W_V"):
        t[second + name][:, 7] = 0
    t["unembed.W_U"][7] = 0
    tokens = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(0))
    return Context(made(config, t), Evaluation(tokens), 0, ("zero", "mean"))


def test_what_nobody_reads_earns_nothing_without_norms() -> None:
    found = tables_of(unread(None), **FEW)
    idle = found["income"].filter(pl.col("component") == "a0.h0")
    assert idle["income"].to_list() == [0, 0]
    assert (found["flows"]["crowding"] == 0).all()
    assert found["income"]["income"].abs().max() > 0.01  # type: ignore[operator]


def test_behind_norms_it_earns_by_crowding_alone() -> None:
    found = tables_of(unread("RMSPre"), **FEW)
    idle = found["flows"].filter(pl.col("supplier") == "a0.h0")
    assert (idle["signal"] == 0).all()
    assert idle.filter(pl.col("crowding").abs() > 1e-6).height > idle.height / 2
    income = found["income"].filter(pl.col("component") == "a0.h0")["income"]
    assert (income.abs() > 1e-4).all()


def test_a_write_along_the_stream_sells_nothing() -> None:
    # One head that looks at itself alone and writes what it sees: its write lies along the stream.
    config, t = random_model(
        n_layers=1, n_heads=1, d_head=6, d_model=6, n_ctx=1, d_vocab=5, attn_only=True,
        normalization_type="RMSPre", eps=1e-14,
    )  # fmt: skip
    t["blocks.0.attn.W_V"][0] = torch.eye(6)
    t["blocks.0.attn.W_O"][0] = 0.5 * torch.eye(6)
    for name in ("b_V", "b_O"):
        t[f"blocks.0.attn.{name}"].zero_()
    dialled = Dialled(made(config, t))
    tokens, targets = torch.tensor([[1], [2]]), torch.tensor([[3], [4]])
    found = dialled.run(tokens, targets, [torch.zeros(1, 1, 6).double()], 0.5)
    sold, logits = trade(found), found.readings[-1]
    assert logits.entry.scale is not None
    matrix = found.writings[0].matrix
    assert matrix is not None
    write = torch.einsum("btnv,ndv->btd", found.writings[0].change, matrix)
    gradient = logits.gradient[:, :, 0] / logits.entry.scale
    share = (write * logits.entry.stream).sum(-1) / logits.entry.energy(slice(None))[..., 0]
    paid = -(write * gradient).sum((1, 2))
    assert (paid.abs() > 0.01).all()
    assert torch.allclose(paid, share[:, 0] * sold.price[-1], atol=1e-10)
    assert (sold.signal + sold.crowding).abs().max() < 1e-10
    assert (sold.crowding.abs() > 0.01).all()


def test_stages_are_sums_over_paths_in_a_linear_model() -> None:
    config, t = random_model(
        n_layers=3, n_heads=2, d_head=3, d_model=6, n_ctx=5, d_vocab=7, attn_only=True,
        normalization_type=None,
    )  # fmt: skip
    for layer in range(3):
        for name in ("W_Q", "b_Q", "b_V", "b_O"):
            t[f"blocks.{layer}.attn.{name}"].zero_()  # every head spreads evenly
    t["unembed.b_U"].zero_()
    dialled, dial = Dialled(made(config, t)), 0.6
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(7, (2, 5), generator=generator)
    targets = torch.randint(7, (2, 5), generator=generator)
    bases = [torch.zeros(5, 2, 3).double() for _ in range(3)]
    found = dialled.run(tokens, targets, bases, dial, dialled.stages)

    spread = torch.ones(5, 5).double().tril()
    spread = spread / spread.sum(1, keepdim=True)
    maps = {
        f"a{layer}.h{head}": (layer, v[head] @ o[head])
        for layer in range(3)
        for v, o in [(t[f"blocks.{layer}.attn.W_V"], t[f"blocks.{layer}.attn.W_O"])]
        for head in range(2)
    }
    streams = [t["embed.W_E"][tokens] + t["pos_embed.W_pos"]]
    for layer in range(3):
        wrote = sum(spread @ streams[-1] @ ov for at, ov in maps.values() if at == layer)
        streams.append(streams[-1] + dial * wrote)
    probabilities = (streams[-1] @ t["unembed.W_U"]).softmax(-1)
    final = (probabilities - torch.nn.functional.one_hot(targets, 7)) @ t["unembed.W_U"].T

    def paths(write: Tensor, layer: int) -> list[Tensor]:
        """By stage, what a write is worth over all paths to the logits."""
        worth = [-(write * final).sum((1, 2)), *(torch.zeros(2).double() for _ in range(2))]
        for later, ov in maps.values():
            if later > layer:
                resold = paths(dial * (spread @ write @ ov), later)
                worth = [worth[0], *(w + r for w, r in zip(worth[1:], resold, strict=False))]
        return worth

    for number, (layer, ov) in enumerate(maps.values()):
        expected = torch.stack(paths(spread @ streams[layer] @ ov, layer))
        assert torch.allclose(found.income[:, number], expected, atol=1e-12)
    assert (found.income[:, :2].abs() > 1e-3).all()


# ── what the tables say ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["gpt2", "neox", "qwen3", "tl-attn-only", "tl-no-norm"])
def test_the_tables_obey_the_identities(name: str) -> None:
    context = context_of(zoo.case_named(name), baselines=BASELINES)
    found = tables_of(context, most_nodes=9)
    assert tuple(found) == INCOME.tables
    for table, frame in found.items():
        assert frame.schema == TABLES[table] and frame["step"].unique().to_list() == [7]
        assert frame["baseline"].unique(maintain_order=True).to_list() == list(BASELINES)
    keys = ["component", "baseline"]
    income = found["income"].select(*keys, "income")
    flow = pl.col("signal") + pl.col("crowding")
    sold = found["flows"].group_by(pl.col("supplier").alias("component"), "baseline")
    staged = found["income_stages"].group_by(*keys).agg(pl.col("income").sum().alias("again"))
    for again in (sold.agg(flow.sum().alias("again")), staged):
        both = income.join(again, on=keys)
        assert both.height == income.height
        assert both.select((pl.col("income") - pl.col("again")).abs().max()).item() < 1e-8
    for row in found["income_gap"].iter_rows(named=True):
        mine = income.filter(pl.col("baseline") == row["baseline"])["income"].sum()
        assert mine - row["product"] == pytest.approx(row["gap"], abs=1e-12)
        allowed = max(1e-2 * abs(row["product"]), 1e-3)
        assert row["converged"] <= (max(row["component_error"], row["missed"]) <= allowed)
        assert row["missed"] >= abs(row["gap"]) - 1e-12
        prices = found["prices"].filter(pl.col("baseline") == row["baseline"])
        nodes = prices.select("node", "alpha").unique(maintain_order=True)
        assert nodes["node"].to_list() == list(range(row["nodes"]))
        assert nodes["alpha"].is_sorted() and (nodes["alpha"][0], nodes["alpha"][-1]) == (0, 1)
    assert (found["income"]["se"] > 0).all() and (found["flows"]["se"] >= 0).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "tl-attn-only"])
def test_everything_at_the_baseline_is_a_hook_loop_with_everything_replaced(name: str) -> None:
    case = zoo.case_named(name)
    context = context_of(case, baselines=BASELINES)
    gaps = tables_of(context, **FEW)["income_gap"]
    evaluation, bridge = context.evaluation, zoo.shared_bridge(case)
    assert evaluation.reference is not None
    donors = draw_donors(6, 5, same_set=False, seed=1)
    clean = hooks.hook_losses(bridge, evaluation.tokens, evaluation.targets, {})
    for row in gaps.iter_rows(named=True):
        replacements = {
            component: hooks.baseline_replacements(
                bridge, evaluation.tokens, evaluation.reference, component, row["baseline"], donors
            )
            for component in hooks.components_of(bridge)
            if component not in ("embed", "pos")
        }
        losses = hooks.hook_losses(bridge, evaluation.tokens, evaluation.targets, replacements)
        scale = 1e-9 if case.exact else 1e-4
        ablated, product = (x.sum() / evaluation.scored for x in (losses, losses - clean))
        assert row["ablated_loss"] == pytest.approx(float(ablated), abs=scale)
        assert row["product"] == pytest.approx(float(product), abs=scale)
        guessed = unigram_loss(evaluation, bridge.cfg.d_vocab)
        assert (row["unigram_loss"], row["unigram_se"]) == guessed


def test_without_stages_none_are_written() -> None:
    found = tables_of(context_of(zoo.case_named("gpt2")), stages=False)
    assert found["income_stages"].height == 0
    assert found["income_stages"].schema == TABLES["income_stages"]

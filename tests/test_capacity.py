"""Capacity: the bounds and identities of its currencies, and slow forms of each."""

from __future__ import annotations

import json
import math
from pathlib import Path

import plain
import polars as pl
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import circuit_econ as ce
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.capacity import CAPACITY, CapacitySettings
from circuit_econ.measures.directions import direction_shares, ov_write_vectors
from circuit_econ.measures.ranks import effective_rank, product_spectrum, spectrum, stable_rank
from circuit_econ.model import Format, Model, Source, inventory
from circuit_econ.model.bridge import boot, source_of

CASES = pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)
SEEDS = st.integers(0, 10_000)


def table_of(case: zoo.Case, seed: int = 0, plan: Plan | None = None) -> pl.DataFrame:
    model = Model.from_source(case.source(seed), torch.float64)
    context = Context(model, Evaluation(zoo.tokens_of(case, 5, seed=1)), 2, plan=plan or Plan(2, 2))
    return CAPACITY.run(context, CapacitySettings(every_layer=True))["capacity"]


def amounts(table: pl.DataFrame, currency: str, place: str | None = None) -> dict[str, float]:
    rows = table.filter(pl.col("currency") == currency)
    if place is not None:
        rows = rows.filter(pl.col("place") == place)
    return dict(zip(rows["component"], rows["amount"], strict=True))


@CASES
def test_parameters_and_norms_sum_to_the_models_own(case: zoo.Case) -> None:
    table = table_of(case)
    source = case.source(0)
    counted = {name: source.tensors[name] for name in inventory(source).read}
    model = Model.from_source(source, torch.float64)
    leaves = list(model.parameters().values())
    assert sum(amounts(table, "parameters").values()) == sum(t.numel() for t in leaves)
    # Biases that a file leaves out are zeros: they count as parameters and weigh nothing.
    assert sum(t.numel() for t in counted.values()) <= sum(t.numel() for t in leaves)
    norm = sum(float(t.double().square().sum()) for t in counted.values())
    assert sum(amounts(table, "squared_norm").values()) == pytest.approx(norm, rel=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "llama-llama3-tied"])
def test_parameters_are_those_that_transformers_counts(name: str) -> None:
    case = zoo.case_named(name)
    module = case.hf_model(0)
    expected = sum(p.numel() for p in module.parameters())
    assert sum(amounts(table_of(case), "parameters").values()) == expected


@CASES
def test_shares_of_the_stream_sum_to_one_and_are_the_plain_ones(case: zoo.Case) -> None:
    table, source = table_of(case), case.source(0)
    tokens = zoo.tokens_of(case, 5, seed=1)
    trace = plain.plain_trace(case.format, source.config, source.tensors, tokens)
    layers = Model.from_source(source).config.n_layers
    places = {f"block.{layer}": layer for layer in range(1, layers)} | {"final": layers}
    for place, layer in places.items():
        plainly = amounts(table, "stream_share", place)
        centred = amounts(table, "stream_share_centred", place)
        assert sum(plainly.values()) == pytest.approx(1, abs=1e-9)
        assert sum(centred.values()) == pytest.approx(1, abs=1e-9)
        x = trace[f"stream.{layer}"][:, 1:].flatten(0, 1)
        for name, shares in (("embed", trace["embed"]), ("a0.h1", trace["heads.0"][:, :, 1])):
            out = shares[:, 1:].flatten(0, 1)
            expected = float((out * x).sum() / x.square().sum())
            assert plainly[name] == pytest.approx(expected, abs=1e-9)
            out, x0 = out - out.mean(0), x - x.mean(0)
            expected = float((out * x0).sum() / x0.square().sum())
            assert centred[name] == pytest.approx(expected, abs=1e-9)


@CASES
def test_bounds_of_ranks_and_directions(case: zoo.Case) -> None:
    table = table_of(case)
    config = Model.from_source(case.source(0)).config
    for which in ("ov", "qk", "out"):
        effective = amounts(table, f"effective_rank_{which}")
        stable = amounts(table, f"stable_rank_{which}")
        limit = config.d_model if which == "out" else config.d_head
        assert set(effective) == set(stable)
        for name, amount in effective.items():
            assert 1 - 1e-9 <= stable[name] <= amount + 1e-9 <= limit + 2e-9
    assert bool(amounts(table, "effective_rank_qk")) == (not config.qk_norm)
    for name, amount in amounts(table, "dimensions_used").items():
        assert 0 <= amount <= config.d_model + 1e-9, name
    directions = amounts(table, "directions")
    for layer in range(config.n_layers):
        heads = sum(v for k, v in directions.items() if k.startswith(f"a{layer}.h"))
        rank = min(config.d_model, config.n_heads * config.d_head)
        assert 0 < heads <= rank + 1e-9
        if config.d_mlp is not None:
            assert 0 < directions[f"m{layer}"] <= min(config.d_model, config.d_mlp) + 1e-9


def test_dimensions_used_are_those_of_the_plain_outputs() -> None:
    for name in ("gpt2", "neox", "llama"):
        case = zoo.case_named(name)
        found, source = amounts(table_of(case), "dimensions_used"), case.source(0)
        tokens = zoo.tokens_of(case, 5, seed=1)
        trace = plain.plain_trace(case.format, source.config, source.tensors, tokens)
        for component, out in (
            ("a1.h0", trace["heads.1"][:, :, 0]), ("m0", trace["mlp.0"]), ("embed", trace["embed"])
        ):  # fmt: skip
            rows = out[:, 1:].flatten(0, 1)
            eigenvalues = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0))
            expected = float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())
            assert found[component] == pytest.approx(expected, rel=1e-6), (name, component)


def test_capacity_does_not_depend_on_how_the_work_is_cut() -> None:
    case = zoo.case_named("gpt2")
    one, other = table_of(case, plan=Plan(1, 1)), table_of(case, plan=Plan(9, 9))
    assert one.drop("amount").equals(other.drop("amount"))
    assert float((one["amount"] - other["amount"]).abs().max()) < 1e-9  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_spectra_are_singular_values(seed: int, inner: int, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, inner, generator=generator, dtype=torch.float64)
    right = torch.randn(columns, inner, generator=generator, dtype=torch.float64)
    product = left @ right.mT
    expected = torch.linalg.svdvals(product)
    found = product_spectrum(left, right)
    size = min(len(found), len(expected))
    assert torch.allclose(found[:size], expected[:size], atol=1e-9)
    assert float(found[size:].abs().sum()) < 1e-9
    assert torch.allclose(spectrum(left), torch.linalg.svdvals(left), atol=1e-6)
    if expected[0] > 1e-6:
        assert 1 - 1e-9 <= stable_rank(expected) <= effective_rank(expected) + 1e-9
        assert effective_rank(expected) <= inner + 1e-6


def test_ranks_on_paper() -> None:
    assert effective_rank(torch.ones(5)) == pytest.approx(5)
    assert stable_rank(torch.ones(5)) == pytest.approx(5)
    assert effective_rank(torch.tensor([3.0, 0.0])) == pytest.approx(1)
    # σ = (2, 1): shares 2/3, 1/3; squares over the largest: 1 + 1/4.
    entropy = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    assert effective_rank(torch.tensor([2.0, 1.0])) == pytest.approx(math.exp(entropy), rel=1e-6)
    assert stable_rank(torch.tensor([2.0, 1.0])) == pytest.approx(1.25)
    assert effective_rank(torch.zeros(3)) == stable_rank(torch.zeros(3)) == 0


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(1, 8), st.integers(0, 3))
def test_shares_of_directions_are_bounded_by_the_rank(
    seed: int, n: int, width: int, zeros: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, width, generator=generator, dtype=torch.float64)
    vectors[:zeros] = 0
    shares = direction_shares(vectors)
    slow = torch.tensor(
        [
            float((w @ w) ** 2 / sum((w @ v) ** 2 for v in vectors)) if w.any() else 0.0
            for w in vectors
        ],
        dtype=torch.float64,
    )
    assert torch.allclose(shares, slow, atol=1e-9)
    assert (shares >= 0).all() and (shares <= 1 + 1e-12).all()
    assert float(shares.sum()) <= int(torch.linalg.matrix_rank(vectors)) + 1e-9


def test_directions_on_paper() -> None:
    assert direction_shares(torch.eye(3)).tolist() == [1, 1, 1]
    assert direction_shares(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist() == [0.5, 0.5]
    assert direction_shares(torch.zeros(2, 3)).tolist() == [0, 0]


def test_write_vectors_span_the_map() -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    value = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    vectors = ov_write_vectors(output, value)
    for h in range(2):
        product = output[h] @ value[h]
        # W Wᵀ is the sum of σ² u uᵀ.
        assert torch.allclose(vectors[h].mT @ vectors[h], product @ product.mT, atol=1e-9)


def test_a_bridge_in_hand_counts_what_its_file_does(tmp_path: Path) -> None:
    config = {
        "n_layers": 1, "n_heads": 2, "d_model": 8, "d_head": 4, "d_mlp": 16, "n_ctx": 6,
        "d_vocab": 20, "act_fn": "gelu", "normalization_type": "LN",
    }  # fmt: skip
    tensors = Model.initialise(config).to_transformer_lens()
    assert not tensors.pop("unembed.b_U").any()  # models trained here have one
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "step_0.safetensors")
    bridge = boot(Source(Format.TRANSFORMER_LENS, config, tensors, "a model"))
    # TransformerLens gives the head a bias of zeros that nobody trains.
    assert bridge.unembed.b_U.numel() == 20 and not bridge.unembed.b_U.any()
    data = Evaluation(torch.arange(12).view(2, 6))
    in_hand = ce.measure(bridge, data, ["capacity"])["capacity"]
    ledger = ce.walk(ce.open_trajectory(tmp_path), data, ["capacity"], out=tmp_path / "run")
    weights = pl.col("currency").is_in(["parameters", "squared_norm"])
    rows = [t.filter(weights).sort("component", "currency") for t in (
        in_hand, ledger.table("capacity").collect())]  # fmt: skip
    assert rows[0].equals(rows[1])
    counted = rows[0].filter(pl.col("currency") == "parameters")
    assert counted["amount"].sum() == sum(p.numel() for p in bridge.original_model.parameters())
    unembed = counted.filter(pl.col("component") == "unembed")["amount"].to_list()
    assert unembed == [8 * 20]
    # One that says something is part of the function, and kept.
    bridge.original_model.head.original_component.bias[3] = 0.5
    assert source_of(bridge).tensors["unembed.b_U"][3] == 0.5

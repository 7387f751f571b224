"""The identities and bounds of economy.md, sections 1 to 3, over models drawn at random."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.capacity import CAPACITY, CapacitySettings
from circuit_econ.measures.value import VALUE, ValueSettings
from circuit_econ.model import Format, Model, Source
from circuit_econ.model.check import check_against_bridge, check_identity
from circuit_econ.tables import BASELINES

LENGTH = 7


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """The configuration of a random TransformerLens-native model."""
    heads, width = draw(st.sampled_from([(1, 4), (2, 4), (4, 2), (3, 6)]))
    config: dict[str, Any] = {
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": heads,
        "d_head": width,
        "d_model": draw(st.sampled_from([5, 8, 12])),
        "n_ctx": LENGTH,
        "d_vocab": draw(st.integers(3, 9)),
        "attn_only": draw(st.booleans()),
        "d_mlp": draw(st.integers(2, 9)),
        "gated_mlp": draw(st.booleans()),
        "act_fn": draw(st.sampled_from(["relu", "gelu", "gelu_new", "silu"])),
        "normalization_type": draw(st.sampled_from(["LN", "LNPre", "RMS", "RMSPre", None])),
        "positional_embedding_type": draw(st.sampled_from(["standard", "rotary"])),
        "attention_dir": draw(st.sampled_from(["causal", "bidirectional"])),
        "n_key_value_heads": 1 if draw(st.booleans()) else heads,
        "rotary_adjacent_pairs": True,
    }
    if config["n_key_value_heads"] == heads:
        del config["n_key_value_heads"]
    return config


def source_of(config: dict[str, Any], seed: int) -> Source:
    """The model with random weights, none near zero."""
    generator = torch.Generator().manual_seed(seed)
    fresh = Model.initialise(config).to_transformer_lens()
    tensors = {
        name: (1 if name.endswith(".w") else 0)
        + 0.5 * torch.randn(t.shape, generator=generator, dtype=torch.float64)
        for name, t in fresh.items()
    }
    return Source(Format.TRANSFORMER_LENS, config, tensors, "a random model")


def context_of(source: Source, seed: int) -> Context:
    model = Model.from_source(source, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.d_vocab
    tokens = torch.randint(vocabulary, (6, LENGTH), generator=generator)
    reference = torch.randint(vocabulary, (5, LENGTH), generator=generator)
    return Context(model, Evaluation(tokens, reference=reference), 0, BASELINES, Plan(3, 5), seed)


@settings(max_examples=12, deadline=None)
@given(models(), st.integers(0, 1000))
def test_the_stream_is_the_sum_of_what_was_written_and_the_bridge_agrees(
    config: dict[str, Any], seed: int
) -> None:
    source = source_of(config, seed)
    context = context_of(source, seed)
    tokens = context.evaluation.tokens
    check_identity(context.model, tokens)
    targets = context.evaluation.targets
    with torch.no_grad():
        stream = context.model.run(context.model.embed(tokens))
        loss = (
            float(context.model.sequence_losses(stream, targets).sum()) / context.evaluation.scored
        )
    # The bridge's rotary tables are float32: of a loss of thousands 1e-8 is what they leave.
    assert check_against_bridge(source, tokens, targets) < 1e-5 * max(1, loss)
    with torch.no_grad():
        trace = context.model.trace(tokens)
        for place, stream in trace.streams.items():
            again = context.model.run(stream, place)
            assert torch.equal(again, trace.streams[context.model.last_place])


@settings(max_examples=10, deadline=None)
@given(models(), st.integers(0, 1000))
def test_capacities_sum_to_what_they_share_out(config: dict[str, Any], seed: int) -> None:
    source = source_of(config, seed)
    context = context_of(source, seed)
    table = CAPACITY.run(context, CapacitySettings(every_layer=True))["capacity"]
    width = context.model.config.d_model

    def total(currency: str) -> pl.DataFrame:
        return (
            table.filter(pl.col("currency") == currency)
            .group_by("place")
            .agg(pl.col("amount").sum())
        )

    leaves = list(context.model.parameters().values())
    assert total("parameters")["amount"].item() == sum(t.numel() for t in leaves)
    norm = sum(float(t.square().sum()) for t in leaves)
    assert total("squared_norm")["amount"].item() == pytest.approx(norm, rel=1e-9)
    for currency in ("stream_share", "stream_share_centred"):
        for amount in total(currency)["amount"]:
            assert amount == pytest.approx(1, abs=1e-8)
    rows = table.filter(pl.col("currency").str.starts_with("stable_rank"))
    for name, currency, stable in rows.select("component", "currency", "amount").iter_rows():
        effective = table.filter(
            (pl.col("component") == name)
            & (pl.col("currency") == currency.replace("stable", "effective"))
        )["amount"].item()
        assert 1 - 1e-9 <= stable <= effective + 1e-9 <= width + 1e-6
    used = table.filter(pl.col("currency") == "dimensions_used")["amount"]
    assert used.min() >= 0 and used.max() <= width + 1e-9  # type: ignore[operator]
    shares = table.filter(pl.col("currency") == "directions")["amount"]
    assert shares.min() >= 0 and shares.max() <= width + 1e-9  # type: ignore[operator]


@settings(max_examples=8, deadline=None)
@given(models(), st.integers(0, 1000))
def test_values_obey_their_laws(config: dict[str, Any], seed: int) -> None:
    source = source_of(config, seed)
    context = context_of(source, seed)
    last = context.model.config.n_layers - 1
    both = [["a0.h0", f"m{last}"]] if context.model.config.d_mlp else []
    table = VALUE.run(context, ValueSettings(embeddings=True, sets=both))["value"]
    assert table["value"].is_finite().all() and (table["se"] >= 0).all()
    # A loss cannot be negative: nothing is worth less than minus the loss there is.
    with torch.no_grad():
        stream = context.model.run(context.model.embed(context.evaluation.tokens))
        losses = context.model.sequence_losses(stream, context.evaluation.targets)
    loss = float(losses.sum()) / context.evaluation.scored
    assert table["value"].min() >= -loss - 1e-9  # type: ignore[operator]
    # What writes a constant loses nothing to its own mean at each position.
    if context.model.config.rotary is None:
        row = table.filter((pl.col("component") == "pos") & (pl.col("baseline") == "mean-position"))
        assert row["value"].item() == pytest.approx(0, abs=1e-12)
    # The same again, another cut.
    context.plan = Plan(6, 100)
    again = VALUE.run(context, ValueSettings(embeddings=True, sets=both))["value"]
    assert float((again["value"] - table["value"]).abs().max()) < 1e-9  # type: ignore[arg-type]

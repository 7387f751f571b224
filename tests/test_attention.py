"""Attention scores: on paper, and against loops over the plain patterns."""

from __future__ import annotations

import paper
import plain
import polars as pl
import pytest
import torch
import zoo

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context
from circuit_econ.measures.attention import ATTENTION, AttentionSettings
from circuit_econ.model import Model


def scores(context: Context) -> dict[tuple[str, str], float]:
    table = ATTENTION.run(context, AttentionSettings())["attention"]
    assert table["step"].unique().to_list() == [context.step]
    return {(c, q): a for c, q, a in table.select("component", "quantity", "amount").iter_rows()}


def test_the_heads_of_a_hand_made_induction_circuit_look_where_they_should() -> None:
    tokens, targets = paper.repeated(8)
    found = scores(Context(paper.induction(), Evaluation(tokens, targets)))
    assert found["a0.h0", "previous_token"] == pytest.approx(1, abs=1e-9)
    assert found["a1.h0", "prefix_matching"] == pytest.approx(1, abs=1e-9)
    assert found["a0.h0", "prefix_matching"] == pytest.approx(0, abs=1e-9)
    assert found["a1.h0", "previous_token"] < 0.7


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "tl-bidirectional"])
def test_scores_are_those_of_loops_over_the_plain_pattern(name: str) -> None:
    case = zoo.case_named(name)
    source, tokens = case.source(0), zoo.tokens_of(case, 4, seed=1) % 5
    trace = plain.plain_trace(case.format, source.config, source.tensors, tokens)
    model = Model.from_source(source, torch.float64)
    found = scores(Context(model, Evaluation(tokens), 3))
    for layer in range(model.config.n_layers):
        for head in range(model.config.n_heads):
            pattern = trace[f"pattern.{layer}"][:, head]
            expected: dict[str, list[float]] = {}
            for s in range(4):
                for i in range(tokens.shape[1]):
                    same = [j for j in range(i) if tokens[s, j] == tokens[s, i]]
                    after = [j + 1 for j in same if j + 1 < i]
                    keys = {
                        "previous_token": [i - 1] if i else [],
                        "duplicate_token": same,
                        "prefix_matching": after,
                    }
                    for quantity, wanted in keys.items():
                        if wanted:
                            total = sum(float(pattern[s, i, j]) for j in wanted)
                            expected.setdefault(quantity, []).append(total)
            for quantity, amounts in expected.items():
                mean = sum(amounts) / len(amounts)
                assert found[f"a{layer}.h{head}", quantity] == pytest.approx(mean, abs=1e-9)
                assert mean > 0.001


def test_a_quantity_that_no_position_qualifies_for_has_no_row() -> None:
    case = zoo.case_named("gpt2")
    model = Model.from_source(case.source(0))
    context = Context(model, Evaluation(torch.arange(8).repeat(2, 1)))
    table = ATTENTION.run(context, AttentionSettings())["attention"]
    assert table["quantity"].unique().to_list() == ["previous_token"]
    assert table.filter(pl.col("amount") > 0).height == table.height

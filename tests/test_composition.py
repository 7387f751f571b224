"""Composition scores against the plain formula, written out as whole matrices."""

from __future__ import annotations

import polars as pl
import pytest
import torch
import zoo
from torch import Tensor

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import MEASURES, Context
from circuit_econ.measures.composition import COMPOSITION, CompositionSettings
from circuit_econ.measures.flows import pairs
from circuit_econ.measures.income_pass import Dialled
from circuit_econ.model import Model
from circuit_econ.model.config import Norm
from circuit_econ.tables import TABLES

CASES = pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)


def table_of(model: Model) -> pl.DataFrame:
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    return COMPOSITION.run(Context(model, Evaluation(tokens), 5), CompositionSettings())[
        "composition"
    ]


def folded(matrix: Tensor, gain: Tensor | None, norm: Norm) -> Tensor:
    """A map from the stream, with what the norm does but for its scale in it."""
    width = matrix.shape[1]
    found = matrix if gain is None or norm is Norm.NONE else matrix @ gain.diag()
    if norm is Norm.LAYER:
        found = found @ (torch.eye(width, dtype=matrix.dtype) - 1 / width)
    return found


def maps(model: Model) -> tuple[dict[str, Tensor], dict[tuple[str, str], Tensor]]:
    """Every supplier's map into the stream and every port's map out of it, whole."""
    c, writes, reads = model.config, {}, {}
    k = c.d_head
    for layer, w in enumerate(model.weights.layers):
        for head in range(c.n_heads):
            key = c.n_heads + head // c.group
            rows = (head, key, key + c.n_kv_heads)
            q, key_, v = (folded(w.qkv[r * k : (r + 1) * k], w.ln1, c.norm) for r in rows)
            name, out = f"a{layer}.h{head}", w.out[:, head * k : (head + 1) * k]
            writes[name] = reads[name, "v"] = out @ v
            if c.rotary is None and not c.qk_norm:
                reads[name, "q"], reads[name, "k"] = key_.T @ q, q.T @ key_
        if w.mlp_in is not None and w.mlp_out is not None:
            into = w.mlp_in if w.mlp_gate is None else torch.cat([w.mlp_in, w.mlp_gate])
            writes[f"m{layer}"] = w.mlp_out
            reads[f"m{layer}", "in"] = folded(into, w.ln2, c.norm)
    w = model.weights
    reads["logits", "in"] = folded(w.unembed, w.ln_final, c.final_norm)
    return writes, reads


@CASES
def test_every_score_is_the_plain_formula(case: zoo.Case) -> None:
    model = Model.from_source(case.source(0), torch.float64)
    table = table_of(model)
    assert table.schema == TABLES["composition"] and set(table["step"]) == {5}
    writes, reads = maps(model)
    traded = {
        (supplier, port.buyer, port.port)
        for supplier, port in pairs(Dialled(model))
        if (port.buyer, port.port) in reads
    }
    found = {tuple(row[:3]): row[3] for row in table.drop("step").iter_rows()}
    assert set(found) == traded and len(found) == table.height > 0
    for (supplier, buyer, port), score in found.items():
        into, out = reads[buyer, port], writes[supplier]
        wanted = float((into @ out).norm() / (into.norm() * out.norm()))
        assert score == pytest.approx(wanted, abs=1e-10)
        assert 0 <= score <= 1
    assert max(found.values()) > 0.05


def test_a_map_of_zeros_composes_with_nothing() -> None:
    model = Model.from_source(zoo.case_named("gpt2").source(0), torch.float64)
    model.weights.layers[0].out[:, : model.config.d_head] = 0
    found = table_of(model).filter(pl.col("supplier") == "a0.h0")
    assert found.height > 0 and found["score"].to_list() == [0.0] * found.height


def test_a_reader_of_what_is_written_scores_one() -> None:
    """Rank one on both sides, along the same direction of a stream without a norm."""
    fields = {
        "n_layers": 2, "n_heads": 2, "d_head": 3, "d_model": 5, "n_ctx": 4, "d_vocab": 5,
        "attn_only": True, "normalization_type": None,
    }  # fmt: skip
    model = Model.initialise(fields, dtype=torch.float64)
    first, second = model.weights.layers
    first.out[:, :3] = 0
    first.out[4, 0] = 1  # head 0 writes along the last direction
    k = model.config.d_head
    second.qkv[4 * k : 5 * k] = 0
    values = second.qkv[4 * k : 5 * k]
    values[0, 4] = 2.0  # which head 0 of layer 1 alone reads as a value
    found = table_of(model).filter(pl.col("supplier") == "a0.h0", pl.col("buyer") == "a1.h0")
    assert found.filter(pl.col("port") == "v")["score"].item() == pytest.approx(1.0)
    assert found.filter(pl.col("port") == "k")["score"].item() < 0.99


def test_it_is_among_the_measures() -> None:
    assert MEASURES["composition"] is COMPOSITION

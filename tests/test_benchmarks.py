"""The peers that benchmarks compare with do the work that is claimed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import zoo
from torch import Tensor

from circuit_econ.model import Model
from circuit_econ.model.intervene import components

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

from attribution import edge_attribution


def gradient(model: Model, stream: Tensor, place: int, targets: Tensor) -> Tensor:
    stream = stream.clone().requires_grad_()
    loss = model.sequence_losses(model.run(stream, place), targets).sum()
    return torch.autograd.grad(loss, stream)[0]


@pytest.mark.parametrize("name", ["tl-ln-gelu", "tl-attn-only", "gpt2", "llama"])
def test_scores_of_edges_are_gradients_at_their_buyers(name: str) -> None:
    case = zoo.case_named(name)
    model = Model.from_source(case.source(0), torch.float64)
    tokens = zoo.tokens_of(case, 3, seed=1)
    targets = zoo.targets_of(case, tokens, seed=1)
    scores = edge_attribution(model, tokens, targets, None)
    trace, written = model.trace(tokens), dict(model.contributions(tokens))
    parts = components(model.config, embeddings=False)
    final = gradient(model, trace.streams[model.last_place], model.last_place, targets)
    direct = [-(final * written[part.name]).sum() for part in parts]
    assert torch.allclose(scores[:, -1], torch.stack(direct)) and float(scores[:, -1].abs().max())
    # All that a head of the first layer sells, whoever buys it.
    place = model.place_after_heads(0)
    whole = gradient(model, trace.streams[place], place, targets)
    assert torch.allclose(scores[0].sum(), -(whole * written["a0.h0"]).sum())
    assert (scores != 0).sum() > model.config.n_heads
    # Replaced by what it is, nothing is gained or lost.
    same = edge_attribution(model, tokens, targets, tokens)
    assert float(same.abs().max()) < 1e-9

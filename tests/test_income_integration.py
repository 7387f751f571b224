"""What integrals along the dial may be off by, against a model whose answer is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from test_income import made, random_model, tables_of

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context
from circuit_econ.measures.flows import trade
from circuit_econ.measures.income_economy import Economy


def switch(steepness: float, at: float) -> Context:
    """A head that turns another's attention around, all at once at some dial.

    At dial α head 0 of layer 0 writes α at position 1. From there the head of layer 1 looks at
    position 1, where it finds the answer, with weight σ(steepness (α − at)): what flows through its
    keys is a step.
    """
    config, t = random_model(
        n_layers=2, n_heads=1, d_head=1, d_model=4, n_ctx=2, d_vocab=2, attn_only=True,
        normalization_type=None,
    )  # fmt: skip
    for tensor in t.values():
        tensor.zero_()
    # Coordinates: 1 that this is position 1, 2 and 3 what the heads write.
    t["pos_embed.W_pos"][1, 1] = 1
    first, second = "blocks.0.attn.", "blocks.1.attn."
    t[first + "W_Q"][0, 1, 0] = 60
    t[first + "W_K"][0, 1, 0] = 1
    t[second + "W_Q"][0, 1, 0] = steepness
    t[second + "W_K"][0, 1, 0] = -at
    t[second + "W_K"][0, 2, 0] = 1
    for block, out in ((first, 2), (second, 3)):
        t[block + "W_V"][0, 1, 0] = 1
        t[block + "W_O"][0, 0, out] = 1
    t["unembed.W_U"][3, 0] = 3
    tokens, targets = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[-100, 0]])
    return Context(made(config, t), Evaluation(tokens, targets), 0, ("zero",))


def truth(context: Context, steepness: float, at: float) -> dict[tuple[str, str, str], float]:
    """Flows by Gauss–Legendre nodes on pieces that grow from the step outwards."""
    economy = Economy(context, "zero")
    ends = [at + sign * 4.0**n / steepness for n in range(13) for sign in (-1, 1)]
    ends = sorted({0.0, 1.0, at, *(x for x in ends if 0 < x < 1)})
    nodes, weights = np.polynomial.legendre.leggauss(12)
    ((tokens, targets, _, bases),) = economy._panels(None, economy._baselines, 1)
    total = np.zeros(len(economy.pairs))
    for low, high in pairwise(ends):
        for node, weight in zip(nodes, weights, strict=True):
            alpha = low + (high - low) * (node + 1) / 2
            sold = trade(economy.dialled.run(tokens, targets, bases, alpha))
            total += weight * (high - low) / 2 * (sold.signal + sold.crowding)[:, 0].numpy()
    return {(s, *port): float(x) for (s, port), x in zip(economy.pairs, total, strict=True)}


@pytest.mark.parametrize(
    ("steepness", "at", "converges"),
    [
        (10, 0.5, True),
        (30, 0.37, True),
        (100, 0.37, False),
        (1e3, 0.51, False),
        (1e6, 0.433, False),
        (1e6, 0.5, False),  # on a node of every rule
    ],
)
def test_flows_are_within_their_integration_error(
    steepness: float, at: float, converges: bool, caplog: pytest.LogCaptureFixture
) -> None:
    context = switch(steepness, at)
    known, found = truth(context, steepness, at), tables_of(context)
    gap = found["income_gap"].row(0, named=True)
    assert sum(known.values()) == pytest.approx(gap["product"], abs=1e-9)
    edges = found["flows"].select("supplier", "buyer", "port").rows()
    flows = found["flows"].select(pl.col("signal") + pl.col("crowding"))["signal"].to_numpy()
    errors = found["flows"]["integration_error"].to_numpy()
    off = np.abs(flows - [known[edge] for edge in edges])
    assert (off <= errors + 1e-9).all()
    step = edges.index(("a0.h0", "a1.h0", "k"))
    assert known[edges[step]] > 0.3
    # What nobody reads has no flow, and no error where nothing was missed.
    assert (errors[edges.index(("a0.h0", "a1.h0", "q"))] == 0) == converges
    incomes = found["income"]
    mine = [sum(x for edge, x in known.items() if edge[0] == c) for c in incomes["component"]]
    off = np.abs(incomes["income"].to_numpy() - mine)
    assert (off <= incomes["integration_error"].to_numpy() + 1e-9).all()
    assert gap["converged"] is converges
    assert errors[step] < 0.01 if converges else errors[step] > 0.01 * gap["product"]
    assert len(caplog.records) == (not converges)

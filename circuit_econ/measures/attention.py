"""What heads look at: previous-token, duplicate-token and prefix-matching scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuit_econ.measures.base import Context, Measure
from circuit_econ.measures.plan import Plan, Sizes, activations, kept
from circuit_econ.tables import head_name, make_table

__all__ = ["ATTENTION", "AttentionSettings"]

_WEIGHTS = 1 << 25
"""Attention weights of a layer held at once, in numbers, where memory does not ask for fewer."""


@dataclass
class AttentionSettings:
    """The attention scores have no settings."""


def _targets(tokens: Int[Tensor, "S T"]) -> dict[str, Bool[Tensor, "S T T"]]:
    """For each quantity, which keys count for which query, ``[sequence, query, key]``."""
    length = tokens.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril(-1)
    same = (tokens[:, :, None] == tokens[:, None, :]) & earlier
    # The token after an earlier copy of this one; never the query itself.
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    after &= earlier
    previous = torch.zeros_like(earlier)
    previous.diagonal(-1).fill_(True)
    return {
        "previous_token": previous.expand_as(same),
        "duplicate_token": same,
        "prefix_matching": after,
    }


@torch.no_grad()
def run(context: Context, settings: AttentionSettings) -> Mapping[str, pl.DataFrame]:
    """Mean attention of every head, over all positions of the evaluation set where there is a key.

    ``previous_token``: to the position before; ``duplicate_token``: to earlier copies of the
    query's own token, summed; ``prefix_matching``: to the tokens that followed those copies, summed
    (Olsson et al. 2022). Each is an amount between 0 and 1; a row is left out where no position of
    the set qualifies.
    """
    model, config = context.model, context.model.config
    chunk = _chunk(context.sizes, context.plan)
    sums: dict[tuple[str, int], Tensor] = {}
    queries: dict[str, float] = {}
    parts = context.evaluation.tokens.split(chunk)
    for number, part in enumerate(parts):
        tokens = part.to(model.device)
        targets = _targets(tokens)
        stream = model.embed(tokens)
        for layer in range(config.n_layers):
            pattern = model.pattern(layer, stream)
            for quantity, mask in targets.items():
                found = (pattern * mask[:, None]).sum((0, 2, 3), dtype=torch.float64)
                sums[quantity, layer] = sums.get((quantity, layer), 0) + found
            del pattern
            stream = model.run(stream, 2 * layer, until=2 * layer + 2)
        for quantity, mask in targets.items():
            queries[quantity] = queries.get(quantity, 0) + float(mask.any(-1).sum())
        context.progress((number + 1) / len(parts))
    rows = [
        (head_name(layer, head), quantity, amount / queries[quantity])
        for (quantity, layer), found in sorted(sums.items(), key=lambda item: item[0][1])
        if queries[quantity]
        for head, amount in enumerate(found.tolist())
    ]
    return {
        "attention": make_table(
            "attention",
            {
                "step": context.step,
                "component": [row[0] for row in rows],
                "quantity": [row[1] for row in rows],
                "amount": [row[2] for row in rows],
            },
        )
    }


def _each(sizes: Sizes) -> int:
    """Bytes per sequence: scores and weights with their masked copies, masks, one layer's pass."""
    c, squares = sizes.config, sizes.length * sizes.length
    numbers = 4 * c.n_heads * squares + sizes.length * activations(c)
    return numbers * sizes.dtype.itemsize + 6 * squares


def _chunk(sizes: Sizes, plan: Plan) -> int:
    """Sequences that are looked at together."""
    most = _WEIGHTS // (sizes.config.n_heads * sizes.length * sizes.length)
    fit = plan.memory // kept(_each(sizes))
    return max(1, min(most, fit, sizes.sequences))


def memory(sizes: Sizes, settings: AttentionSettings, plan: Plan) -> int:
    """Bytes that it takes beside the weights."""
    return kept(_chunk(sizes, plan) * _each(sizes))


ATTENTION = Measure("attention", AttentionSettings, ("attention",), run, lambda *_: 1.0, memory)

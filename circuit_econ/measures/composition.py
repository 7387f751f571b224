"""Composition scores, from weights alone: how far what one component writes is what another reads.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits": ‖R W‖ / (‖R‖ ‖W‖) in
Frobenius norms, for the map W that a supplier applies (W_O W_V of a head, W_out of an MLP) and the
map R behind a port of a buyer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures.base import Context, Measure, Plan, Sizes
from circuit_econ.measures.income_memory import table_memory
from circuit_econ.measures.plan import kept
from circuit_econ.model import Model, ModelConfig
from circuit_econ.model.config import Norm
from circuit_econ.tables import Kind, head_name, make_table, mlp_name

__all__ = ["COMPOSITION", "CompositionSettings"]


_NUMBERS = 1 << 20
"""Of a matrix that are looked at together."""


@dataclass
class CompositionSettings:
    """The composition scores have no settings."""


class _Write(NamedTuple):
    """Maps that some components of a sublayer apply, as their Gram matrices say them.

    ‖R W‖² = tr(Rᵀ R W Wᵀ), and W Wᵀ = out · inner · outᵀ.
    """

    names: list[str]
    out: Float[Tensor, "N D V"]
    inner: Float[Tensor, "N V V"] | None  # None: the identity

    def norms(self) -> Float[Tensor, " N"]:
        gram = self.out.mT @ self.out
        inner = torch.eye(gram.shape[-1]).to(gram) if self.inner is None else self.inner
        return (gram * inner).sum((1, 2)).clamp(min=0).sqrt()


class _Read(NamedTuple):
    """Maps behind a port of some components: Rᵀ R = intoᵀ · outer · into."""

    names: list[str]
    port: str
    into: Float[Tensor, "M U D"]
    outer: Float[Tensor, "M U U"] | None

    def norms(self) -> Float[Tensor, " M"]:
        gram = self.into @ self.into.mT
        outer = torch.eye(gram.shape[-1]).to(gram) if self.outer is None else self.outer
        return (gram * outer).sum((1, 2)).clamp(min=0).sqrt()


@torch.no_grad()
def run(context: Context, settings: CompositionSettings) -> Mapping[str, pl.DataFrame]:
    """Measure the composition scores of every supplier with every port after it.

    Ports of a head: ``v``, its map W_O W_V; ``q`` and ``k``, its map W_Qᵀ W_K from the query's and
    from the key's side, only where neither rotation nor norms of queries and keys come between.
    ``in`` of an MLP: W_in, with its gate stacked; of the logits: W_U. The gain of the norm before a
    port and the centring of a LayerNorm are part of R.

    Scores have no unit and no baseline: 0 where the buyer cannot see what the supplier writes, 1 at
    most. Random maps of rank r in d dimensions have about 1/√d whatever r, so only what exceeds
    that says something; nothing here looks at data, and scores are no value.
    """
    model = context.model
    rows: dict[str, list[Any]] = {n: [] for n in ("supplier", "buyer", "port", "score")}
    writes: list[_Write] = []
    for read, write in _sublayers(model):
        for one in read:
            for supplier in writes:
                scores = _scores(one, supplier).tolist()
                for buyer, of_buyer in zip(one.names, scores, strict=True):
                    rows["supplier"] += supplier.names
                    rows["buyer"] += [buyer] * len(supplier.names)
                    rows["port"] += [one.port] * len(supplier.names)
                    rows["score"] += of_buyer
        writes += write
    return {"composition": make_table("composition", {"step": context.step, **rows})}


def _scores(read: _Read, write: _Write) -> Float[Tensor, "M N"]:
    """‖R W‖ / (‖R‖ ‖W‖) for all pairs; 0 where a map is 0."""
    # One supplier at a time: all pairs at once would be as large as the squares of the widths.
    squares = torch.stack([_squares(read, write, at) for at in range(len(write.names))], 1)
    norms = read.norms()[:, None] * write.norms()
    return torch.where(norms > 0, squares.clamp(min=0).sqrt() / norms, 0.0)


def _squares(read: _Read, write: _Write, at: int) -> Float[Tensor, " M"]:
    """tr(outer · (into · out) · inner · (into · out)ᵀ) of every reader with one supplier."""
    between = read.into @ write.out[at]
    left = between if read.outer is None else read.outer @ between
    right = between if write.inner is None else between @ write.inner[at]
    return (left * right).sum((1, 2))


def _sublayers(model: Model) -> Iterator[tuple[list[_Read], list[_Write]]]:
    """What reads together, then what it writes, in the order of the forward pass; logits last."""
    c = model.config
    for layer in range(c.n_layers):
        heads = _heads(model, layer)
        if c.d_mlp is None:
            yield heads
            continue
        mlp = _mlp(model, layer)
        if c.parallel:
            yield heads[0] + mlp[0], heads[1] + mlp[1]
        else:
            yield heads
            yield mlp
    w = model.weights
    # Many tokens read: their Gram matrix says as much, and is no larger than the stream.
    seen = _gram(w.unembed, w.ln_final, c.final_norm)
    yield [_Read([str(Kind.LOGITS)], "in", *seen)], []


def _heads(model: Model, layer: int) -> tuple[list[_Read], list[_Write]]:
    c, w = model.config, model.weights.layers[layer]
    names = [head_name(layer, head) for head in range(c.n_heads)]
    shared = torch.arange(c.n_heads, device=model.device) // c.group
    q, k, v = w.qkv.unflatten(0, (-1, c.d_head)).split([c.n_heads, c.n_kv_heads, c.n_kv_heads])
    k, v = k[shared], v[shared]
    out = w.out.unflatten(1, (c.n_heads, c.d_head)).transpose(0, 1)
    seen_q, seen_k, seen_v = (_seen(x, w.ln1, c.norm) for x in (q, k, v))
    read = [_Read(names, "v", seen_v, out.mT @ out)]
    if c.rotary is None and not c.qk_norm:
        read += [
            _Read(names, "q", seen_q, seen_k @ seen_k.mT),
            _Read(names, "k", seen_k, seen_q @ seen_q.mT),
        ]
    return read, [_Write(names, out, seen_v @ seen_v.mT)]


def _mlp(model: Model, layer: int) -> tuple[list[_Read], list[_Write]]:
    c, w = model.config, model.weights.layers[layer]
    assert w.mlp_in is not None and w.mlp_out is not None
    names = [mlp_name(layer)]
    into, outer = _gram(w.mlp_in, w.ln2, c.norm)
    if w.mlp_gate is not None:
        outer += _gram(w.mlp_gate, w.ln2, c.norm)[1]
    out, inner = _gram(w.mlp_out.mT, None, Norm.NONE)
    return [_Read(names, "in", into, outer)], [_Write(names, out.mT, inner)]


def _seen(matrix: Tensor, gain: Tensor | None, norm: Norm) -> Tensor:
    """What rows read of the stream before the norm, whose scale has no direction."""
    found = matrix if gain is None or norm is Norm.NONE else matrix * gain
    return found - found.mean(-1, keepdim=True) if norm is Norm.LAYER else found


def _gram(
    rows: Float[Tensor, "U D"], gain: Tensor | None, norm: Norm
) -> tuple[Float[Tensor, "1 D D"], Float[Tensor, "1 D D"]]:
    """A map of many rows, as they read, as the identity of the stream and its Gram matrix.

    Some rows at a time: a copy of an unembedding is as large as a small model.
    """
    identity = torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    found = torch.zeros_like(identity)
    for part in rows.split(max(1, _NUMBERS // rows.shape[-1])):
        seen = _seen(part, gain, norm)
        found.addmm_(seen.mT, seen)
    return identity[None], found[None]


def passes(
    config: ModelConfig,
    evaluation: Evaluation,
    baselines: tuple[str, ...],
    settings: CompositionSettings,
) -> float:
    """None: weights alone are looked at."""
    return 0.0


def memory(sizes: Sizes, settings: CompositionSettings, plan: Plan) -> int:
    """Bytes that it takes beside the weights."""
    c = sizes.config
    squares, heads = c.d_model * c.d_model, c.n_heads * c.d_head
    # What layers write, as Gram matrices; what one layer's heads and MLP read and are made of.
    held = c.n_layers * (heads * c.d_head + (2 * squares if c.d_mlp else 0))
    held += (
        8 * heads * c.d_model
        + 8 * squares
        + 3 * min(_NUMBERS, max(c.d_vocab_out, c.d_mlp or 0) * c.d_model)
    )
    return kept(held * sizes.dtype.itemsize + table_memory(sizes) // len(sizes.baselines))


COMPOSITION = Measure(
    "composition",
    CompositionSettings,
    ("composition",),
    run,
    passes,
    memory,
    growth=lambda config, _settings: float(config.n_layers**2),
)

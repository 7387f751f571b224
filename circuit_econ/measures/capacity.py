"""Capacity: what components cost, in every currency of the economy (section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl
import torch

from circuit_econ.measures.base import Context, Measure, Plan, Sizes
from circuit_econ.measures.capacity_stream import (
    StreamMoments,
    measure_stream,
    stream_memory,
)
from circuit_econ.measures.directions import PRODUCTS, direction_shares, ov_write_vectors
from circuit_econ.measures.plan import kept
from circuit_econ.measures.ranks import effective_rank, product_spectrum, spectrum, stable_rank
from circuit_econ.model import Model, ModelConfig
from circuit_econ.tables import (
    Currency,
    Kind,
    head_name,
    kv_name,
    make_table,
    mlp_name,
    output_bias_name,
)

__all__ = ["CAPACITY", "CapacitySettings"]

Row = tuple[str, str, str, float]
"""component, currency, place, amount."""

_NUMBERS = 1 << 20
"""Of a matrix that are looked at together."""

_WEIGHTS, _OUTPUT, _LAYER, _FINAL = "weights", "output", "layer", "final"


@dataclass
class CapacitySettings:
    """Settings of ``capacity``.

    Attributes:
        every_layer: Whether shares of the stream are measured where it enters each layer too, not
            only where it enters the final norm.
    """

    every_layer: bool = False


@torch.no_grad()
def run(context: Context, settings: CapacitySettings) -> Mapping[str, pl.DataFrame]:
    """Measure every component in every currency.

    Weights are taken as trained: norm gains are not folded in. ``parameters`` and ``squared_norm``
    sum to the model's own count and squared norm over all rows, those of biases, norms, shared keys
    and values included; tied tensors are counted once, under ``embed``. Shares of the stream sum to
    1 at each place over everything that wrote it; position 0 is left out of them, where a norm
    of its own would drown the rest.
    """
    model = context.model
    moments = measure_stream(context, every_layer=settings.every_layer)
    rows = [
        *_weight_rows(model),
        *_rank_rows(model),
        *_stream_rows(moments),
        *_direction_rows(model, moments),
    ]
    context.progress(1.0)
    names = ("component", "currency", "place", "amount")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return {"capacity": make_table("capacity", {"step": context.step, **columns})}


def _weight_rows(model: Model) -> Iterator[Row]:
    parts = {name: list(tensors) for name, tensors in _owners(model).items()}
    for name, tensors in parts.items():
        count = sum(t.numel() for t in tensors)
        norm = sum(_squared(t) for t in tensors)
        yield name, Currency.PARAMETERS, _WEIGHTS, float(count)
        yield name, Currency.SQUARED_NORM, _WEIGHTS, norm


def _squared(tensor: torch.Tensor) -> float:
    """Squared norm in float64, some rows at a time: an embedding's copy is a model's size."""
    rows = max(1, _NUMBERS * len(tensor) // tensor.numel())
    return sum(float(part.double().square().sum()) for part in tensor.split(rows))


def _owners(model: Model) -> dict[str, list[torch.Tensor]]:
    """Every parameter once, by the row it belongs to."""
    c, w = model.config, model.weights
    owners: dict[str, list[torch.Tensor | None]] = {
        Kind.EMBED: [w.embed],
        Kind.POS: [w.pos],
        "ln_final": [w.ln_final, w.ln_final_bias],
        "unembed": [None if c.tied else w.unembed, w.unembed_bias],
    }
    for i, layer in enumerate(w.layers):
        query, key, value, output = (f(i, c) for f in (w.query, w.key, w.value, w.output))
        widths = [heads * c.d_head for heads in (c.n_heads, c.n_kv_heads, c.n_kv_heads)]
        biases = [None] * 3 if layer.qkv_bias is None else layer.qkv_bias.split(widths)
        q_bias, k_bias, v_bias = (
            None if b is None else b.unflatten(0, (-1, c.d_head)) for b in biases
        )

        def shared(
            g: int, key=key, value=value, k_bias=k_bias, v_bias=v_bias
        ) -> list[torch.Tensor | None]:
            own_biases = [None if b is None else b[g] for b in (k_bias, v_bias)]
            return [key[g], value[g], *own_biases]

        for h in range(c.n_heads):
            own = [query[h], output[h], None if q_bias is None else q_bias[h]]
            # With grouped queries, keys and values belong to no single head.
            owners[head_name(i, h)] = own + (shared(h) if c.group == 1 else [])
        if c.group > 1:
            for g in range(c.n_kv_heads):
                owners[kv_name(i, g)] = shared(g)
        owners[output_bias_name(i)] = [layer.out_bias]
        owners[f"ln1.{i}"] = [layer.ln1, layer.ln1_bias]
        owners[f"a{i}.qk_norm"] = [layer.q_norm, layer.k_norm]
        owners[f"ln2.{i}"] = [layer.ln2, layer.ln2_bias]
        owners[mlp_name(i)] = [
            layer.mlp_in, layer.mlp_in_bias, layer.mlp_gate, layer.mlp_gate_bias,
            layer.mlp_out, layer.mlp_out_bias,
        ]  # fmt: skip
    present = {name: [t for t in tensors if t is not None] for name, tensors in owners.items()}
    return {name: tensors for name, tensors in present.items() if tensors}


def _rank_rows(model: Model) -> Iterator[Row]:
    c, w = model.config, model.weights
    for i, layer in enumerate(w.layers):
        query, output = w.query(i, c).double(), w.output(i, c).double()
        key, value = (
            t.double().repeat_interleave(c.group, 0) for t in (w.key(i, c), w.value(i, c))
        )
        ov = product_spectrum(output, value.mT)
        maps = [(ov, Currency.EFFECTIVE_RANK_OV, Currency.STABLE_RANK_OV)]
        if not c.qk_norm:
            # x_q W_Qᵀ W_K x_k without rotation; behind a q/k norm no fixed product stands for it.
            qk = product_spectrum(query.mT, key.mT)
            maps.append((qk, Currency.EFFECTIVE_RANK_QK, Currency.STABLE_RANK_QK))
        for sigma, effective, stable in maps:
            for h in range(c.n_heads):
                yield head_name(i, h), effective, _WEIGHTS, effective_rank(sigma[h])
                yield head_name(i, h), stable, _WEIGHTS, stable_rank(sigma[h])
        if layer.mlp_out is not None:
            sigma = spectrum(layer.mlp_out.double())
            yield mlp_name(i), Currency.EFFECTIVE_RANK_OUT, _WEIGHTS, effective_rank(sigma)
            yield mlp_name(i), Currency.STABLE_RANK_OUT, _WEIGHTS, stable_rank(sigma)


def _stream_rows(moments: StreamMoments) -> Iterator[Row]:
    for place, shares in moments.shares.items():
        name = _FINAL if place == moments.last_place else f"block.{place // 2}"
        for component, (plain, centred) in shares.items():
            yield component, Currency.STREAM_SHARE, name, plain
            yield component, Currency.STREAM_SHARE_CENTRED, name, centred
    for component, dimensions in moments.dimensions.items():
        yield component, Currency.DIMENSIONS_USED, _OUTPUT, dimensions


def _direction_rows(model: Model, moments: StreamMoments) -> Iterator[Row]:
    c, w = model.config, model.weights
    for i, layer in enumerate(w.layers):
        output, value = w.output(i, c).double(), w.value(i, c).double()
        vectors = ov_write_vectors(output, value.repeat_interleave(c.group, 0))
        shares = direction_shares(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
        for h, amount in enumerate(shares.sum(1).tolist()):
            yield head_name(i, h), Currency.DIRECTIONS, _LAYER, amount
        if layer.mlp_out is not None:
            written = layer.mlp_out.double().mT * moments.neuron_deviation[i].double()[:, None]
            amount = float(direction_shares(written).sum())
            yield mlp_name(i), Currency.DIRECTIONS, _LAYER, amount


def _growth(config: ModelConfig, settings: CapacitySettings) -> float:
    """Every layer that wrote is looked at in every place behind it."""
    places = (config.n_layers + 1) / 2 if settings.every_layer else 1
    return float(config.n_layers * places)


def memory(sizes: Sizes, settings: CapacitySettings, plan: Plan) -> int:
    """Bytes that it takes beside the weights: moments of the stream, then a layer's matrices."""
    c = sizes.config
    heads, neurons = c.n_heads * c.d_head * c.d_model, c.d_model * (c.d_mlp or 0)
    products = min(PRODUCTS, max((c.n_heads * c.d_head) ** 2, (c.d_mlp or 0) ** 2))
    matrices = max(12 * heads, 4 * neurons) + 4 * c.d_model**2 + 2 * products
    copies = 2 * min(_NUMBERS, max(c.d_vocab * c.d_model, neurons, heads))
    moments = stream_memory(sizes, plan, every_layer=settings.every_layer)
    return max(moments, kept(8 * max(matrices, copies)))


CAPACITY = Measure(
    "capacity", CapacitySettings, ("capacity",), run, lambda *_: 3.0, memory, growth=_growth
)

"""Moments of what components write, from one pass over the evaluation set."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from circuit_econ.measures.base import Context, Plan, Sizes
from circuit_econ.measures.plan import activations, kept
from circuit_econ.model import Model, Trace
from circuit_econ.tables import Kind, head_name, mlp_name, output_bias_name

__all__ = ["StreamMoments", "measure_stream", "stream_memory"]


@dataclass(slots=True)
class StreamMoments:
    """What one pass says about what components write.

    Attributes:
        last_place: The place of the stream that enters the final norm.
        shares: By place and writer, the share of the stream, plain and with means removed.
        dimensions: By component, the participation ratio of the covariance of what it writes.
        neuron_deviation: By layer, the standard deviation of each neuron's activation, ``[d_mlp]``.
    """

    last_place: int
    shares: dict[int, dict[str, tuple[float, float]]] = field(default_factory=dict)
    dimensions: dict[str, float] = field(default_factory=dict)
    neuron_deviation: list[Float[Tensor, " d_mlp"]] = field(default_factory=list)


class _Sums:
    """Running sums in float64, by key."""

    def __init__(self) -> None:
        self.of: dict[tuple, Tensor] = {}

    def add(self, key: tuple, amount: Tensor) -> None:
        self.of[key] = self.of[key] + amount if key in self.of else amount

    def mean(self, key: tuple, count: int) -> Tensor:
        return self.of[key] / count


def measure_stream(context: Context, *, every_layer: bool) -> StreamMoments:
    """Shares of the stream, dimensions used and deviations of neurons.

    Position 0 is left out where there are others.

    Args:
        context: Model and evaluation set.
        every_layer: Measure shares where the stream enters each layer, not only the final norm.
    """
    model, last = context.model, context.model.last_place
    places = _places(last, every_layer=every_layer)
    sums, count = _Sums(), 0
    first = 1 if context.evaluation.length > 1 else 0
    panel = _panel(context.sizes, context.plan, every_layer=every_layer)
    parts = context.evaluation.tokens.split(panel)
    for number, part in enumerate(parts):
        tokens = part.to(model.device)
        trace = model.trace(tokens)
        _accumulate(model, trace, tokens, first, places, sums)
        count += tokens[:, first:].numel()
        context.progress((number + 1) / len(parts))
    result = StreamMoments(last)
    for place in places:
        result.shares[place] = _shares(model, place, sums, count)
    _spreads(model, sums, count, result)
    return result


def stream_memory(sizes: Sizes, plan: Plan, *, every_layer: bool) -> int:
    """Bytes that :func:`measure_stream` takes beside the weights."""
    panel = _panel(sizes, plan, every_layer=every_layer)
    return kept(_moments(sizes) + panel * _each(sizes, every_layer=every_layer))


def _panel(sizes: Sizes, plan: Plan, *, every_layer: bool) -> int:
    """Sequences that are looked at together."""
    each = kept(_each(sizes, every_layer=every_layer))
    return max(1, min(plan.panel, sizes.sequences, (plan.memory - kept(_moments(sizes))) // each))


def _places(last: int, *, every_layer: bool) -> range | list[int]:
    return range(2, last + 1, 2) if every_layer else [last]


def _moments(sizes: Sizes) -> int:
    """Bytes of the sums, of which the largest are made anew when something is added."""
    c = sizes.config
    square, heads = c.d_model * c.d_model, c.n_heads * c.d_head
    layer = heads * (c.d_head + 1) + (2 * c.d_mlp + square if c.d_mlp else 0)
    return 8 * (c.n_layers * layer + 6 * square + 2 * heads * c.d_model)


def _each(sizes: Sizes, *, every_layer: bool) -> int:
    """Bytes per sequence: a trace, and in float64 streams at the places and a layer's outputs."""
    c, heads = sizes.config, sizes.config.n_heads * sizes.config.d_head
    trace = c.n_layers * (3 * c.d_model + heads) + activations(c)
    places = len(_places(2 * c.n_layers, every_layer=every_layer))
    wide = (places + 3) * c.d_model + max(5 * heads, 2 * (c.d_mlp or 0))
    # Products of float64 make as many copies again on their way: measured, not derived.
    return 2 * sizes.length * (trace * sizes.dtype.itemsize + 8 * wide)


def _writers(model: Model, place: int) -> list[tuple[str, int | None]]:
    """Who has written the stream at a place: name, and layer (None for embeddings)."""
    c = model.config
    found: list[tuple[str, int | None]] = [(str(Kind.EMBED), None)]
    if model.weights.pos is not None:
        found.append((str(Kind.POS), None))
    for layer in range(place // 2):
        found += [(head_name(layer, h), layer) for h in range(c.n_heads)]
        if model.weights.layers[layer].out_bias is not None:
            found.append((output_bias_name(layer), layer))
        if c.d_mlp is not None:
            found.append((mlp_name(layer), layer))
    return found


def _accumulate(
    model: Model, trace: Trace, tokens: Tensor, first: int, places: range | list[int], sums: _Sums
) -> None:
    """Add one panel's inner products, means and second moments."""
    w = model.weights
    streams = {p: trace.streams[p][:, first:].double() for p in places}
    for place, x in streams.items():
        sums.add(("stream", place), x.sum((0, 1)))
        sums.add(("norm", place), x.square().sum())
    embed = F.embedding(tokens[:, first:], w.embed).double()
    _full_output(Kind.EMBED, embed, 0, streams, sums)
    if w.pos is not None:
        pos = w.pos[first : tokens.shape[1]].expand_as(embed).double()
        _full_output(Kind.POS, pos, 0, streams, sums)
    for layer, z in trace.heads.items():
        heads = z[:, first:].double()
        matrix = model.weights.output(layer, model.config).double()  # [head, d_model, d_head]
        # ⟨z W_O, x⟩ = ⟨z, x W_Oᵀ⟩: no head's write is ever formed.
        sums.add(("heads", layer), heads.sum((0, 1)))
        sums.add(("heads²", layer), torch.einsum("sthi,sthj->hij", heads, heads))
        for place, x in streams.items():
            if place > 2 * layer:
                read = torch.einsum("std,hdk->sthk", x, matrix)
                sums.add(("heads·x", layer, place), (heads * read).sum((0, 1, 3)))
        if trace.mlps:
            written = trace.mlps[layer][:, first:].double()
            _full_output(mlp_name(layer), written, 2 * layer + 1, streams, sums)
            neurons = _neurons(model, layer, trace)[:, first:].double()
            sums.add(("neurons", layer), neurons.sum((0, 1)))
            sums.add(("neurons²", layer), neurons.square().sum((0, 1)))


def _neurons(model: Model, layer: int, trace: Trace) -> Tensor:
    reads = 2 * layer if model.config.parallel else 2 * layer + 1
    return model.neurons(layer, trace.streams[reads])


def _full_output(
    name: str, output: Tensor, since: int, streams: dict[int, Tensor], sums: _Sums
) -> None:
    flat = output.flatten(0, 1)
    sums.add((name,), flat.sum(0))
    sums.add((name, "²"), flat.mT @ flat)
    for place, x in streams.items():
        if place > since:
            sums.add((name, "·x", place), (output * x).sum())


def _shares(model: Model, place: int, sums: _Sums, count: int) -> dict[str, tuple[float, float]]:
    """E⟨out, x⟩ / E‖x‖², plain and about the means, for all that wrote the stream at a place."""
    c = model.config
    mean, norm = sums.mean(("stream", place), count), sums.mean(("norm", place), count)
    spread = norm - mean.square().sum()
    result = {}
    for name, layer in _writers(model, place):
        if layer is not None and name == output_bias_name(layer):
            bias = model.weights.layers[layer].out_bias
            assert bias is not None
            with_mean = bias.double() @ mean
            product = with_mean
        elif layer is not None and name != mlp_name(layer):
            head = int(name.rpartition("h")[2])
            matrix = model.weights.output(layer, c)[head].double()
            with_mean = (matrix @ sums.mean(("heads", layer), count)[head]) @ mean
            product = sums.mean(("heads·x", layer, place), count)[head]
        else:
            with_mean = sums.mean((name,), count) @ mean
            product = sums.mean((name, "·x", place), count)
        centred = float((product - with_mean) / spread) if spread > 0 else 0.0
        result[name] = (float(product / norm), centred)
    return result


def _spreads(model: Model, sums: _Sums, count: int, result: StreamMoments) -> None:
    """Participation ratios (Σλ)²/Σλ² of covariances, and deviations of neurons."""
    c = model.config
    for name, layer in _writers(model, result.last_place):
        if layer is None or name == mlp_name(layer):
            mean = sums.mean((name,), count)
            covariance = sums.mean((name, "²"), count) - torch.outer(mean, mean)
            result.dimensions[name] = _participation(covariance)
        elif name != output_bias_name(layer):
            head = int(name.rpartition("h")[2])
            mean = sums.mean(("heads", layer), count)[head]
            inner = sums.mean(("heads²", layer), count)[head] - torch.outer(mean, mean)
            matrix = model.weights.output(layer, c)[head].double()
            # W C Wᵀ and C WᵀW have the same non-zero eigenvalues, hence the same traces.
            result.dimensions[name] = _participation(inner @ (matrix.mT @ matrix))
    if c.d_mlp is not None:
        for layer in range(c.n_layers):
            mean = sums.mean(("neurons", layer), count)
            square = sums.mean(("neurons²", layer), count)
            result.neuron_deviation.append((square - mean.square()).clamp(min=0).sqrt())


def _participation(covariance: Tensor) -> float:
    first, second = covariance.trace(), (covariance * covariance.mT).sum()
    return float(first.square() / second) if second > 0 else 0.0

"""Edge attribution in one batched pass: the peer that does the work of one node of income.

Every reader gets a copy of the stream of its own, whose gradient is then that of the reader's input
(Syed et al. 2023: the score of an edge is ⟨what its supplier would write instead − what it writes,
gradient at its buyer⟩). One forward pass to write the replacements, one forward and one backward
pass, one inner product per edge, summed over sequences and positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from circuit_econ.model import Model
from circuit_econ.model.config import Norm

__all__ = ["edge_attribution"]


def edge_attribution(
    model: Model, tokens: Tensor, targets: Tensor, replaced: Tensor | None
) -> Tensor:
    """Scores of all edges, in nats summed over scored positions.

    Args:
        model: The model.
        tokens: Sequences.
        targets: Of the loss.
        replaced: Sequences whose writes replace the suppliers'; None replaces them with zeros.

    Returns:
        Suppliers (heads of a layer, then its MLP) by readers (queries, keys, values of a layer's
        heads, then its MLP; the logits last); zero where there is no edge.
    """
    with torch.no_grad():
        there = None if replaced is None else torch.stack(_Pass(model, replaced).written)
    found = _Pass(model, tokens)
    change = -torch.stack([w.detach() for w in found.written])
    if there is not None:
        change += there
    model_loss = model.sequence_losses(found.stream, targets).sum()
    gradients = torch.autograd.grad(model_loss, found.read)
    scores = []
    for before, gradient in zip(found.before, gradients, strict=True):
        row = change.new_zeros(gradient.shape[2], len(change))
        flat = gradient.transpose(0, 2).flatten(1)  # reader, (position, sequence, width)
        row[:, :before] = flat @ change[:before].transpose(1, 2).flatten(1).T
        scores.append(row)
    return torch.cat(scores).T


class _Pass:
    """A forward pass in which every reader has its own copy of the stream.

    Attributes:
        written: What each supplier wrote, in order.
        read: Copies of the stream by reader, ``[sequence, position, reader, width]``.
        before: How many suppliers had written by then.
        stream: The copy that the logits read.
    """

    def __init__(self, model: Model, tokens: Tensor) -> None:
        self.model = model
        self.written: list[Tensor] = []
        self.read: list[Tensor] = []
        self.before: list[int] = []
        stream = model.embed(tokens)
        # Weights need no gradient; the stream does, from its beginning.
        stream = stream.detach().requires_grad_(torch.is_grad_enabled())
        for layer in range(model.config.n_layers):
            entering, start = stream, len(self.written)
            stream = self._heads(layer, stream)
            if model.config.d_mlp is not None:
                seen = entering if model.config.parallel else stream
                count = start if model.config.parallel else len(self.written)
                written = model.mlp(layer, self._copies(seen, 1, count)[:, :, 0])
                self.written.append(written)
                stream = stream + written
        self.stream = self._copies(stream, 1, len(self.written))[:, :, 0]

    def _copies(self, stream: Tensor, count: int, before: int) -> Tensor:
        copies = stream[:, :, None].expand(-1, -1, count, -1).clone()
        self.read.append(copies)
        self.before.append(before)
        return copies

    def _heads(self, layer: int, stream: Tensor) -> Tensor:
        m, c, w = self.model, self.model.config, self.model.weights
        before, own = len(self.written), w.layers[layer]
        ports = []
        sizes = [n * c.d_head for n in (c.n_heads, c.n_kv_heads, c.n_kv_heads)]
        biases = (None,) * 3 if own.qkv_bias is None else own.qkv_bias.split(sizes)
        for port, (weight, bias) in enumerate(zip(own.qkv.split(sizes), biases, strict=True)):
            copies = self._copies(stream, c.n_heads, before)
            normed = _normed(m, copies, own.ln1, own.ln1_bias)
            matrix = weight.view(-1, c.d_head, c.d_model)
            shift = None if bias is None else bias.view(-1, c.d_head)
            if port:  # keys and values that heads share are read once by each
                matrix = matrix.repeat_interleave(c.group, 0)
                shift = None if shift is None else shift.repeat_interleave(c.group, 0)
            made = torch.einsum("bthd,hkd->bthk", normed, matrix)
            ports.append(made if shift is None else made + shift)
        q, k = m.turn(torch.cat(ports[:2], 2)).split(c.n_heads, 2)
        z = m.mix(layer, *(x.transpose(1, 2) for x in (q, k, ports[2])))
        written = torch.einsum("bthk,hdk->hbtd", z, w.output(layer, c))
        self.written.extend(written)
        total = stream + written.sum(0)
        return total if own.out_bias is None else total + own.out_bias


def _normed(model: Model, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    shape, eps = (model.config.d_model,), model.config.eps
    if model.config.norm is Norm.LAYER:
        return torch.nn.functional.layer_norm(x, shape, gain, bias, eps)
    if model.config.norm is Norm.RMS:
        return torch.nn.functional.rms_norm(x, shape, gain, eps)
    return x

"""One forward and one backward pass of a model whose components are turned down by dials.

At dial α every head and MLP writes base + α (out − base), where ``out`` is what it computes from
the stream that the others, turned down likewise, have written. The backward pass stops at every
reader: it keeps the gradient at the output of each port's projection, before clipping, norm and
rotation, and carries on through projection and norm by formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from circuit_econ.measures.income_parts import Entry, Pass, Port, Reading, Sublayer, Writing
from circuit_econ.model import Model
from circuit_econ.model.config import ModelConfig, Norm
from circuit_econ.model.intervene import components
from circuit_econ.tables import Kind, head_name, mlp_name

__all__ = ["LOGITS", "Dialled", "numbers", "readers_of", "rounds_of"]

LOGITS = 1 << 25
"""Logits held at once, in numbers, where memory does not ask for fewer."""

_Computed = tuple[Entry, Tensor, Tensor, tuple[Tensor | None, Tensor | None]]
"""The norm, what the ports' projections give, the outputs, and the matrices before and after."""


class Dialled:
    """A model with a dial on every head and MLP.

    Attributes:
        model: The model.
        suppliers: Names of the components that have a dial, in the order of the forward pass.
        readers: Likewise for each layer's heads, each MLP and the logits: their ports, and how many
            components have written when they read.
        stages: Stages of the longest path to the logits: how many times the stream is read and
            written in turn.
    """

    def __init__(self, model: Model) -> None:
        """Prepare the ports' matrices; with grouped queries one per query head."""
        c = model.config
        # Gradients go through the products: they are exact, whatever a sweep's are.
        self.model = Model(c, model.weights)
        self.suppliers = [part.name for part in components(c, embeddings=False)]
        # The same weights without norms: what readers make of what a norm hands them.
        self._bare = Model(replace(c, norm=Norm.NONE, final_norm=Norm.NONE), model.weights)
        heads = torch.arange(c.n_heads, device=model.device)
        keys = c.n_heads + heads // c.group
        rows = {"q": heads, "k": keys, "v": keys + c.n_kv_heads}
        if c.qk_norm:
            rows |= {"q_scale": rows["q"], "k_scale": rows["k"]}
        self._rows = torch.cat([rows[name] for name in _port_names(c)])
        apart = c.qk_norm or c.group > 1
        by_head = [w.qkv.view(-1, c.d_head, c.d_model) for w in model.weights.layers]
        self._reads = [m[self._rows] if apart else m for m in by_head]
        self._rounds = rounds_of(c)
        self.readers = readers_of(c)
        self.stages = len(self._rounds)

    @torch.no_grad()
    def run(
        self,
        tokens: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        bases: Sequence[Tensor],
        alpha: float,
        stages: int = 1,
        logits: int = LOGITS,
    ) -> Pass:
        """Forward at one dial, and back.

        A gradient that passes a component's ports moves one stage up; the last stage keeps what
        would leave it, so that the stages always sum to the whole. All
        :attr:`stages` are exact, and cost half as many backward passes; 1 is a plain backward pass.

        Args:
            tokens: Sequences.
            targets: Theirs, -100 where not scored.
            bases: What components fall back to, one tensor per layer's heads ``[…, T, H, K]`` and
                per MLP ``[…, T, 1, D]``, in the order of the forward pass.
            alpha: The dial, from 0 to 1.
            stages: How many stages to keep apart.
            logits: Held at once, in numbers.
        """
        stream, rounds = self._forward(tokens, bases, alpha)
        last, losses = self._logits(stream, targets, logits)
        gradients = [last.entry.through(last.gradient[:, :, 0])]
        income = stream.new_zeros(stages, len(self.suppliers), len(tokens), dtype=torch.float64)
        for members in reversed(rounds):
            earned = [torch.zeros_like(stream) for _ in range(min(len(gradients) + 1, stages))]
            for number, gradient in enumerate(gradients):
                keep = number + 1 < len(gradients)
                for member in members:
                    at_output = member.writing.back(gradient)
                    paid = -(at_output * member.writing.change).sum((1, 3)).T
                    first = member.writing.first
                    income[number, first : first + len(paid)] = paid.double()
                    (at_ports,) = torch.autograd.grad(
                        member.output, member.slots, alpha * at_output, retain_graph=keep
                    )
                    earned[min(number + 1, stages - 1)] += member.reading.back(at_ports)
            for number, gradient in enumerate(gradients):
                earned[number] += gradient
            gradients = earned
        flat = [member for members in rounds for member in members]
        writings = [member.writing for member in flat]
        return Pass(losses, income, writings, [*(member.reading for member in flat), last])

    def _forward(
        self, tokens: Tensor, bases: Sequence[Tensor], alpha: float
    ) -> tuple[Tensor, list[list[Sublayer]]]:
        """The stream that enters the final norm, and the sublayers by who reads side by side."""
        stream, base, readers = self.model.embed(tokens), iter(bases), iter(self.readers)
        rounds: list[list[Sublayer]] = []
        written = 0
        for layer, kinds in self._rounds:
            members, entering = [], stream
            for kind in kinds:
                build = self._heads if kind is Kind.HEAD else self._mlp
                entry, slots, output, matrices = build(layer, entering)
                change = output.detach() - next(base)
                now = output.detach() + (alpha - 1) * change
                before, ports = next(readers)
                reading = Reading(entry, ports, before, matrices[0], torch.zeros_like(slots))
                writing = Writing(written, change, now, matrices[1])
                members.append(Sublayer(reading, writing, slots, output))
                added = self.model.write_heads(layer, now) if kind is Kind.HEAD else now[:, :, 0]
                stream, written = stream + added, written + now.shape[2]
            rounds.append(members)
        return stream, rounds

    def _heads(self, layer: int, stream: Tensor) -> _Computed:
        c, w = self.model.config, self.model.weights.layers[layer]
        entry = Entry.of(c.norm, stream, w.ln1, c.eps)
        projected = F.linear(entry.handed(w.ln1_bias), w.qkv, w.qkv_bias)
        slots = projected.unflatten(-1, (-1, c.d_head))[:, :, self._rows].requires_grad_()
        with torch.enable_grad():
            output = self._attend(layer, slots)
        return entry, slots, output, (self._reads[layer], self.model.weights.output(layer, c))

    def _mlp(self, layer: int, stream: Tensor) -> _Computed:
        c, w = self.model.config, self.model.weights.layers[layer]
        entry = Entry.of(c.norm, stream, w.ln2, c.eps)
        slots = entry.handed(w.ln2_bias).clone()[:, :, None].requires_grad_()
        with torch.enable_grad():
            output = self._bare.mlp(layer, slots[:, :, 0])[:, :, None]
        return entry, slots, output, (None, None)

    def _attend(self, layer: int, slots: Float[Tensor, "B T R K"]) -> Float[Tensor, "B T H K"]:
        """The heads' outputs from what their ports' projections give."""
        c, w = self.model.config, self.model.weights.layers[layer]
        if c.clip_qkv is not None:
            slots = slots.clamp(-c.clip_qkv, c.clip_qkv)
        q, k, v, *scales = slots.unflatten(2, (-1, c.n_heads)).unbind(2)
        if scales:
            assert w.q_norm is not None and w.k_norm is not None
            q, k = (
                x * (scale.square().mean(-1, keepdim=True) + c.eps).rsqrt() * gain
                for x, scale, gain in zip((q, k), scales, (w.q_norm, w.k_norm), strict=True)
            )
        q, k, v = (x.transpose(1, 2) for x in (self.model.turn(q), self.model.turn(k), v))
        return self.model.mix(layer, q, k, v)

    def _logits(self, stream: Tensor, targets: Tensor, most: int) -> tuple[Reading, Tensor]:
        """The final norm with the gradient at what it hands on, and the loss of each sequence."""
        w, c = self.model.weights, self.model.config
        entry = Entry.of(c.final_norm, stream, w.ln_final, c.eps)
        handed = entry.handed(w.ln_final_bias)
        gradient = torch.zeros_like(handed)
        losses = handed.new_zeros(len(targets), dtype=torch.float64)
        # Few logits are held at once: positions are scored in chunks, each with its gradient.
        for at in (targets >= 0).nonzero().split(max(1, most // c.d_vocab_out)):
            rows, columns = at.unbind(1)
            normed = handed[rows, columns].requires_grad_()
            with torch.enable_grad():
                lost = self._bare.token_losses(normed, targets[rows, columns])
            (gradient[rows, columns],) = torch.autograd.grad(lost, normed, torch.ones_like(lost))
            losses.index_add_(0, rows, lost.detach().double())
        before, port = self.readers[-1]
        return Reading(entry, port, before, None, gradient[:, :, None]), losses


def rounds_of(c: ModelConfig) -> list[tuple[int, list[Kind]]]:
    """Who reads the same stream: one after the other, or side by side in a parallel block."""
    kinds = [[Kind.HEAD]] if c.d_mlp is None else [[Kind.HEAD], [Kind.MLP]]
    if c.parallel:
        kinds = [[Kind.HEAD, Kind.MLP]]
    return [(layer, kind) for layer in range(c.n_layers) for kind in kinds]


def readers_of(c: ModelConfig) -> list[tuple[int, list[Port]]]:
    """Ports of each layer's heads, of each MLP and the logits, behind how many components write."""
    found, written, heads = [], 0, range(c.n_heads)
    for layer, kinds in rounds_of(c):
        before = written
        for kind in kinds:
            if kind is Kind.HEAD:
                ports = [Port(head_name(layer, h), p) for p in _port_names(c) for h in heads]
                written += len(heads)
            else:
                ports = [Port(mlp_name(layer), "in")]
                written += 1
            found.append((before, ports))
    return [*found, (written, [Port(Kind.LOGITS, "in")])]


def numbers(c: ModelConfig, length: int, stages: int) -> int:
    """Numbers that a pass holds per sequence, chunks of bounded size apart.

    T (L (8 D + (4P + 5) H K + 3 M) + (2N + 4) D): L layers of width D with H heads of width K, P
    ports a head (3; 5 with q/k norms) and MLPs of width M (5 M if gated), N stages. Nothing grows
    with heads × stream.
    """
    heads = (4 * len(_port_names(c)) + 5) * c.n_heads * c.d_head
    layer = 8 * c.d_model + heads + (5 if c.gated else 3) * (c.d_mlp or 0)
    return length * (c.n_layers * layer + (2 * stages + 4) * c.d_model)


def _port_names(c: ModelConfig) -> list[str]:
    return ["q", "k", "v", *(("q_scale", "k_scale") if c.qk_norm else ())]

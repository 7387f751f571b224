"""What a pass under dials is made of: norms taken apart, ports that read, components that write.

Shapes are written B (sequence), T (position), D (d_model), C all components, N components that
write together, R ports that read together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuit_econ.model.config import Norm

__all__ = ["Entry", "Pass", "Port", "Reading", "Sublayer", "Writing"]


class Port(NamedTuple):
    """Where a component, or the logits, reads the stream.

    ``q``, ``k`` and ``v`` of each query head; ``in`` of MLPs and logits. Where queries and keys
    have norms of their own, ``q_scale`` and ``k_scale`` hold what a write changes through the
    scale of those norms, and ``q`` and ``k`` what it changes with that scale held.
    """

    buyer: str
    port: str


@dataclass(frozen=True, slots=True)
class Entry:
    """The norm between the stream and a reader, taken apart.

    Attributes:
        stream: x̃, the stream that is read, centred where the norm is a LayerNorm, ``[B, T, D]``.
        scale: What it is divided by, ``[B, T, 1]``; None without a norm.
        gain: ``[D]``, None for 1.
        centred: Whether the norm centres.
    """

    stream: Float[Tensor, "B T D"]
    scale: Float[Tensor, "B T 1"] | None
    gain: Tensor | None
    centred: bool

    @classmethod
    def of(cls, kind: Norm, stream: Tensor, gain: Tensor | None, eps: float) -> Entry:
        """Meet the stream with a norm of some kind."""
        if kind is Norm.NONE:
            return cls(stream, None, None, False)
        centred = kind is Norm.LAYER
        if centred:
            stream = stream - stream.mean(-1, keepdim=True)
        scale = (stream.square().mean(-1, keepdim=True) + eps).sqrt()
        return cls(stream, scale, gain, centred)

    def handed(self, bias: Tensor | None) -> Float[Tensor, "B T D"]:
        """What the norm hands to its readers."""
        out = self.stream if self.scale is None else self.stream / self.scale
        out = out if self.gain is None else out * self.gain
        return out if bias is None else out + bias

    def held_(
        self, gradient: Float[Tensor, "*ports B t D"], at: slice
    ) -> Float[Tensor, "*ports B t D"]:
        """From gradients at what was handed to gradients at the stream, with the scale held.

        In place: it is most of what flows cost beside their products.
        """
        if self.gain is not None:
            gradient *= self.gain
        if self.scale is not None:
            gradient /= self.scale[:, at]
        if self.centred:
            gradient -= gradient.mean(-1, keepdim=True)
        return gradient

    def energy(self, at: slice) -> Float[Tensor, "B t 1"]:
        """‖x̃‖² + dε, which a write's share is measured against."""
        assert self.scale is not None
        return self.scale[:, at].square() * self.stream.shape[-1]

    def through(self, gradient: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """From the gradient at what was handed to the gradient at the stream."""
        every = slice(None)
        held = self.held_(gradient.clone(), every)
        if self.scale is not None:
            along = (held * self.stream).sum(-1, keepdim=True) / self.energy(every)
            held -= along * self.stream
        return held


@dataclass(slots=True)
class Reading:
    """Ports that read one stream through one norm: those of a layer's heads, an MLP, the logits.

    Attributes:
        entry: The norm.
        ports: Who reads, R of them.
        before: How many components had written by then.
        matrix: What each port projects the normed stream with, ``[R, W, D]``; None for ports that
            take it as it is.
        gradient: Of the loss at each projection's output, summed over the stages,
            ``[B, T, R, W]``.
    """

    entry: Entry
    ports: Sequence[Port]
    before: int
    matrix: Float[Tensor, "R W D"] | None
    gradient: Float[Tensor, "B T R W"]

    def expand(self, at: slice, into: Float[Tensor, "R B t D"]) -> None:
        """Fill in each port's gradient at the stream, with the norm's scale held."""
        gradient = self.gradient[:, at]
        if self.matrix is None:
            into[0] = gradient[:, :, 0]
        else:
            torch.bmm(gradient.flatten(0, 1).transpose(0, 1), self.matrix, out=into.flatten(1, 2))
        self.entry.held_(into, at)

    def back(self, gradient: Float[Tensor, "B T R W"]) -> Float[Tensor, "B T D"]:
        """Keep the gradient at the ports; return that at the stream, of all ports together."""
        self.gradient += gradient
        if self.matrix is None:
            return self.entry.through(gradient[:, :, 0])
        return self.entry.through(gradient.flatten(2) @ self.matrix.flatten(0, 1))


@dataclass(slots=True)
class Writing:
    """Components that write together: the heads of a layer, or its MLP.

    Attributes:
        first: Number of the first of them among all components.
        change: Δ = out − base before the output matrix, ``[B, T, N, V]``.
        now: base + α Δ.
        matrix: Output matrices ``[N, D, V]``; None where ``change`` is in the stream already.
    """

    first: int
    change: Float[Tensor, "B T N V"]
    now: Float[Tensor, "B T N V"]
    matrix: Float[Tensor, "N D V"] | None

    def expand(self, output: Float[Tensor, "B t N V"], into: Float[Tensor, "N B t D"]) -> None:
        """Fill in what outputs add to the stream, component by component."""
        if self.matrix is None:
            into[0] = output[:, :, 0]
        else:
            outputs = output.flatten(0, 1).transpose(0, 1)
            torch.bmm(outputs, self.matrix.transpose(1, 2), out=into.flatten(1, 2))

    def back(self, gradient: Float[Tensor, "B T D"]) -> Float[Tensor, "B T N V"]:
        """From the gradient at the stream to that at the outputs."""
        if self.matrix is None:
            return gradient[:, :, None]
        return torch.einsum("btd,ndv->btnv", gradient, self.matrix)


@dataclass(slots=True)
class Sublayer:
    """Components that read and write together, with the graph between their ports and outputs."""

    reading: Reading
    writing: Writing
    slots: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass at one dial leaves behind.

    Attributes:
        losses: Nats per sequence, ``[B]``, in float64.
        income: −∂(loss)/∂α of each component by stage and sequence, ``[stages, C, B]``.
        writings: All components, in the order of the forward pass.
        readings: All ports, likewise; the logits last.
    """

    losses: Float[Tensor, " B"]
    income: Float[Tensor, "stages C B"]
    writings: Sequence[Writing]
    readings: Sequence[Reading]

"""Who buys what from whom: the flows of a pass, split into signal and crowding.

A reader r with gradient g at the stream, its norm's scale held, pays S_r(v) = −⟨v, g⟩ for a write v
and, since a write also lengthens the stream that the norm divides by, −share · S_r(x̃), where
share = ⟨Δ, x̃⟩ / (‖x̃‖² + dε) at each position (economy, section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuit_econ.measures.income_parts import Pass, Port
from circuit_econ.measures.income_pass import Dialled

__all__ = ["HELD", "Trade", "of_a_position", "pairs", "trade"]

HELD = 1 << 24
"""Numbers of expanded writes and gradients held at once, where memory does not ask for fewer."""


@dataclass(frozen=True, slots=True)
class Trade:
    """Flows and prices of a pass, in nats per sequence.

    Attributes:
        signal: S(Δ) − share · S(w), with w what the supplier writes now; one row per pair of
            :func:`pairs`, ``[F, B]``.
        crowding: −share · (S(x̃) − S(w)), ``[F, B]``; exactly 0 without a norm.
        price: S(x̃) of each port, ``[R, B]``.
    """

    signal: Float[Tensor, "F B"]
    crowding: Float[Tensor, "F B"]
    price: Float[Tensor, "R B"]


def pairs(dialled: Dialled) -> list[tuple[str, Port]]:
    """Supplier and port of every flow, in the order of :class:`Trade`."""
    return [
        (supplier, port)
        for before, ports in dialled.readers
        for supplier in dialled.suppliers[:before]
        for port in ports
    ]


def of_a_position(width: int, suppliers: int, ports: int) -> int:
    """Numbers that flows hold for a position: writes and gradients, expanded, and products."""
    return (2 * suppliers + ports + 1) * width + 4 * suppliers * (ports + 1)


@torch.no_grad()
def trade(found: Pass, held: int = HELD) -> Trade:
    """All flows of a pass.

    Writes of C components and gradients of the R ports of one layer are expanded to the width of
    the stream for a few positions at a time, so memory does not grow with heads × stream: t
    positions of B sequences take B t ((2C + R + 1) D + 4 C (R + 1)) numbers, and t is such that
    those are no more than may be held (or is 1). A position costs C R inner products of length D,
    twice behind a norm: with L layers of H heads of width K about LH / (12 K) of what the pass
    itself does.
    """
    sequences, length, width = found.readings[0].entry.stream.shape
    count, most = found.income.shape[1], max(len(r.ports) for r in found.readings)
    step = min(length, max(1, held // (sequences * of_a_position(width, count, most))))
    like = found.readings[0].gradient
    writes = like.new_empty(2, count, sequences * step * width)
    reads = like.new_empty(most + 1, sequences * step * width)
    signals = [_zeros(found, sequences, r.before, len(r.ports)) for r in found.readings]
    crowdings = [torch.zeros_like(s) for s in signals]
    prices = [_zeros(found, sequences, len(r.ports)) for r in found.readings]
    for start in range(0, length, step):
        at = slice(start, min(start + step, length))
        shape = (sequences, at.stop - at.start, width)
        change, now = writes[..., : math.prod(shape)].unflatten(-1, shape)
        for writing in found.writings:
            mine = slice(writing.first, writing.first + writing.change.shape[2])
            writing.expand(writing.change[:, at], change[mine])
            writing.expand(writing.now[:, at], now[mine])
        parts = zip(found.readings, signals, crowdings, prices, strict=True)
        for reading, signal, crowding, price in parts:
            entry, ports = reading.entry, len(reading.ports)
            read = reads[: ports + 1, : math.prod(shape)].unflatten(-1, shape)
            reading.expand(at, read[:ports])
            # The stream rides along as one more port: what it is paid gives prices and shares.
            read[ports] = entry.stream[:, at]
            stream = -_products(read[ports:], read[:ports])[:, :, 0]
            price += stream.sum(1)
            paid = -_products(change[: reading.before], read)
            signal += paid[..., :ports].sum(1)
            if entry.scale is None:
                continue
            share = paid[..., ports:] / -entry.energy(at)[..., None]
            own = (_products(now[: reading.before], read[:ports]).mul_(share)).sum(1).neg_()
            signal -= own
            crowding -= share[..., 0].mT @ stream - own
    flat = (torch.cat([x.flatten(1) for x in found], 1).T for found in (signals, crowdings, prices))
    return Trade(*flat)


def _products(
    writes: Float[Tensor, "C B t D"], reads: Float[Tensor, "R B t D"]
) -> Float[Tensor, "B t C R"]:
    """Inner products of everything written with everything read, position by position."""
    places = writes.shape[1:3]
    found = torch.bmm(writes.flatten(1, 2).transpose(0, 1), reads.flatten(1, 2).permute(1, 2, 0))
    return found.unflatten(0, places)


def _zeros(found: Pass, *shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device=found.losses.device)

"""Which positions of a panel are scored, and what a chunk of its rows loses there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_econ.model import Model
from circuit_econ.model.draws import drawing
from circuit_econ.model.transfer import send

__all__ = ["Scoring", "sample_positions"]


class Scoring:
    """Scored positions of some sequences, ready for any rows of them in any order.

    Where rows begin is known to the host, so that a chunk is scored without waiting for a GPU.
    """

    def __init__(
        self, targets: Int[Tensor, "S T"], weights: Float[Tensor, " S"], device: torch.device
    ) -> None:
        """Index targets (on the CPU; negative = not scored)."""
        scored = targets >= 0
        self.length = targets.shape[1]
        self.bounds = [0, *scored.sum(1).cumsum(0).tolist()]
        self.positions = send(scored.flatten().nonzero()[:, 0], device)
        self.targets = send(targets[scored], device)
        self.owners = send(scored.nonzero()[:, 0], device)
        self.weights = send(weights, device)

    def losses(
        self, model: Model, stream: Float[Tensor, "B T D"], rows: Sequence[slice]
    ) -> Float[Tensor, " B"]:
        """Nats per row, summed over scored positions (weighted), in float64.

        Args:
            model: The model.
            stream: The stream that enters the final norm.
            rows: Which sequences the rows of the batch are, piece after piece.
        """
        positions, owners, targets, weights, first = [], [], [], [], 0
        for piece in rows:
            here = slice(self.bounds[piece.start], self.bounds[piece.stop])
            shift = first - piece.start
            positions.append(self.positions[here] + shift * self.length)
            owners.append(self.owners[here] + shift)
            targets.append(self.targets[here])
            weights.append(self.weights[piece])
            first += piece.stop - piece.start
        scored = stream.flatten(0, 1)[torch.cat(positions)]
        losses = model.token_losses(scored, torch.cat(targets)).double()
        total = torch.zeros(len(stream), dtype=torch.float64, device=stream.device)
        return total.index_add(0, torch.cat(owners), losses) * torch.cat(weights)


def sample_positions(
    targets: Int[Tensor, "S T"], positions: int | None, seed: int
) -> tuple[Int[Tensor, "S T"], Float[Tensor, " S"]]:
    """Some scored positions of each sequence, drawn without replacement, and what each stands for.

    The weighted sum over the sample is unbiased for the sum over all scored positions, and its
    variance is part of that between sequences: standard errors hold it.

    Args:
        targets: Targets, negative where not scored.
        positions: How many to keep of each sequence; None keeps all.
        seed: Seed of the draw.
    """
    scored = targets >= 0
    counts = scored.sum(1)
    if positions is None or int(counts.max()) <= positions:
        return targets, torch.ones(len(targets), dtype=torch.float64)
    generator = drawing(seed)
    ticket = torch.rand(targets.shape, generator=generator).masked_fill(~scored, 2.0)
    kept = ticket.argsort(1).argsort(1) < positions
    sampled = torch.where(scored & kept, targets, -100)
    return sampled, counts.double() / counts.clamp(max=positions).clamp(min=1)

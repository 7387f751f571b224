"""Proof, on every load, that our forward pass is the model's: identity 1, and the bridge's loss."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from circuit_econ.errors import CircuitEconError
from circuit_econ.model.bridge import boot
from circuit_econ.model.forward import Model
from circuit_econ.model.source import Source

__all__ = ["DisagreementError", "check_against_bridge", "check_identity", "compare"]

# Above this many parameters the comparison runs in float32: a float64 copy of a large model, twice,
# is more memory than a walk otherwise needs.
_FLOAT64_LIMIT = 200_000_000

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Of the loss, in nats. In float64 the bridge still computes some norms and rotary tables in
float32; a wrong activation, scale or mask shows at 1e-3 and above on trained models."""


class DisagreementError(CircuitEconError):
    """Our forward pass is not the model's: nothing measured with it would mean anything."""


@torch.no_grad()
def check_identity(model: Model, tokens: Int[Tensor, "S T"]) -> None:
    """Identity 1: the stream is the sum of the contributions to it, to rounding.

    Raises:
        DisagreementError: With the numbers, if it is not.
    """
    tokens = tokens.to(model.device)
    final = model.run(model.embed(tokens)).double()
    total, size, terms = torch.zeros_like(final), torch.zeros_like(final), 0
    for _, written in model.contributions(tokens):
        total, size, terms = total + written.double(), size + written.double().abs(), terms + 1
    # Rounding of each partial sum, and of the matrix products inside each contribution.
    allowed = 8 * torch.finfo(model.dtype).eps * terms * float(size.max())
    error = float((final - total).abs().max())
    if not error <= allowed:
        raise DisagreementError(
            f"identity 1 fails: the stream differs from the sum of its {terms} contributions by "
            f"{error:.3g}, where rounding allows {allowed:.3g}"
        )


def check_against_bridge(
    source: Source, tokens: Int[Tensor, "S T"], targets: Int[Tensor, "S T"]
) -> float:
    """Compare our loss with that of a bridge booted from the same checkpoint, on the CPU.

    Returns:
        The absolute difference, in nats.

    Raises:
        DisagreementError: With both losses, if they differ by more than rounding.
        CheckpointError: If the bridge cannot be built.
    """
    size = sum(t.numel() for t in source.tensors.values())
    dtype = torch.float64 if size <= _FLOAT64_LIMIT else torch.float32
    model = Model.from_source(source, dtype)
    return compare(model, boot(source, dtype), tokens, targets, source.origin)


@torch.no_grad()
def compare(
    model: Model, bridge: Any, tokens: Int[Tensor, "S T"], targets: Int[Tensor, "S T"], origin: str
) -> float:
    """Compare the loss of a model with that of a bridge on one sequence.

    Returns:
        The absolute difference, in nats per scored position.

    Raises:
        DisagreementError: With both losses, if they differ by more than rounding.
    """
    first = int((targets >= 0).any(1).nonzero()[0])
    tokens, targets = tokens[first : first + 1], targets[first : first + 1]
    count = int((targets >= 0).sum())
    place = model.device
    stream = model.run(model.embed(tokens.to(place)))
    ours = float(model.sequence_losses(stream, targets.to(place)).sum()) / count
    logits = bridge(tokens.to(bridge.cfg.device or "cpu")).double().cpu()
    scored = targets >= 0
    theirs = float(torch.nn.functional.cross_entropy(logits[scored], targets[scored]))
    parameter = next(iter(bridge.original_model.parameters()))
    allowed = max(_TOLERANCE[model.dtype], _TOLERANCE[parameter.dtype]) * max(1.0, abs(theirs))
    if not abs(ours - theirs) <= allowed:
        raise DisagreementError(
            f"{origin}: our loss is {ours:.8f} and that of transformer-lens' bridge {theirs:.8f} "
            f"nats; they may differ by {allowed:.1g}. Nothing is measured: one of the two does not "
            "compute this model (if the bridge carries hooks or edited weights, boot it afresh)"
        )
    return abs(ours - theirs)

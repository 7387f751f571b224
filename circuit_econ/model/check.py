"""Proof, on every load, that our forward pass is the model's: identity 1, and the bridge's loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from circuit_econ.errors import CheckpointError, CircuitEconError
from circuit_econ.model.bridge import boot
from circuit_econ.model.forward import Model
from circuit_econ.model.heap import give_back
from circuit_econ.model.source import Source

__all__ = ["DisagreementError", "Probe", "check_against_bridge", "check_identity", "compare"]


# Above this many parameters the comparison runs in float32: copies of a large model in float64 are
# more memory than a walk otherwise needs.
_FLOAT64_LIMIT = 10_000_000

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Of the loss, in nats. In float64 the bridge still computes some norms and rotary tables in
float32; a wrong activation, scale or mask shows at 1e-3 and above on trained models."""


class DisagreementError(CircuitEconError):
    """Our forward pass is not the model's: nothing measured with it would mean anything."""


@torch.no_grad()
def check_identity(model: Model, tokens: Int[Tensor, "S T"]) -> None:
    """Identity 1: the stream is the sum of the contributions to it, to rounding.

    What rounding allows, at every number of the stream, follows from the numbers asked for:

    - 8 ε n max Σ|c|, with ε of the stream's dtype, n contributions c: each partial sum, and the
      sums inside the matrix products.
    - In bfloat16, what a product returns is rounded to a unit u = 2⁻⁸ of itself. The pass does so
      once for what the heads of a layer write together, the sum of contributions does not: 2u of
      what they write, summed over layers.
    - On a GPU in tf32, the kernel decides whether what enters is rounded (u = 2⁻¹⁰, cut off at
      worst), for z and for W: 2u |z| |W| of each head's output z and output matrix W.

    MLPs enter both sums as one and the same tensor. So a head, bias or embedding that is missing,
    doubled or another's shows in every one of these numbers, wherever it writes more than about
    1 % of what its layer does (bfloat16), or 1e-5 of the stream (float32).

    Raises:
        DisagreementError: With the numbers, if it is not.
    """
    tokens = tokens.to(model.device)
    final = model.run(model.embed(tokens)).double()
    total, size, terms = torch.zeros_like(final), torch.zeros_like(final), 0
    for _, written in model.contributions(tokens):
        total, size, terms = total + written.double(), size + written.double().abs(), terms + 1
    allowed = 8 * torch.finfo(model.dtype).eps * terms * float(size.max())
    error = (final - total).abs()
    excess = error - _rounded(model, tokens)
    worst = int(excess.argmax())
    if not float(excess.max()) <= allowed:
        raise DisagreementError(
            f"identity 1 fails: the stream differs from the sum of its {terms} contributions by "
            f"{float(error.flatten()[worst]):.3g}, where rounding allows "
            f"{allowed + float((error - excess).flatten()[worst]):.3g}"
        )


def _rounded(model: Model, tokens: Int[Tensor, "S T"]) -> Tensor:
    """What rounding of the heads' output products may change in the stream, ``[S, T, D]``."""
    products, shape = model.products, (*tokens.shape, model.config.d_model)
    found = torch.zeros(shape, dtype=torch.float64, device=model.device)
    if not (products.returned or products.entering(tokens)):
        return found
    trace = model.trace(tokens)
    for layer, heads in trace.heads.items():
        z, matrix = heads.flatten(-2), model.weights.layers[layer].out
        written = products.linear(z, matrix, None).abs()
        found += 2 * products.returned * written.double()
        found += 2 * products.entering(z) * F.linear(z.abs(), matrix.abs()).double()
    return found


@dataclass(frozen=True, slots=True)
class Probe:
    """The sequence that losses are compared on: the first with a scored position.

    Attributes:
        tokens: ``[1, T]``.
        targets: ``[1, T]``.
        place: Its number in the evaluation set.
    """

    tokens: Tensor
    targets: Tensor
    place: int

    @classmethod
    def of(cls, tokens: Int[Tensor, "S T"], targets: Int[Tensor, "S T"]) -> Probe:
        """The probe of an evaluation set."""
        first = int((targets >= 0).any(1).nonzero()[0])
        return cls(tokens[first : first + 1], targets[first : first + 1], first)

    @torch.no_grad()
    def loss(self, model: Model) -> float:
        """A model's loss, in nats per scored position, in exact products whatever it rounds."""
        exact, place = Model(model.config, model.weights), model.device
        stream = exact.run(exact.embed(self.tokens.to(place)))
        losses = exact.sequence_losses(stream, self.targets.to(place))
        return float(losses.sum()) / int((self.targets >= 0).sum())

    @torch.no_grad()
    def bridge_loss(self, bridge: Any) -> float:
        """The same of a bridge, by its own forward pass."""
        logits = bridge(self.tokens.to(bridge.cfg.device or "cpu"))
        scored = (self.targets >= 0).to(logits.device)
        # A few positions at a time: in float64 the logits of all would outweigh a model.
        pieces = zip(
            logits[scored].split(32), self.targets.to(logits.device)[scored].split(32), strict=True
        )
        total = sum(float(F.cross_entropy(x.double(), y, reduction="sum")) for x, y in pieces)
        return total / int(scored.sum())


def check_against_bridge(
    source: Source,
    tokens: Int[Tensor, "S T"],
    targets: Int[Tensor, "S T"],
    model: Model | None = None,
) -> float:
    """Compare our loss with that of a bridge booted from the same checkpoint, on the CPU.

    Both models are never in memory at once, unless ``model`` is at hand, and large ones are
    compared in float32: what is held beside the checkpoint's own (mapped) tensors is one set of
    weights, or next to nothing where the bridge can use those tensors as they are.

    Args:
        source: The checkpoint.
        tokens: An evaluation set; the comparison takes one of its sequences.
        targets: Its targets.
        model: A model of the checkpoint that is there already. One is made where there is none, or
            where the comparison is in float64 and this one is not.

    Returns:
        The absolute difference, in nats.

    Raises:
        DisagreementError: With both losses, if they differ by more than rounding.
        CheckpointError: If the bridge cannot be built.
    """
    size = sum(t.numel() for t in source.tensors.values())
    dtype = torch.float64 if size <= _FLOAT64_LIMIT else torch.float32
    probe = Probe.of(tokens, targets)
    if model is None or torch.finfo(model.dtype).eps > torch.finfo(dtype).eps:
        ours = probe.loss(Model.from_source(source, dtype))
    else:
        ours = probe.loss(model)
    give_back()
    theirs = probe.bridge_loss(boot(source, dtype, length=tokens.shape[1]))
    give_back()
    return _agree(ours, theirs, dtype, probe, source.origin)


def compare(
    model: Model, bridge: Any, tokens: Int[Tensor, "S T"], targets: Int[Tensor, "S T"], origin: str
) -> float:
    """Compare the loss of a model with that of a bridge on one sequence.

    The function is compared, in exact products, whatever the model rounds when it measures.

    Returns:
        The absolute difference, in nats per scored position.

    Raises:
        DisagreementError: With both losses, if they differ by more than rounding.
    """
    probe = Probe.of(tokens, targets)
    coarser = max(
        model.dtype,
        next(iter(bridge.original_model.parameters())).dtype,
        key=lambda dtype: torch.finfo(dtype).eps,
    )
    hooked = [name for name, point in bridge.hook_dict.items() if point.fwd_hooks]
    said = f"; the bridge carries hooks at {', '.join(hooked[:3])}: remove them" if hooked else ""
    return _agree(probe.loss(model), probe.bridge_loss(bridge), coarser, probe, origin, said)


def _agree(
    ours: float, theirs: float, dtype: torch.dtype, probe: Probe, origin: str, said: str = ""
) -> float:
    if not math.isfinite(ours) and not math.isfinite(theirs):
        raise CheckpointError(
            f"{origin}: its loss is {ours}, and {theirs} in transformer-lens, although its weights "
            "are finite: activations overflow; nothing of it can be measured"
        )
    allowed = _TOLERANCE[dtype] * max(1.0, abs(theirs))
    if not abs(ours - theirs) <= allowed:
        raise DisagreementError(
            f"{origin}: our loss is {ours:.8f} and that of transformer-lens' bridge {theirs:.8f} "
            f"nats over the {int((probe.targets >= 0).sum())} scored positions of sequence "
            f"{probe.place}, compared in {str(dtype).removeprefix('torch.')}; they may differ by "
            f"{allowed:.1g}. Nothing is measured: one of the two does not compute this model{said}"
        )
    return abs(ours - theirs)

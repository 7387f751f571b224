"""Negative log-likelihoods from the normed stream, without ever holding a vocabulary per position.

On a CPU a plain unembedding streams the whole matrix from memory for every few positions and
writes logits that leave the cache before they are read. Tiles of positions × vocabulary stay in it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["TILE", "negative_log_likelihoods"]

TILE = (512, 1024)
"""Positions and vocabulary entries of a tile on a CPU: 2 MiB of float32."""

_LOGITS = 1 << 26
"""Logits held at once elsewhere, in numbers."""

Logits = Callable[[Tensor], Tensor]


def negative_log_likelihoods(
    normed: Float[Tensor, "N D"],
    targets: Int[Tensor, " N"],
    unembed: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    logits: Logits | None = None,
) -> Float[Tensor, " N"]:
    """−log p(target) at each position, in nats.

    Args:
        normed: The stream behind the final norm.
        targets: Which entry of the vocabulary came.
        unembed: The unembedding.
        bias: Its bias.
        logits: From normed positions to logits, where products are not exact; plain otherwise.
    """
    tiled = normed.device.type == "cpu" and logits is None and not torch.is_grad_enabled()
    if tiled:
        parts = zip(normed.split(TILE[0]), targets.split(TILE[0]), strict=True)
        found = [_tiled(x, y, unembed, bias) for x, y in parts]
    else:
        chunk = max(1, _LOGITS // len(unembed))
        plain: Logits = logits or (lambda x: F.linear(x, unembed, bias))
        parts = zip(normed.split(chunk), targets.split(chunk), strict=True)
        found = [
            F.cross_entropy(_at_least_float32(plain(x)), y, reduction="none") for x, y in parts
        ]
    return torch.cat(found) if found else normed.new_zeros(0)


def _tiled(x: Tensor, y: Tensor, unembed: Tensor, bias: Tensor | None) -> Tensor:
    """Log Σᵥ exp(lᵥ − l_target), tile by tile.

    The target's own term is 1, so the sum cannot vanish; it overflows only where a position loses
    more than 88 nats (in float32), and those are done again with the maximum taken out.
    """
    own = (x * unembed[y]).sum(-1, keepdim=True)
    if bias is not None:
        own = own + bias[y][:, None]
    total = torch.zeros_like(own)
    tile = x.new_empty(len(x), TILE[1])
    for start in range(0, len(unembed), TILE[1]):
        part = unembed[start : start + TILE[1]]
        into = tile if len(part) == TILE[1] else x.new_empty(len(x), len(part))
        torch.addmm(own.expand(-1, len(part)), x, part.T, beta=-1, out=into)
        if bias is not None:
            into += bias[start : start + TILE[1]]
        total += into.exp_().sum(-1, keepdim=True)
    losses = total.log()[:, 0]
    lost = ~losses.isfinite()
    if bool(lost.any()):
        losses[lost] = F.cross_entropy(F.linear(x[lost], unembed, bias), y[lost], reduction="none")
    return losses


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))

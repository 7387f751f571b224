"""Matrix products in the precision asked for: exact, or rounded inputs with exact sums.

Only products are ever rounded. The residual stream, norms, softmaxes and losses stay in the
model's own dtype, and so do the weights that capacity is measured on.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Products", "Rounding", "round_tf32"]


class Rounding(StrEnum):
    """Of the numbers that enter a matrix product."""

    EXACT = "exact"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"


class Products:
    """Linear maps and attention in one precision.

    ``tf32`` keeps 10 bits after the leading one, as the tensor cores of NVIDIA GPUs do. There the
    hardware rounds; elsewhere the inputs are rounded here, which shows the error and saves nothing.
    ``bfloat16`` keeps 7.
    """

    def __init__(self, rounding: Rounding, matrices: Iterable[Tensor]) -> None:
        """Prepare rounded copies of the matrices that products will be taken with."""
        self.rounding = rounding
        self._low: dict[int, tuple[Tensor, Tensor]] = {}
        if rounding is not Rounding.EXACT:
            # The original rides along: an id stays its own as long as the tensor lives.
            self._low = {id(m): (m, self._round(m)) for m in matrices}

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """X Wᵀ + b, in the dtype of ``x``."""
        if self.rounding is Rounding.EXACT:
            return F.linear(x, matrix, bias)
        low = self._low[id(matrix)][1]
        product = F.linear(self._round(x), low).to(x.dtype)
        return product if bias is None else product + bias

    def part(self, x: Tensor, matrix: Tensor, columns: slice) -> Tensor:
        """What some columns add to ``linear(x, matrix, None)``: the same inputs, summed exactly.

        ``linear`` rounds its inputs and, in bfloat16, once more what it returns; parts are rounded
        on entering alone, so they sum to the whole but for that last rounding (:attr:`returned`).
        """
        if self.rounding is Rounding.EXACT:
            return F.linear(x, matrix[:, columns])
        low = self._low[id(matrix)][1][:, columns]
        return F.linear(self._round(x).to(x.dtype), low.to(x.dtype))

    @property
    def returned(self) -> float:
        """Unit by which what a product returns is rounded beyond the dtype's own; 0 for none."""
        return torch.finfo(torch.bfloat16).eps / 2 if self.rounding is Rounding.BFLOAT16 else 0.0

    def entering(self, x: Tensor) -> float:
        """Unit by which what enters a product may or may not be rounded, as the hardware decides.

        An NVIDIA GPU rounds (or cuts) for tf32 inside the kernels that do so; which kernel runs
        depends on shapes. Elsewhere what enters is known: 0.
        """
        return 2**-10 if self.rounding is Rounding.TF32 and x.device.type == "cuda" else 0.0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        """Scaled-dot-product attention, in the dtype of ``q``."""
        if self.rounding is Rounding.EXACT:
            return F.scaled_dot_product_attention(q, k, v, **options)
        low_q, low_k, low_v = (self._round(x) for x in (q, k, v))
        return F.scaled_dot_product_attention(low_q, low_k, low_v, **options).to(q.dtype)

    def _round(self, x: Tensor) -> Tensor:
        if self.rounding is Rounding.BFLOAT16:
            return x.bfloat16()
        if x.device.type == "cuda" or x.dtype != torch.float32:
            return x
        return round_tf32(x)


def round_tf32(x: Tensor) -> Tensor:
    """The nearest numbers with 10 bits after the leading one (ties away from zero)."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)

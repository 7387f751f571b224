"""Singular values of the maps that components apply, and the ranks read from them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["effective_rank", "product_spectrum", "spectrum", "stable_rank"]


def product_spectrum(
    left: Float[Tensor, "*batch rows inner"], right: Float[Tensor, "*batch columns inner"]
) -> Float[Tensor, "*batch n"]:
    """Singular values of ``left @ right.mT`` without forming it.

    With left = Q₁R₁ and right = Q₂R₂ they are those of the small R₁R₂ᵀ.
    """
    first, second = (torch.linalg.qr(m, mode="r").R for m in (left, right))
    return torch.linalg.svdvals(first @ second.mT)


def spectrum(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, " smaller"]:
    """Singular values of a matrix, by the eigenvalues of the smaller of its Gram matrices.

    Values below 1e-8 of the largest are lost in rounding (float64), which no rank here notices.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    return torch.linalg.eigvalsh(wide @ wide.mT).clamp(min=0).sqrt().flip(-1)


def effective_rank(sigma: Float[Tensor, " n"]) -> float:
    """Exp of the entropy of σ/Σσ (Roy & Vetterli 2007); 0 for a zero map."""
    total = sigma.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(sigma / total).sum().exp())


def stable_rank(sigma: Float[Tensor, " n"]) -> float:
    """‖·‖²_F / σ₁²; 0 for a zero map. Never above the effective rank."""
    largest = sigma.max()
    return float((sigma / largest).square().sum()) if largest > 0 else 0.0

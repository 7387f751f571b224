"""Means with honest standard errors: the sequence, or the document, is what was sampled."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ratio_estimate"]


def ratio_estimate(
    sums: Float[Tensor, "*variants S"],
    counts: Float[Tensor, " S"] | Int[Tensor, " S"],
    clusters: Int[Tensor, " S"] | None = None,
) -> tuple[Float[Tensor, "*variants"], Float[Tensor, "*variants"]]:
    """Mean per scored position and its standard error.

    The mean is the ratio Σᵢ sᵢ / Σᵢ nᵢ over sequences i with sum sᵢ over nᵢ scored positions. Its
    standard error linearises the ratio: residuals eᵢ = sᵢ − mean · nᵢ, added up within clusters,
    se = √(G/(G−1) Σ_g e_g²) / Σ nᵢ over the G clusters (Cochran 1977, section 6.3; a cluster is a
    document where several windows come from one, else a sequence).

    Args:
        sums: Per-sequence sums, in nats.
        counts: Scored positions per sequence.
        clusters: Which document each sequence comes from; None if each stands for itself.

    Returns:
        The mean, and its standard error: NaN where there is but one cluster.
    """
    sums, counts = sums.double(), counts.double()
    total = counts.sum()
    mean = sums.sum(-1) / total
    residual = sums - mean[..., None] * counts
    if clusters is not None:
        _, index = clusters.unique(return_inverse=True)
        grouped = residual.new_zeros((*residual.shape[:-1], int(index.max()) + 1))
        residual = grouped.index_add(-1, index.to(residual.device), residual)
    groups = residual.shape[-1]
    if groups < 2:
        return mean, torch.full_like(mean, torch.nan)
    variance = residual.square().sum(-1) * (groups / (groups - 1))
    return mean, variance.sqrt() / total

"""Shares of directions: how much of a set's span each write vector has to itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PRODUCTS", "direction_shares", "ov_write_vectors"]


PRODUCTS = 1 << 21
"""Inner products held at once."""


def direction_shares(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    """Cᵢ = (wᵢ·wᵢ)² / Σⱼ (wᵢ·wⱼ)² (Scherlis et al. 2022), 0 for a zero vector.

    Each lies in [0, 1], and they sum to at most the rank of the set.
    """
    largest = vectors.abs().max() if vectors.numel() else vectors.new_zeros(())
    if largest == 0:
        return vectors.new_zeros(len(vectors))
    scaled = vectors / largest
    own, all_ = torch.empty_like(scaled[:, 0]), torch.empty_like(scaled[:, 0])
    # Some rows at a time: all products at once would be as large as the square of the set.
    for rows in torch.arange(len(scaled), device=scaled.device).split(PRODUCTS // len(scaled) + 1):
        squares = (scaled[rows] @ scaled.mT).square_()
        own[rows], all_[rows] = squares.gather(1, rows[:, None])[:, 0], squares.sum(1)
    return torch.where(all_ > 0, own / all_.clamp(min=torch.finfo(all_.dtype).tiny), 0.0)


def ov_write_vectors(
    output: Float[Tensor, "head d_model d_head"], value: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head n d_model"]:
    """Left singular vectors of each head's W_O W_V, as long as their singular values."""
    q, r = torch.linalg.qr(output)
    left, sigma, _ = torch.linalg.svd(r @ torch.linalg.qr(value.mT, mode="r").R.mT)
    return ((q @ left) * sigma[..., None, :]).mT

"""Rotary position embedding: frequency tables and the rotation (Su et al. 2021)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from circuit_econ.model.config import Rotary

__all__ = ["rotate", "table"]


def table(
    rotary: Rotary, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "T half"], Float[Tensor, "T half"]]:
    """Cosines and sines per position and pair of coordinates, computed in float64."""
    exponent = torch.arange(0, rotary.dim, 2, dtype=torch.float64, device=device) / rotary.dim
    frequency = _scale(rotary.base**-exponent, rotary.scaling)
    angle = torch.outer(torch.arange(length, dtype=torch.float64, device=device), frequency)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(
    x: Float[Tensor, "B T H K"],
    cos: Float[Tensor, "T half"],
    sin: Float[Tensor, "T half"],
    rotary: Rotary,
) -> Float[Tensor, "B T H K"]:
    """Turn each pair of the first ``rotary.dim`` coordinates by its position's angle.

    Without gradients ``x`` itself is turned and returned: it is most of what rotation costs.
    """
    cos, sin = cos[:, None], sin[:, None]
    if rotary.adjacent:
        first, second = slice(0, rotary.dim, 2), slice(1, rotary.dim, 2)
    else:
        half = rotary.dim // 2
        first, second = slice(0, half), slice(half, rotary.dim)
    a, b = x[..., first], x[..., second]
    turned = torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)
    into = x.clone() if torch.is_grad_enabled() else x
    into[..., first], into[..., second] = turned
    return into


def _scale(frequency: Tensor, scaling: tuple | None) -> Tensor:
    if scaling is None:
        return frequency
    if scaling[0] == "linear":
        return frequency / scaling[1]
    # Llama 3: long waves are slowed by the factor, short ones kept, those between interpolated.
    _, factor, low, high, original = scaling
    wavelength = 2 * math.pi / frequency
    smooth = (original / wavelength - low) / (high - low)
    return torch.lerp(frequency / factor, frequency, smooth.clamp(0, 1))

"""Means with honest standard errors: the sequence, or the document, is what was sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

__all__ = ["AFFECTED", "Estimate", "estimate", "interval", "known", "ratio_estimate"]

AFFECTED = 30
"""Sequences (documents) that must be affected for an interval to be honest."""

_NOTICEABLE = 0.05
"""Share of the largest effect on a sequence from which another counts as affected."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean per scored position and how well it is known.

    Attributes:
        mean: In nats per scored position.
        se: Its standard error; NaN where there is but one unit.
        low: Lower end of the 95 % interval; NaN likewise.
        high: Upper end.
        units: Sequences, or documents, that it rests on.
        affected: How many of them changed by at least a twentieth of the one that changed most:
            where few carry a mean, its error cannot be told from them.
    """

    mean: float
    se: float
    low: float
    high: float
    units: int
    affected: int


def known(x: float) -> float | None:
    """NaN says "cannot be estimated"; in a table that is a null."""
    return None if math.isnan(x) else x


def estimate(
    sums: Float[Tensor, " S"],
    counts: Float[Tensor, " S"] | Int[Tensor, " S"],
    clusters: Int[Tensor, " S"] | None = None,
) -> Estimate:
    """The mean of some sequences with its error and interval; see :func:`ratio_estimate`."""
    mean, se = (float(x) for x in ratio_estimate(sums, counts, clusters))
    effects = _by_cluster(sums.double(), clusters).abs()
    largest = float(effects.max())
    affected = int((effects >= _NOTICEABLE * largest).sum()) if largest > 0 else 0
    residual = _by_cluster(sums.double() - mean * counts.double(), clusters)
    low, high = interval(mean, se, residual)
    return Estimate(mean, se, low, high, len(residual), affected)


def interval(mean: float, se: float, residuals: Float[Tensor, " G"]) -> tuple[float, float]:
    """The 95 % interval of a mean: each end is the farther one of Student's and of Hall's.

    Hall (1992) transforms the studentised mean so that the skewness of the sample no longer shifts
    its tails: g(T) = T + aT²/3 + a²T³/27 + a/6 with a = skewness/√G, inverted in closed form.
    Where the tails are long on one side Student's interval misses too often on that side (lognormal
    values: 88 % instead of 95 % after a pilot); where they are long on both sides the sample's
    skewness is noise and Hall's interval is too short. The farther end of both serves either.

    Args:
        mean: The estimate.
        se: Its standard error.
        residuals: What each of the G units adds to the deviation of the mean.

    Returns:
        Both ends; NaN where there is but one unit.
    """
    units = len(residuals)
    if units < 2 or math.isnan(se):
        return math.nan, math.nan
    quantile = float(special.stdtrit(units - 1, 0.975))
    spread = float(residuals.square().mean().sqrt())
    if spread == 0:
        return mean, mean
    # Scaled before it is cubed: the cube of a small number vanishes.
    a = float((residuals / spread).pow(3).mean()) / math.sqrt(units)

    def hall(t: float) -> float:
        if abs(a) < 1e-6:
            return t
        return 3 / a * (math.copysign(abs(x := 1 + a * (t - a / 6)) ** (1 / 3), x) - 1)

    low = mean - se * max(quantile, hall(quantile))
    high = mean - se * min(-quantile, hall(-quantile))
    return low, high


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
    residual = _by_cluster(sums - mean[..., None] * counts, clusters)
    groups = residual.shape[-1]
    if groups < 2:
        return mean, torch.full_like(mean, torch.nan)
    variance = residual.square().sum(-1) * (groups / (groups - 1))
    return mean, variance.sqrt() / total


def _by_cluster(
    amounts: Float[Tensor, "*variants S"], clusters: Int[Tensor, " S"] | None
) -> Float[Tensor, "*variants G"]:
    if clusters is None:
        return amounts
    _, index = clusters.unique(return_inverse=True)
    grouped = amounts.new_zeros((*amounts.shape[:-1], int(index.max()) + 1))
    return grouped.index_add(-1, index.to(amounts.device), amounts)

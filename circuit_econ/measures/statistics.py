"""Means with honest standard errors: the sequence, or the document, is what was sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

__all__ = [
    "Estimate",
    "effective_units",
    "estimate",
    "interval",
    "known",
    "quantile",
    "ratio_estimate",
]

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
        affected: How many of them changed by at least a twentieth of the one that changed most.
        effective: How many units of one size are worth as much (:func:`effective_units`).
        skewness: Of what single units say, about the mean; 0 where all say the same.
    """

    mean: float
    se: float
    low: float
    high: float
    units: int
    affected: int
    effective: float
    skewness: float


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
    sizes = _by_cluster(counts.double(), clusters)
    low, high = interval(mean, se, residual, sizes)
    return Estimate(
        mean=mean,
        se=se,
        low=low,
        high=high,
        units=len(residual),
        affected=affected,
        effective=effective_units(counts, clusters),
        skewness=_skewness(residual / sizes.clamp(min=1)),
    )


def effective_units(
    counts: Float[Tensor, " S"] | Int[Tensor, " S"], clusters: Int[Tensor, " S"] | None = None
) -> float:
    """How many documents of one size tell as much about an error as these of different sizes.

    G* = (Σ_g n_g²)² / Σ_g n_g⁴ for n_g scored positions in cluster g: Satterthwaite's degrees of
    freedom of the squared residuals, for documents that go their own way as a whole (Carter,
    Schnepel & Steigerwald 2017, for a mean and full correlation within a cluster). G for equal
    sizes, close to 1 where one document outweighs the rest. Known before anything is measured.

    Args:
        counts: Scored positions per sequence.
        clusters: Which document each sequence comes from; None if each stands for itself.
    """
    squares = _by_cluster(counts.double(), clusters).square()
    return float(squares.sum().square() / squares.square().sum().clamp(min=1))


def quantile(effective: float) -> float:
    """Student's 97.5 % quantile for a number of effective units.

    With less than one degree of freedom it is that of one, 12.7: a single document says next to
    nothing about others, but no number would say nothing.
    """
    return float(special.stdtrit(max(effective - 1, 1.0), 0.975))


def interval(
    mean: float, se: float, residuals: Float[Tensor, " G"], sizes: Float[Tensor, " G"]
) -> tuple[float, float]:
    """The 95 % interval of a mean: each end is the farthest one of Student's and of Hall's.

    Student's has as many degrees of freedom as there are effective units, less one
    (:func:`effective_units`). Hall (1992) transforms the studentised mean so that the skewness of
    the sample no longer shifts its tails: g(T) = T + aT²/3 + a²T³/27 + a/6 with a = skewness/√G,
    inverted in closed form; once for the skewness of the residuals, once for that of residuals per
    position (equal where units have one size). Where the tails are long on one side Student's
    interval misses too often on that side; where they are long on both sides the sample's skewness
    is noise and Hall's interval is too short. The farthest end of all serves either.

    No sample knows of a tail it has not seen: whether there may be one is asked of all effects of a
    checkpoint together (:func:`circuit_econ.measures.precision.judge`).

    Args:
        mean: The estimate.
        se: Its standard error.
        residuals: What each of the G units adds to the deviation of the mean.
        sizes: Scored positions of each.

    Returns:
        Both ends; NaN where there is but one unit.
    """
    units = len(residuals)
    if units < 2 or math.isnan(se):
        return math.nan, math.nan
    student = quantile(effective_units(sizes))
    up = down = student
    for parts in (residuals, residuals / sizes.clamp(min=1)):
        a = _skewness(parts) / math.sqrt(units)
        up, down = max(up, _hall(student, a)), max(down, -_hall(-student, a))
    return mean - se * up, mean + se * down


def _hall(t: float, a: float) -> float:
    """Hall's transformation inverted, for a skewness of a·√G."""
    if abs(a) < 1e-6:
        return t
    return 3 / a * (math.copysign(abs(x := 1 + a * (t - a / 6)) ** (1 / 3), x) - 1)


def _skewness(parts: Float[Tensor, " G"]) -> float:
    """About 0, where the mean is. 0 for no spread."""
    spread = float(parts.square().mean().sqrt())
    # Scaled before it is cubed: the cube of a small number vanishes.
    return float((parts / spread).pow(3).mean()) if spread > 0 else 0.0


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

"""What frequencies alone achieve: the loss of guessing every target by how often it occurs.

The entropy of the targets' own frequencies is far too small where targets are few (uniform over
1,024 classes, 96 positions: 4.5 nats instead of 6.9). So every document is guessed from frequencies
of the others, smoothed: a loss that somebody who knows nothing else does achieve, and in
expectation no less than the entropy.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from circuit_econ.evaluation import UNSCORED, Evaluation
from circuit_econ.evaluation.record import next_token
from circuit_econ.measures.statistics import ratio_estimate

__all__ = ["unigram_loss"]

_FOLDS: Final = 64
"""Groups of documents, each guessed from the others."""
_DISCOUNTS: Final = np.array([0.0, 0.25, 0.5, 0.75, 0.9])
_STRENGTHS: Final = np.geomspace(1e-2, 1e7, 28)

Counts = Int64[np.ndarray, " vocabulary"]


def unigram_loss(evaluation: Evaluation, vocabulary: int) -> tuple[float, float]:
    """Mean nats per scored position of guessing by frequencies, and its standard error.

    A document (a sequence where each stands alone) is guessed by

        p(v) = (max(n_v − d, 0) + (θ + dK) / V) / (N + θ),

    n_v of the N scored targets outside of it being v, and K of the V classes seen: the predictive
    rule of a Pitman–Yor process over a uniform base, additive smoothing for d = 0. d and θ are
    those under which each of the N would have been guessed best from the others. Where targets are
    the next tokens, at the same positions in every sequence, those of the reference count, too.

    Args:
        evaluation: Its documents are gathered into at most 64 groups.
        vocabulary: Classes V that a model chooses from.

    Returns:
        Loss and error. The error holds the standard error over documents (NaN for a single one),
        and what the last doubling of what is counted gained: about what is left to gain. Where
        there is nothing to count the guess is uniform: ln V.
    """
    targets = evaluation.targets.numpy()
    fold_of = evaluation.document_of.numpy() % _FOLDS
    scored = targets != UNSCORED
    reference = _reference_targets(evaluation)
    losses: list[Tensor] = []
    for every in (1, 2):
        # All of the others, or every second one of them.
        counted = fold_of % every == 0
        known = _counts(targets[counted], vocabulary) + _counts(reference[::every], vocabulary)
        sums = np.zeros(len(targets))
        for fold in range(fold_of.max() + 1):
            rows = fold_of == fold
            loss = -_log_frequencies(known - _counts(targets[rows & counted], vocabulary))
            guessed = loss[np.where(scored[rows], targets[rows], 0)]
            sums[rows] = np.where(scored[rows], guessed, 0.0).sum(axis=1)
        positions = torch.from_numpy(scored.sum(axis=1))
        losses += ratio_estimate(torch.from_numpy(sums), positions, evaluation.clusters)
    loss, se, from_half, _ = (float(x) for x in losses)
    return loss, math.hypot(se, from_half - loss)


def _counts(targets: Int64[np.ndarray, ...], vocabulary: int) -> Counts:
    return np.bincount(targets[targets != UNSCORED].ravel(), minlength=vocabulary)


def _reference_targets(evaluation: Evaluation) -> Int64[np.ndarray, "reference position"]:
    """What a reference adds: its next tokens, where it is those that are scored."""
    scored = evaluation.targets != UNSCORED
    following = next_token(evaluation.tokens)
    alike = bool((scored == scored[0]).all())
    if evaluation.reference is None or not alike:
        return np.empty((0, 0), np.int64)
    if not torch.equal(evaluation.targets[scored], following[scored]):
        return np.empty((0, 0), np.int64)
    return next_token(evaluation.reference)[:, scored[0]].numpy()


def _log_frequencies(counts: Counts) -> Float64[np.ndarray, " vocabulary"]:
    """Logarithms of the smoothed frequencies that guess each of what was counted best."""
    total, size = counts.sum(), len(counts)
    if total < 2:
        return np.full(size, -np.log(size))
    # How many classes were counted how often says everything.
    times, classes = np.unique(counts[counts > 0], return_counts=True)
    seen = classes.sum()
    discount, strength = _DISCOUNTS[:, None, None], _STRENGTHS[:, None]
    # Each of what was counted is left out in turn: what occurs once is then not seen any more.
    rest = seen - (times == 1)
    kept = np.where(times > 1, times - 1 - discount, 0.0)
    guess = (kept + (strength + discount * rest) / size) / (total - 1 + strength)
    scores = (times * classes * np.log(guess)).sum(axis=-1)
    best = np.unravel_index(scores.argmax(), scores.shape)
    d, theta = _DISCOUNTS[best[0]], _STRENGTHS[best[1]]
    smoothed = (np.where(counts > 0, counts - d, 0.0) + (theta + d * seen) / size) / (total + theta)
    return np.log(smoothed)

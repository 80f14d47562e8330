"""Compiled kernels of CE-Bench on a CPU: the scores of every pair in one pass over its means. Load
through :mod:`husai.cebench.scores`.
"""

from __future__ import annotations

import numpy as np

from husai.compiled import kernel

VECTORS = {"reassoc", "contract", "nsz"}
"""What the compiler may do to make vector instructions of a loop; it may not assume that there are
no NaNs."""


# Not in the order the compiler likes: summed differently here and in score_pairs, the pooled mean of
# a single pair would not cancel against the mean over pairs.
@kernel(nogil=True)
def add_pooled(means, weights, total):
    """Add the pooled mean ``w1 V1 + w2 V2`` of every pair to ``total (d_sae,)`` float64; ``means
    (n, 2, d_sae)``, ``weights (n, 2)``.
    """
    for p in range(len(means)):
        first, second, a, b = means[p, 0], means[p, 1], weights[p, 0], weights[p, 1]
        for j in range(len(total)):
            total[j] += a * first[j] + b * second[j]


@kernel()
def _distances(first, second, a, b, i2, contrast, published, fixed):
    """``|V1 - V2|``, ``|I1|`` and ``|I1 - I2|`` of one pair."""
    for j in range(len(i2)):
        one, other = np.float64(first[j]), np.float64(second[j])
        pooled = a * one + b * other
        contrast[j] = abs(one - other)
        published[j] = abs(pooled)
        fixed[j] = abs(pooled - i2[j])


@kernel(fastmath={"nnan", "nsz"})
def _range(values):
    least = most = values[0]
    for j in range(1, len(values)):
        least = values[j] if values[j] < least else least
        most = values[j] if values[j] > most else most
    return least, most


@kernel(fastmath=VECTORS)
def _max_z(values):
    """Largest z-score of ``values (n,)`` float64, unbiased standard deviation; 0 where all are
    equal.
    """
    n, total, squares = len(values), 0.0, 0.0
    for j in range(n):
        total += values[j]
    mean = total / n
    if np.isnan(mean):
        return mean
    for j in range(n):
        squares += (values[j] - mean) * (values[j] - mean)
    least, most = _range(values)
    std = np.sqrt(squares / (n - 1))
    return 0.0 if least == most else (most - mean) / (std if std > 0 else 1.0)


@kernel(nogil=True)
def score_pairs(means, weights, i2, out):
    """Scores ``out (5, n)`` float64 of pairs: contrastive, then independence and interpretability
    for I2 = 0, then both for ``i2``.
    """
    contrast, published, fixed = np.empty(len(i2)), np.empty(len(i2)), np.empty(len(i2))
    for p in range(len(means)):
        _distances(
            means[p, 0], means[p, 1], weights[p, 0], weights[p, 1], i2, contrast, published, fixed
        )
        out[0, p] = _max_z(contrast)
        out[1, p] = _max_z(published)
        out[3, p] = _max_z(fixed)
        for j in range(len(i2)):
            published[j] += contrast[j]
            fixed[j] += contrast[j]
        out[2, p] = _max_z(published)
        out[4, p] = _max_z(fixed)


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    means, weights = np.ones((1, 2, 4), np.float32), np.ones((1, 2))
    add_pooled(means, weights, np.zeros(4))
    score_pairs(means, weights, np.zeros(4), np.empty((5, 1)))

"""Compiled kernels of CE-Bench on a CPU: sums of latents per story without their dense code, and
the scores of every pair in one pass.

Load through :func:`husai.compiled.story_kernels`.
"""

from __future__ import annotations

import numpy as np

from husai.compiled import kernel

# Machine code is kept per file and has these inlined: after a change to them, save this file as
# well.
from husai.probing.row_kernels import ONE, VECTORS, ZERO, _count_from, _groups, _separator


@kernel(nogil=True, fastmath=VECTORS)
def add_above(pre, bias, threshold, story, sums):
    """Add codes "``pre + bias`` where above ``threshold (d_sae,)``, itself not negative" of rows
    ``pre (n, d_sae)`` to rows ``story (n,)`` of ``sums``; all float32. Returns how many latents are
    active."""
    active = 0
    for i in range(len(pre)):
        row, total = pre[i], sums[story[i]]
        found = ZERO
        for j in range(len(row)):
            value = row[j] + bias[j]
            value = ZERO if value <= threshold[j] else value
            total[j] += value
            found += ONE if value > ZERO else ZERO
        active += int(found)
    return active


@kernel(nogil=True, fastmath=VECTORS)
def add_top_k(pre, bias, k, story, sums, tied):
    """As :func:`add_above` for "the k largest of ``pre + bias``, then ReLU". Rows in which latents
    tie for the last place are left out and listed in ``tied (n,)``. ``bias`` is added to ``pre`` in
    place. Returns how many latents are active and how many rows are tied."""
    highest = np.empty(_groups(k), np.float32)
    active, n_tied = 0, 0
    for i in range(len(pre)):
        row, total = pre[i], sums[story[i]]
        for j in range(len(row)):
            row[j] += bias[j]
        floor = _separator(row, k, highest)
        found = int(_count_from(row, floor))
        if found > k:
            tied[n_tied] = i
            n_tied += 1
            continue
        active += found
        for j in range(len(row)):
            total[j] += ZERO if row[j] < floor else row[j]
    return active, n_tied


# Exact where exactness is needed: a sum in another order would keep the pooled mean of one pair
# from cancelling against itself.
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
    pre, story, row = np.ones((2, 4), np.float32), np.array([0, 1]), np.zeros(4, np.float32)
    add_above(pre, row, row, story, pre.copy())
    add_top_k(pre, row, 1, story, pre.copy(), story.copy())
    add_pooled(pre.reshape(1, 2, 4), np.ones((1, 2)), np.zeros(4))
    score_pairs(pre.reshape(1, 2, 4), np.ones((1, 2)), np.zeros(4), np.empty((5, 1)))

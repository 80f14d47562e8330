"""Compiled SAGA, draw by draw and bit by bit as scikit-learn runs it: for the few probes whose path is not followed closely enough otherwise.

Load through :func:`husai.external.compiled.probe_kernels`.
"""

from __future__ import annotations

import math

import numpy as np

from husai.external.compiled import kernel


@kernel()
def _drawn(state):
    """Next state of the 32-bit xorshift generator."""
    state ^= np.uint32(state << np.uint32(13))
    state ^= np.uint32(state >> np.uint32(17))
    return np.uint32(state ^ np.uint32(state << np.uint32(5)))


@kernel()
def _shrink(u, slope, lag, shrinkage):
    """The step along the mean gradient that a weight still owes, then the proximal step."""
    for j in range(len(u)):
        moved = u[j] - lag * slope[j]
        u[j] = max(moved - shrinkage, 0.0) - max(-moved - shrinkage, 0.0)


@kernel()
def _loss_slope(decision, y):
    """Derivative of the logistic loss of one row by its decision value."""
    if decision > -37.0:
        e = math.exp(-decision)
        return ((1.0 - y) - y * e) / (1.0 + e)
    return math.exp(decision) - y


@kernel(nogil=True)
def saga(x, y, seed, step, shrinkage, tolerance, max_epochs, model):
    """Minimise mean logistic loss plus an l1 penalty by SAGA (Defazio et al. 1407.0202) from zero; returns the epochs it took.

    The draws, the order of operations and every rounding are those of scikit-learn 1.9's solver on dense float64 rows.

    Parameters
    ----------
    x : ndarray, ``(n, m)`` float64, rows contiguous
    y : ndarray, ``(n,)`` float64
        Labels 0/1.
    seed : int
        First state of the generator of row numbers (xorshift, 32 bits).
    step, shrinkage : float
        Length of a step, and what the proximal operator takes from a weight at each.
    model : ndarray, ``(1 + m,)`` float64
        Gets the intercept and the weights.
    """
    n, m = x.shape
    u, before, slope = np.zeros(m), np.zeros(m), np.zeros(m)
    memory, seen = np.zeros(n), np.zeros(n, np.bool_)
    intercept, intercept_slope = 0.0, 0.0
    state, n_seen, epochs = np.uint32(seed), 0, 0
    while epochs < max_epochs:
        epochs += 1
        owed, owed_shrinkage, total, total_shrinkage = 0.0, 0.0, 0.0, 0.0
        for k in range(n):
            state = _drawn(state)
            i = np.int64((state & np.uint32(0x7FFFFFFF)) % np.uint32(n))
            n_seen += 0 if seen[i] else 1
            seen[i] = True
            if k > 0:
                _shrink(u, slope, owed, owed_shrinkage)
            row, decision = x[i], 0.0
            for j in range(m):
                decision += u[j] * row[j]
            fresh = _loss_slope(decision + intercept, y[i])
            change, share = fresh - memory[i], 1.0 - 1.0 / n_seen
            memory[i] = fresh
            for j in range(m):
                correction = row[j] * change
                u[j] -= correction * step * share
                slope[j] += correction
            intercept_slope += change
            intercept -= step * intercept_slope / n_seen + change * (step * share)
            # scikit-learn takes differences of running sums: what they round away is part of the path.
            longer, longer_shrinkage = total + step / n_seen, total_shrinkage + shrinkage
            owed, owed_shrinkage, total, total_shrinkage = longer - total, longer_shrinkage - total_shrinkage, longer, longer_shrinkage
        _shrink(u, slope, owed, owed_shrinkage)
        largest, moved = 0.0, 0.0
        for j in range(m):
            largest, moved, before[j] = max(largest, abs(u[j])), max(moved, abs(u[j] - before[j])), u[j]
        if (largest > 0.0 and moved / largest <= tolerance) or (largest == 0.0 and moved == 0.0):
            break
    model[0] = intercept
    model[1:] = u
    return epochs


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    saga(np.ones((2, 1)), np.array([0.0, 1.0]), 1, 0.1, 0.1, 1e-4, 1, np.empty(2))

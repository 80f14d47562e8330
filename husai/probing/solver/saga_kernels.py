"""Compiled SAGA, draw by draw and bit by bit as scikit-learn runs it: for the few probes whose path
is not followed closely enough otherwise.

Load through :func:`husai.compiled.probe_kernels`.
"""

from __future__ import annotations

import math

import numpy as np

from husai.compiled import kernel


@kernel(inline="always")
def _drawn(state):
    """Next state of the 32-bit xorshift generator."""
    state ^= np.uint32(state << np.uint32(13))
    state ^= np.uint32(state >> np.uint32(17))
    return np.uint32(state ^ np.uint32(state << np.uint32(5)))


@kernel(inline="always")
def _shrink(u, slope, p, lag, shrinkage):
    """The step along the mean gradient that the weights of problem ``p`` still owe, then the
    proximal step.
    """
    for j in range(u.shape[1]):
        moved = u[p, j] - lag * slope[p, j]
        up, down = moved - shrinkage, -moved - shrinkage
        u[p, j] = (up if up > 0.0 else 0.0) - (down if down > 0.0 else 0.0)


@kernel(inline="always")
def _loss_slope(decision, y):
    """Derivative of the logistic loss of one row by its decision value."""
    if decision > -37.0:
        e = math.exp(-decision)
        return ((1.0 - y) - y * e) / (1.0 + e)
    return math.exp(decision) - y


@kernel(inline="always")
def _step(u, slope, kept, memory, p, x, y, i, step, share, n_seen):
    """The draw of row ``i`` by problem ``p``; ``kept[p]`` is its intercept and the intercept's
    slope.
    """
    decision = 0.0
    for j in range(u.shape[1]):
        decision += u[p, j] * x[i, j]
    fresh = _loss_slope(decision + kept[p, 0], y[i])
    change = fresh - memory[i, p]
    memory[i, p] = fresh
    for j in range(u.shape[1]):
        correction = x[i, j] * change
        u[p, j] -= correction * step * share
        slope[p, j] += correction
    kept[p, 1] += change
    kept[p, 0] -= step * kept[p, 1] / n_seen + change * (step * share)


@kernel(inline="always")
def _stops(u, before, p, tolerance):
    """Whether the weights of problem ``p`` changed little in the epoch."""
    largest, moved = 0.0, 0.0
    for j in range(u.shape[1]):
        largest, moved = max(largest, abs(u[p, j])), max(moved, abs(u[p, j] - before[p, j]))
        before[p, j] = u[p, j]
    return moved / largest <= tolerance if largest > 0.0 else moved == 0.0


@kernel(nogil=True)
def saga(x, y, seed, step, shrinkage, tolerance, max_epochs, models):
    """Minimise mean logistic loss plus an l1 penalty by SAGA (Defazio et al. 1407.0202) from zero,
    for ``L`` penalties side by side: a processor overlaps what they do at a draw.

    The draws, the order of operations and every rounding are those of scikit-learn 1.9's solver on
    dense float64 rows.

    Parameters
    ----------
    x : ndarray, ``(n, m)`` float64, rows contiguous
    y : ndarray, ``(n,)`` float64
        Labels 0/1.
    seed : int
        First state of the generator of row numbers (xorshift, 32 bits).
    step : float
    shrinkage : ndarray, ``(L,)``
        What the proximal operator takes from a weight at each step.
    models : ndarray, ``(L, 1 + m)``
        Gets intercepts and weights.
    """
    n, m, L = len(x), x.shape[1], len(shrinkage)
    u, before, slope = np.zeros((L, m)), np.zeros((L, m)), np.zeros((L, m))
    kept, memory, seen = np.zeros((L, 2)), np.zeros((n, L)), np.zeros(n, np.bool_)
    owed_shrinkage, total_shrinkage = np.zeros(L), np.zeros(L)
    alive, state, n_seen, epochs = np.arange(L), np.uint32(seed), 0, 0
    while epochs < max_epochs and len(alive):
        epochs += 1
        owed, total = 0.0, 0.0
        total_shrinkage[:] = 0.0
        for k in range(n):
            state = _drawn(state)
            i = np.int64((state & np.uint32(0x7FFFFFFF)) % np.uint32(n))
            n_seen += 0 if seen[i] else 1
            seen[i] = True
            # scikit-learn takes differences of running sums: what they round away is part of the
            # path.
            longer = total + step / n_seen
            for p in alive:
                if k > 0:
                    _shrink(u, slope, p, owed, owed_shrinkage[p])
                _step(u, slope, kept, memory, p, x, y, i, step, 1.0 - 1.0 / n_seen, n_seen)
                longer_shrinkage = total_shrinkage[p] + shrinkage[p]
                owed_shrinkage[p], total_shrinkage[p] = (
                    longer_shrinkage - total_shrinkage[p],
                    longer_shrinkage,
                )
            owed, total = longer - total, longer
        going = np.zeros(L, np.bool_)
        for p in alive:
            _shrink(u, slope, p, owed, owed_shrinkage[p])
            going[p] = not _stops(u, before, p, tolerance)
        alive = alive[going[alive]]
    models[:, 0] = kept[:, 0]
    models[:, 1:] = u


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    saga(np.ones((2, 1)), np.array([0.0, 1.0]), 1, 0.1, np.array([0.1]), 1e-4, 1, np.empty((1, 2)))

"""Compiled kernels of scores: decision values of probes and their areas under the ROC curve. Load
through :mod:`husai.probing.scores`.
"""

from __future__ import annotations

import numpy as np

from husai.compiled import kernel


@kernel(nogil=True)
def decisions(x, models, out):
    """Decision values ``out (P, n)`` of rows ``x (n, m)`` for models ``(P, 1 + m)``, intercept
    first. Summed in one order, so that equal rows get equal ones.
    """
    for i in range(len(x)):
        for p in range(len(models)):
            total = models[p, 0]
            for j in range(x.shape[1]):
                total += models[p, 1 + j] * x[i, j]
            out[p, i] = total


@kernel(nogil=True)
def areas(keys, out):
    """AUC ``out (P,)``, ties half, of each row of sorted ``keys (P, n)`` as ``scores.auc`` makes
    them: twice the score's bits, plus the label.
    """
    for p in range(len(keys)):
        below, area, positives = 0, 0.0, 0
        n, i = keys.shape[1], 0
        while i < n:
            value, ones, zeros = keys[p, i] >> 1, 0, 0
            while i < n and keys[p, i] >> 1 == value:
                ones += keys[p, i] & 1
                zeros += 1 - (keys[p, i] & 1)
                i += 1
            area += ones * (below + 0.5 * zeros)
            below += zeros
            positives += ones
        out[p] = area / (np.float64(positives) * below)


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    decisions(np.ones((2, 1), np.float32), np.zeros((1, 2)), np.empty((1, 2)))
    areas(np.array([[0, 1]]), np.empty(1))

"""Scores of binary probes, several at once: probabilities, AUC with tied ranks, accuracy,
class-weighted F1.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy.special import expit

from husai import compiled

kernels = functools.partial(compiled.load, "husai.probing.score_kernels")


def probabilities(models: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Probabilities of class 1 ``(P, n)`` of rows ``x (n, m)`` for ``models (P, 1 + m)``: equal
    rows get equal ones.
    """
    out = np.empty((len(models), len(x)))
    kernels().decisions(np.ascontiguousarray(x), np.ascontiguousarray(models), out)
    return expit(out, out=out)


def auc(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each row of scores, ties counted half (Mann-Whitney; equals
    scikit-learn's ``roc_auc_score`` but for its last bits).

    Parameters
    ----------
    scores : ndarray, ``(P, n)``
        From 0 to 1.
    y : ndarray, ``(n,)``
        Labels 0/1, both present.

    Returns
    -------
    ndarray of float64, ``(P,)``
    """
    # Bit patterns of positive numbers are in the order of the numbers, and sort faster.
    keys = 2 * np.array(scores, np.float64, order="C").view(np.int64) + y
    keys.sort(axis=-1)
    out = np.empty(len(scores))
    kernels().areas(keys, out)
    return out


def trapezoid_auc(scores: np.ndarray, y: np.ndarray) -> float:
    """The same area by scikit-learn's own arithmetic: corners of the ROC curve, then trapezoids.

    Equal areas can differ in the last bit there, and the official argmax over C decides ties by
    that bit."""
    order = np.argsort(scores, kind="stable")[::-1]
    ordered, labels = scores[order], y[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    tps = np.cumsum(labels)[last]
    fps = 1 + last.astype(np.float64) - tps
    if len(fps) > 2:
        corner = np.concatenate([[True], np.logical_or(np.diff(fps, 2), np.diff(tps, 2)), [True]])
        fps, tps = fps[corner], tps[corner]
    fpr, tpr = np.append(0.0, fps) / fps[-1], np.append(0.0, tps) / tps[-1]
    return float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2.0).sum())


def accuracy(called: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of rows called class 1, ``called (..., n)`` bool, that have that label ``y (n,)``, or
    neither.
    """
    return (called == (y == 1)).mean(-1)


def weighted_f1(called: np.ndarray, y: np.ndarray) -> np.ndarray:
    """F1 of both classes weighted by their support (scikit-learn's
    ``f1_score(average="weighted")``).
    """
    n, positives = len(y), np.count_nonzero(y == 1)
    hits, ones = (called & (y == 1)).sum(-1), called.sum(-1)
    rejected = n - positives - (ones - hits)
    first = 2 * hits / np.maximum(ones + positives, 1)
    second = 2 * rejected / np.maximum(2 * n - ones - positives, 1)
    return (first * positives + second * (n - positives)) / n

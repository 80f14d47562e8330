"""Scores of binary probes: probabilities, AUC with tied ranks, accuracy, class-weighted F1."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit


def probabilities(models: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Probabilities of class 1 ``(P, n)`` of rows ``x (n, m)`` for ``models (P, 1 + m)``,
    intercept first.

    Summed column by column, in one order for every row: equal rows get equal probabilities, which
    a matrix product does not promise, and which areas under the curve count as ties."""
    total = np.repeat(models[:, :1], len(x), axis=1)
    for weights, column in zip(models[:, 1:].T, x.T, strict=True):
        if weights.any():
            total += weights[:, None] * column
    return expit(total, out=total)


def auc(scores: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve of scores ``(n,)`` for labels 0/1 ``y (n,)``, both present; ties
    count half.

    By scikit-learn's own arithmetic (corners of the curve, then trapezoids): equal areas can differ
    in the last bit there, and the official choice of C decides ties by that bit."""
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


class Scores(NamedTuple):
    """What a probe reaches on rows that did not train it."""

    auc: float
    accuracy: float
    f1: float
    """F1 of both classes weighted by their support."""


def scores_of(model: np.ndarray, x: np.ndarray, y: np.ndarray) -> Scores:
    """Scores of one model ``(1 + m,)`` on rows ``x (n, m)`` with labels 0/1; a probability above
    1/2 calls class 1. As scikit-learn's ``accuracy_score`` and ``f1_score(average="weighted")``.
    """
    p = probabilities(model[None], x)[0]
    called, positives = p > 0.5, np.count_nonzero(y == 1)
    hits, ones = np.count_nonzero(called & (y == 1)), np.count_nonzero(called)
    negatives = len(y) - positives
    rejected = negatives - (ones - hits)
    first = 2 * hits / max(ones + positives, 1)
    second = 2 * rejected / max(2 * len(y) - ones - positives, 1)
    f1 = (first * positives + second * negatives) / len(y)
    return Scores(auc(p, y), (hits + rejected) / len(y), f1)

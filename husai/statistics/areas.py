"""Areas under a ROC curve, and their intervals."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from scipy.stats import rankdata


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN without both.

    ``score`` and ``positive``, bool, are ``(n,)``. Mann & Whitney 1947: the rank sum of the
    positives. :func:`husai.probing.scores.auc` computes it as scikit-learn does, to the last bit.

    Examples
    --------
    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(score)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(ranks / (n_positive * n_negative))


def auc_interval(
    auc: float, n_positive: int, n_negative: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Two-sided normal interval of an AUC, cut off at 0 and 1.

    The standard error is that of Hanley & McNeil (1982, Radiology 143:29, eq. 1), which takes the
    scores of either class to be distributed exponentially.

    >>> low, high = auc_interval(0.8, 50, 50)
    >>> round(low, 3), round(high, 3)
    (0.712, 0.888)
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (
        auc * (1 - auc) + (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2)
    ) / (n_positive * n_negative)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(max(spread, 0.0))
    return max(auc - half, 0.0), min(auc + half, 1.0)

"""Scores of binary probes, many at once: AUC with tied ranks, accuracy, class-weighted F1."""

from __future__ import annotations

import numpy as np
import torch


def auc(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Area under the ROC curve of each row of scores, ties counted half (Mann-Whitney; equals scikit-learn's ``roc_auc_score``).

    Parameters
    ----------
    scores : Tensor, ``(..., n)``
    y : Tensor, ``(n,)`` or ``(..., n)``
        Labels 0/1, both present.

    Returns
    -------
    Tensor, ``(...)``, float64
    """
    ordered, order = scores.sort(dim=-1)
    labels = y.expand_as(scores).gather(-1, order).to(torch.float64)
    n = scores.shape[-1]
    position = torch.arange(n, device=scores.device).expand_as(order)
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    ends = torch.ones_like(starts)
    ends[..., :-1] = starts[..., 1:]
    first = torch.where(starts, position, 0).cummax(-1).values
    last = torch.where(ends, position, n).flip(-1).cummin(-1).values.flip(-1)
    ranks = (first + last).to(torch.float64) / 2 + 1
    positives = labels.sum(-1)
    return ((ranks * labels).sum(-1) - positives * (positives + 1) / 2) / (positives * (n - positives))


def trapezoid_auc(scores: np.ndarray, y: np.ndarray) -> float:
    """The same area by scikit-learn's own arithmetic: corners of the ROC curve, then trapezoids.

    Equal areas can differ in the last bit there, and the official argmax over C decides ties by that bit.
    """
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


def accuracy(decision: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Share of rows whose decision value ``(..., n)`` has the sign of the label ``(n,)``; float64."""
    return ((decision > 0) == (y == 1)).to(torch.float64).mean(-1)


def weighted_f1(decision: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """F1 of both classes weighted by their support (scikit-learn's ``f1_score(average="weighted")``); float64."""
    predicted, actual = decision > 0, (y == 1).expand(decision.shape)
    total = torch.zeros(decision.shape[:-1], dtype=torch.float64, device=decision.device)
    for p, a in ((predicted, actual), (~predicted, ~actual)):
        hit = (p & a).sum(-1).to(torch.float64)
        f1 = 2 * hit / (p.sum(-1) + a.sum(-1)).clamp(min=1)
        total += f1 * a.to(torch.float64).mean(-1)
    return total

"""Near-duplicates within one dictionary, and agreement between dictionaries weighted by what each
latent explains, in which a group of near-duplicates counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from husai.stability.assignment import Match, matched_cosines
from husai.stability.rows import UnitRows, matrix_of
from husai.stability.similarity import FEATURE_MATCH

TWIN = 0.9
"""|cosine| from which two latents of one SAE count as the same. Of the ReLU SAEs measured on
all-MiniLM-L6-v2 0.8% of latents have such a twin; a dictionary made of copies has nothing else."""
STEP = 4096
"""Rows whose cosines with all others are computed at once."""


class Twins(NamedTuple):
    """Near-duplicates among the living latents of one dictionary."""

    cluster: torch.Tensor
    """Group of each latent ``(d_sae,)`` int64, those that a chain of twins connects; -1: dead."""
    redundancy: float
    """Share of living latents that have a twin."""
    distinct: float
    """Effective number of distinct latents, ``sum_i 1 / m_i`` with ``m_i`` the number of latents
    within :data:`TWIN` of latent i, itself among them: the number of groups where each is
    close-knit."""


def twins_of(decoder: torch.Tensor, alive: torch.Tensor | None = None, device=None) -> Twins:
    """Near-duplicates among the (living) rows of ``decoder (d_sae, d_in)``; sign does not count."""
    units = UnitRows(matrix_of(decoder, "decoder"), alive, "decoder", device)
    left, right = [], []
    for i in range(0, units.n, STEP):
        rows = units.block(i, i + STEP)
        for j in range(i, units.n, STEP):
            near = (rows @ units.block(j, j + STEP).T).abs_() > TWIN
            a, b = (index.cpu().numpy() for index in near.nonzero(as_tuple=True))
            above = a + i < b + j
            left.append(a[above] + i)
            right.append(b[above] + j)
    a, b = np.concatenate(left), np.concatenate(right)
    edges = coo_array((np.ones(len(a)), (a, b)), shape=(units.n, units.n))
    labels = connected_components(edges, directed=False)[1].astype(np.int64)
    near = 1 + np.bincount(a, minlength=units.n) + np.bincount(b, minlength=units.n)
    cluster = torch.full((decoder.shape[0],), -1, dtype=torch.int64)
    index = torch.arange(units.n) if units.index is None else units.index.cpu()
    cluster[index] = torch.from_numpy(labels)
    return Twins(cluster, float((near > 1).mean()), float((1 / near).sum()))


def latent_weights(variance_share: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """Weight of each latent ``(d_sae,)`` float64: the size of its share of the explained variance,
    so that they sum to 1; all equal where the SAE explains nothing.

    The share of a latent that harms is negative. It keeps its sign here: such a latent counts with
    the size of the harm, and counts as not found (see :func:`weighted_shared`)."""
    share = torch.where(alive, variance_share.double().nan_to_num(0.0), 0.0)
    total = share.abs().sum()
    return share / total if float(total) > 0 else alive.double() / alive.sum().clamp_min(1)


def weighted_shared(
    match: Match,
    enc_a: torch.Tensor,
    enc_b: torch.Tensor,
    weights: Sequence[torch.Tensor],
    clusters: Sequence[torch.Tensor],
    threshold: float = FEATURE_MATCH,
) -> float:
    """Share of the explained variance that lies on latents shared by two SAEs, mean of both.

    A latent is shared as in :func:`husai.stability.shared_fraction`. Of a group of near-duplicates,
    in either SAE, only one pair counts: the best. What the others explain counts as not shared.
    Encoders are ``(d_sae, d_in)``; ``weights`` and ``clusters`` are :func:`latent_weights` and
    :attr:`Twins.cluster` of either SAE, ``(d_sae,)``.
    """
    shared = (match.cosine > threshold) & (matched_cosines(match, enc_a, enc_b) > threshold)
    order = torch.argsort(match.cosine, descending=True, stable=True)
    order = order[shared[order]]
    rows, cols = match.rows[order], match.cols[order]
    group_a, group_b = clusters[0][rows].tolist(), clusters[1][cols].tolist()
    seen_a, seen_b, kept = set(), set(), []
    for k, (a, b) in enumerate(zip(group_a, group_b, strict=True)):
        if a not in seen_a and b not in seen_b:
            kept.append(k)
            seen_a.add(a)
            seen_b.add(b)
    found = [weights[0][rows[kept]], weights[1][cols[kept]]]
    return float(sum(w.clamp_min(0).sum() for w in found)) / 2


def weighted_best(
    best: Sequence[torch.Tensor],
    alive: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    clusters: Sequence[torch.Tensor],
) -> torch.Tensor:
    """PWMCC ``(n, n)`` with each latent weighted by what it explains, from the maxima ``(n_living,
    n)`` of :func:`husai.stability.pairwise_best` and masks, weights and clusters ``(d_sae,)``.

    Of a group of near-duplicates the one that explains most counts; the others, and latents that
    harm, count with cosine 0.
    """
    means = []
    for rows, living, weight, cluster in zip(best, alive, weights, clusters, strict=True):
        living = living.cpu()
        own, group = weight[living], cluster[living]
        order = torch.argsort(own, descending=True, stable=True)
        _, first = np.unique(group[order].numpy(), return_index=True)
        counts = torch.zeros_like(own)
        counts[order[torch.from_numpy(first)]] = 1.0
        means.append((own.clamp_min(0) * counts) @ rows)
    found = torch.stack(means)
    return ((found + found.T) / 2).fill_diagonal_(1.0)

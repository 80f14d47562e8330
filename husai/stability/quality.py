"""Whether the SAEs of an ensemble are SAEs at all: what they explain, how many latents fire and how
often, how many are copies of each other, and agreement weighted by what each latent explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from husai.stability.firing import firing
from husai.stability.reconstruction import evaluate_sae
from husai.stability.twins import Twins, latent_weights, weighted_best, weighted_shared

DENSE = 0.2
"""Share of rows on which a latent must fire to be dense. On a real subject no latent of the ReLU
SAEs measured fired on more than 13% of rows."""


class Profile(NamedTuple):
    """One SAE on held-out rows."""

    explained_variance: float
    l0: float
    alive: torch.Tensor
    """bool ``(d_sae,)`` on the CPU."""
    density: torch.Tensor | None
    """Share of rows on which each latent fires; None for a transcoder."""
    variance_share: torch.Tensor | None
    """See :func:`husai.stability.firing.firing`; None for a transcoder."""


def profile(sae, rows, target=None, latents: bool = True) -> Profile:
    """What :class:`Profile` holds, on held-out ``rows``; without ``latents``, and of a transcoder,
    only what :func:`husai.stability.evaluate_sae` gives.
    """
    measured = evaluate_sae(sae, rows, target)
    whole = float(measured["explained_variance"]), float(measured["l0"]), measured["alive"].cpu()
    if target is not None or not latents:
        return Profile(*whole, None, None)
    found = firing(sae, rows)
    return Profile(*whole, found.density, found.variance_share)


class Weighted(NamedTuple):
    """Agreement weighted by what each latent explains; matrices ``(n, n)`` float64."""

    pwmcc: torch.Tensor
    shared: torch.Tensor


def weighted_agreement(
    compared,
    encoders: Sequence[torch.Tensor],
    profiles: Sequence[Profile],
    alive: Sequence[torch.Tensor],
    twins: Sequence[Twins],
) -> Weighted:
    """PWMCC and shared fraction of all pairs, weighted; see :mod:`husai.stability.twins`.

    ``compared`` are the living latents (:func:`husai.stability.compare_weights`), encoders
    ``(d_sae, d_in)`` and masks ``(d_sae,)``.
    """
    weights = [latent_weights(p.variance_share, a) for p, a in zip(profiles, alive, strict=True)]
    clusters = [t.cluster for t in twins]
    shared = torch.eye(len(alive), dtype=torch.float64)
    for (i, j), match in compared.matches.items():
        own = (weights[i], weights[j]), (clusters[i], clusters[j])
        shared[i, j] = shared[j, i] = weighted_shared(match, encoders[i], encoders[j], *own)
    return Weighted(weighted_best(compared.best.best, alive, weights, clusters), shared)


def per_seed_quality(
    profiles: Sequence[Profile], alive: Sequence[torch.Tensor], twins: Sequence[Twins], d_in: int
) -> dict[str, list[float]]:
    """``{name: one value per SAE}``: ``redundancy`` and ``dense_fraction`` (shares of living
    latents), ``distinct_latents`` (an effective number), ``l0_per_d_in``.
    """
    found = {
        "redundancy": [t.redundancy for t in twins],
        "distinct_latents": [t.distinct for t in twins],
        "l0_per_d_in": [p.l0 / d_in for p in profiles],
    }
    if all(p.density is not None for p in profiles):
        found["dense_fraction"] = [
            float((p.density[a] > DENSE).double().mean())
            for p, a in zip(profiles, alive, strict=True)
        ]
    return found

"""CE-Bench scores of many SAEs in one pass over stored activations of story pairs: as published,
and with its I2 = 0 bug fixed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from husai import compiled
from husai.cebench.bound import score_bound
from husai.cebench.means import PairActivations, mean_latents
from husai.compute import side_by_side
from husai.errors import HusaiError, RecipeFailed

SCORES = (
    "contrastive_published",
    "contrastive_fixed",
    "independence_published",
    "independence_fixed",
    "interpretability_published",
    "interpretability_fixed",
)
MEMORY_BYTES = 2 << 30
"""For mean latents of SAEs that are scored in one reading of the activations: 65 SAEs of width 4096
on 1,000 pairs."""
L0_TOLERANCE = 0.1
"""A control whose L0 differs by more than this share is no matched control: the score grows with
sparsity."""
kernels = functools.partial(compiled.load, "husai.cebench.kernels")


class CEBenchResult(NamedTuple):
    """Scores of one SAE."""

    per_pair: dict[str, np.ndarray]
    """The six ``SCORES``, each ``(n_pairs,)`` float64, in standard deviations over latents."""
    l0: float
    """Mean number of active latents per token."""
    d_sae: int
    """Number of latents."""
    bound: float
    """No pair can score above this; see :func:`score_bound`."""


def pair_scores(means: torch.Tensor, counts: torch.Tensor) -> dict[str, np.ndarray]:
    """CE-Bench's scores of every pair from the mean latents of its two stories, in float64 on the
    CPU.

    With V1, V2 the mean latents over all tokens of each story and I1 the mean over the tokens of
    both, ``contrastive = max z|V1 - V2|``, ``independence = max z|I1 - I2|`` and ``interpretability
    = max z(|V1 - V2| + |I1 - I2|)`` (Gulko, Peng & Kumar 2509.00691, section 3, and the authors'
    code). ``fixed`` takes I2 as the mean of I1 over pairs; ``published`` takes I2 = 0, which is
    what the authors' code computes because it accumulates I2 onto itself. The contrastive score
    does not depend on I2.

    Parameters
    ----------
    means : Tensor (n_pairs, 2, d_sae)
    counts : Tensor (n_pairs, 2)
        Tokens per story: the weights of the pooled mean I1.

    Returns
    -------
    dict
        The six ``SCORES``, each a float64 array ``(n_pairs,)``.
    """
    v = means.cpu().contiguous().numpy()
    weights = (counts.double() / counts.sum(1, keepdim=True)).cpu().numpy()
    total, out = np.zeros(v.shape[-1]), np.empty((5, len(v)))
    kernels().add_pooled(v, weights, total)
    kernels().score_pairs(v, weights, total / len(v), out)
    contrastive, *others = out
    names = [
        f"{score}_{variant}"
        for variant in ("published", "fixed")
        for score in ("independence", "interpretability")
    ]
    return {
        "contrastive_published": contrastive,
        "contrastive_fixed": contrastive,
        **dict(zip(names, others, strict=True)),
    }


def score_saes(
    saes: Sequence,
    pairs: PairActivations,
    *,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> list[CEBenchResult]:
    """Score SAEs on stored story pairs; activations are read once for as many SAEs as fit
    ``MEMORY_BYTES`` of mean latents.

    Raises
    ------
    HusaiError
        An SAE whose ``d_in`` differs from the width of the activations, fewer than two pairs, a
        story without tokens, or latents that are not finite.
    """
    _check(saes, pairs)
    results: list[CEBenchResult] = []
    waiting = list(saes)
    while waiting:
        size, batch = 0, []
        while waiting and (
            not batch or size + 8 * pairs.n_pairs * waiting[0].d_sae <= MEMORY_BYTES
        ):
            size += 8 * pairs.n_pairs * waiting[0].d_sae
            batch.append(waiting.pop(0))
        means, l0 = mean_latents(batch, pairs, device=device, progress=progress)
        scores = side_by_side(
            lambda item: _finite_scores(*item, pairs.counts), zip(batch, means, strict=True)
        )
        results += [
            CEBenchResult(found, active, sae.d_sae, score_bound(sae.d_sae))
            for found, active, sae in zip(scores, l0, batch, strict=True)
        ]
    return results


def _finite_scores(sae, means: torch.Tensor, counts: torch.Tensor) -> dict[str, np.ndarray]:
    # One number that is not finite makes the sum so.
    if not torch.isfinite(means.sum(dtype=torch.float64)):
        raise RecipeFailed(
            f"CE-Bench: {sae!r} gives latents that are not finite; check its weights"
        )
    return pair_scores(means, counts)


def _check(saes: Sequence, pairs: PairActivations) -> None:
    width = pairs.tokens.shape[1]
    if pairs.n_pairs < 2:
        raise HusaiError(
            "CE-Bench: needs at least 2 story pairs to compare with their mean, got "
            f"{pairs.n_pairs}"
        )
    if (
        len(pairs.offsets) != 2 * pairs.n_pairs + 1
        or int(pairs.offsets[0]) != 0
        or int(pairs.offsets[-1]) != pairs.tokens.shape[0]
    ):
        raise HusaiError(
            f"CE-Bench: offsets describe {int(pairs.offsets[-1])} tokens in "
            f"{len(pairs.offsets) - 1} stories, but there are "
            f"{pairs.tokens.shape[0]} tokens and {pairs.n_pairs} pairs; compute the pair "
            "activations again"
        )
    if bool((pairs.counts < 1).any()):
        raise HusaiError(
            f"CE-Bench: pair {int((pairs.counts < 1).any(1).nonzero()[0])} has a story without "
            "tokens; remove it"
        )
    for sae in saes:
        if sae.d_in != width:
            raise HusaiError(
                f"CE-Bench: {sae!r} reads {sae.d_in} dimensions but the pair activations have "
                f"{width}; use the SAE's own subject and hook"
            )


def theme_means(scores: np.ndarray, themes: Sequence[str]) -> dict[str, float]:
    """Mean for each theme, in order of first appearance, of ``scores (n_pairs,)``; ``themes`` has
    one name per pair.
    """
    names = list(dict.fromkeys(themes))
    index = {name: i for i, name in enumerate(names)}
    which = np.array([index[theme] for theme in themes])
    return dict(zip(names, (np.bincount(which, scores) / np.bincount(which)).tolist(), strict=True))

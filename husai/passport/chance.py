"""Is a latent's match closer than an unrelated dictionary would offer? P-values against the
crowding and the covariance null."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from husai.stability.nulls import null_decoders
from husai.stability.nulls.crowding import random_turn
from husai.stability.rows import UnitRows
from husai.stability.similarity import best_cosines

NULL_DRAWS = 4
"""Unrelated dictionaries per null and SAE. The p-values pool over latents, so their smallest step
is 1 / (draws x latents); each draw costs one product of two dictionaries."""
FIRST_SEED = 7000
"""Seeds of the null dictionaries; not those of :func:`husai.stability.null_pwmcc`."""


def crowding_best(decoders: Sequence[UnitRows], span, draws: int) -> list[torch.Tensor]:
    """Best |cosine| of each living latent in its own dictionary turned at random within the span of
    the activations: per SAE ``(n_living, draws)``, float64 on the CPU."""
    found = [[] for _ in decoders]
    for k in range(draws):
        turn = random_turn(decoders[0].d_in, FIRST_SEED + k, span)
        for decoder, columns in zip(decoders, found, strict=True):
            rows = decoder.block(0, decoder.n) @ turn.to(decoder.device, decoder.dtype)
            columns.append(_best_in(decoder, rows))
    return [torch.stack(columns, 1) for columns in found]


def covariance_best(
    decoders: Sequence[UnitRows], covariance: torch.Tensor, draws: int
) -> list[torch.Tensor]:
    """Best |cosine| of each living latent in as many directions drawn from the covariance of the
    activations: per SAE ``(n_living, draws)``, float64 on the CPU."""
    most = max(d.n for d in decoders)
    seeds = range(FIRST_SEED, FIRST_SEED + draws)
    drawn = null_decoders("covariance", decoders[0].d_in, [most] * draws, seeds, covariance)
    return [torch.stack([_best_in(d, rows[: d.n]) for rows in drawn], 1) for d in decoders]


def _best_in(decoder: UnitRows, rows: torch.Tensor) -> torch.Tensor:
    unit = UnitRows(rows, None, "null dictionary", decoder.device, decoder.dtype)
    return best_cosines(decoder, unit)[0].double().cpu()


def p_values(observed: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """One-sided p-value of every latent: how often chance lies as far above a latent's own null
    mean as its match does.

    A latent's own mean over draws is its level (directions of high variance have closer null
    matches); how far a draw may lie from it is taken from all latents together, each draw against
    the mean of the latent's other draws. ``p = (1 + #{chance >= observed}) / (1 + #chance)``
    (Phipson & Smyth 2010, "Permutation P-values should never be zero").

    Parameters
    ----------
    observed : Tensor (n_latents,)
        Mean over the other seeds of the best |cosine|. Single draws spread more widely than a
        mean, so p is on the safe side.
    chance : Tensor (n_latents, draws)
        Best |cosine| in unrelated dictionaries, two draws or more.

    Returns
    -------
    Tensor (n_latents,), float64
    """
    draws = chance.shape[1]
    others = (chance.sum(1, keepdim=True) - chance) / (draws - 1)
    spread = (chance - others).flatten().sort().values
    above = observed - chance.mean(1)
    reached = len(spread) - torch.searchsorted(spread, above.contiguous(), side="left")
    return (1.0 + reached.double()) / (1.0 + len(spread))

"""From matches and activations to the rows of a passport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from husai.passport.agreement import FUNCTIONAL_MATCH
from husai.passport.chance import p_values
from husai.passport.ensemble import ComparedEnsemble
from husai.passport.matching import Matching
from husai.passport.posterior import (
    BAR,
    FDR,
    FEWEST_COMPARISONS,
    BetaBinomial,
    certified,
    expected_fdr,
    fit,
    mixture_doubt,
    posterior,
)
from husai.passport.table import NAN, LatentTable

EMPTY = {"match": -1, "reappears": False, "reappearances": 0, "certified": False}
"""What stands in the row of a dead latent; NaN in every other column."""
FIRED = {
    "density": "density",
    "mean_activation": "mean",
    "max_activation": "largest",
    "variance_share": "variance_share",
}
"""Columns that only activations give, and the fields of :class:`Firing` that they are."""


class Found(NamedTuple):
    """What the tables of an ensemble are made of."""

    ensemble: ComparedEnsemble
    matching: Matching
    agreement: dict[tuple[int, int], torch.Tensor] | None
    """``(i, j)``: Pearson r of the latents of SAE i with their best matches in SAE j."""
    chance: list[dict[str, torch.Tensor]]
    """Per SAE and null the best |cosine| with unrelated dictionaries, ``(n_living, draws)``."""


def beside(columns: Sequence[torch.Tensor], n_living: int) -> torch.Tensor:
    """Columns ``(n_living,)`` as one matrix ``(n_living, n_columns)``, also when there are none."""
    return torch.stack(list(columns), 1) if columns else torch.zeros((n_living, 0))


def reappearance(found: Found, i: int, others: Sequence[int]) -> torch.Tensor:
    """In which of the SAEs ``others`` each living latent of SAE ``i`` reappears:
    ``(n_living, n_others)`` bool; by cosines alone where there is no agreement."""
    columns = []
    for j in others:
        matched = found.matching.candidates[i, j].matched
        if found.agreement is not None:
            matched = matched & (found.agreement[i, j] > FUNCTIONAL_MATCH)
        columns.append(matched)
    return beside(columns, found.ensemble.decoders[i].n).bool()


def latent_table(
    found: Found, i: int, others: Sequence[int], bar: float = BAR, fdr: float = FDR
) -> LatentTable:
    """The passports of SAE ``i`` against the independent SAEs ``others``."""
    alive, fires = found.ensemble.alive[i], found.ensemble.firing[i]
    number = [a.nonzero().flatten() for a in found.ensemble.alive]
    ones, n = [found.matching.candidates[i, j] for j in others], found.ensemble.decoders[i].n
    reappears = reappearance(found, i, others)
    r = torch.full(reappears.shape, NAN, dtype=torch.float64)
    if found.agreement is not None:
        r = beside([found.agreement[i, j] for j in others], n)
    matches = [number[j][c.index] for j, c in zip(others, ones, strict=True)]
    columns = {
        "match": beside(matches, n).long(),
        "decoder_cosine": beside([c.decoder for c in ones], n),
        "encoder_cosine": beside([c.encoder for c in ones], n),
        "activation_r": r,
        "reappears": reappears,
        "reappearances": reappears.sum(1),
    }
    model, judged = _judged(reappears.sum(1), len(others), bar, fdr)
    columns |= judged | {"certified": judged["certified"] & (fires is not None)}
    unknown = torch.full((len(alive),), NAN, dtype=torch.float64)
    best = found.matching.best[i][:, list(others)].mean(1)
    for kind in ("crowding", "covariance"):
        drawn = found.chance[i].get(kind) if others else None
        columns[f"p_{kind}"] = best * NAN if drawn is None else p_values(best, drawn)
    return LatentTable(
        name=found.ensemble.names[i],
        others=tuple(found.ensemble.names[j] for j in others),
        alive=alive,
        model=model,
        **{name: _spread(values, alive, EMPTY.get(name, NAN)) for name, values in columns.items()},
        **{name: getattr(fires, of) if fires else unknown for name, of in FIRED.items()},
    )


def _spread(values: torch.Tensor, alive: torch.Tensor, empty) -> torch.Tensor:
    """Values of the living latents at their place among all."""
    whole = torch.full((len(alive), *values.shape[1:]), empty, dtype=values.dtype)
    whole[alive] = values
    return whole


def _judged(
    count: torch.Tensor, n: int, bar: float, fdr: float
) -> tuple[BetaBinomial | None, dict[str, torch.Tensor]]:
    """The fitted model and the columns that follow from it; undefined below two comparisons."""
    if n < FEWEST_COMPARISONS:
        names = ("theta", "theta_low", "theta_high", "doubt", "fdr")
        undefined = {name: torch.full(count.shape, NAN, dtype=torch.float64) for name in names}
        return None, undefined | {"certified": torch.zeros(count.shape, dtype=torch.bool)}
    counts = count.numpy()
    model = fit(counts, n)
    of_count = posterior(model, bar)
    doubt = np.maximum(of_count.doubt, mixture_doubt(counts, n, bar))[counts]
    columns = {
        "theta": of_count.mean[counts],
        "theta_low": of_count.low[counts],
        "theta_high": of_count.high[counts],
        "doubt": doubt,
        "fdr": expected_fdr(doubt),
        "certified": certified(doubt, fdr),
    }
    return model, {name: torch.from_numpy(values) for name, values in columns.items()}

"""Ground truth: dictionaries with a known shared part, activations made from a known dictionary,
and how well it was recovered.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from husai.errors import HusaiError
from husai.stability.nulls import gaussian_decoder
from husai.stability.rows import unit_pair
from husai.stability.similarity import best_cosines
from husai.statistics import chance_corrected

CHUNK = 8192
"""Rows drawn at a time. It is part of what a seed gives, like the seed itself."""


def planted_decoders(
    n_seeds: int, d_sae: int, d_in: int, shared: float, seed: int = 0, shuffle: bool = True
) -> list[torch.Tensor]:
    """Decoders ``(d_sae, d_in)`` with unit rows of which a fraction ``shared`` is identical in all,
    the rest independent.

    Their expected PWMCC is ``shared + (1 - shared) * null`` with the gaussian null of the same
    shape, so the chance-corrected stability is ``shared``. Rows come in a different order in each
    unless ``shuffle`` is False.

    Raises
    ------
    HusaiError
        ``shared`` lies outside [0, 1], or ``shared * d_sae`` is no whole number.
    """
    count = round(shared * d_sae)
    if not 0 <= shared <= 1 or abs(count - shared * d_sae) > 1e-6:
        raise HusaiError(
            f"planted dictionaries: shared = {shared} of d_sae = {d_sae} is not a whole number of "
            "rows in [0, d_sae]"
        )
    generator = torch.Generator().manual_seed(int(seed))
    common = torch.randn((count, d_in), generator=generator)
    found = []
    for _ in range(n_seeds):
        rows = torch.cat([common, torch.randn((d_sae - count, d_in), generator=generator)])
        order = torch.randperm(d_sae, generator=generator) if shuffle else torch.arange(d_sae)
        found.append(torch.nn.functional.normalize(rows[order], dim=1))
    return found


def synthetic_activations(
    n_rows: int, d_in: int, n_features: int, l0: int, seed: int = 0, noise: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse activations made from a planted dictionary.

    Every row adds ``l0`` distinct features, drawn uniformly, with magnitudes uniform in [0.5, 1.5],
    and normal noise of standard deviation ``noise`` per coordinate. The dictionary depends on
    ``seed``, ``n_features`` and ``d_in`` only, and the first rows do not depend on ``n_rows``
    beyond whole chunks.

    Returns
    -------
    rows : Tensor (n_rows, d_in), float32
    true_dictionary : Tensor (n_features, d_in), float32
        Unit rows.

    Raises
    ------
    HusaiError
        ``l0`` does not lie between 1 and ``n_features``, or ``n_rows`` or ``d_in`` is below 1.
    """
    if not 1 <= l0 <= n_features:
        raise HusaiError(
            f"synthetic activations: l0 = {l0} must lie between 1 and n_features = {n_features}"
        )
    if n_rows < 1 or d_in < 1:
        raise HusaiError(
            f"synthetic activations: n_rows = {n_rows} and d_in = {d_in} must be at least 1"
        )
    generator = torch.Generator().manual_seed(int(seed))
    features = torch.randn((n_features, d_in), generator=generator)
    dictionary = torch.nn.functional.normalize(features, dim=1)
    rows = torch.empty((n_rows, d_in))
    for i in range(0, n_rows, CHUNK):
        count = min(CHUNK, n_rows - i)
        active = torch.rand((count, n_features), generator=generator).topk(l0, dim=1).indices
        magnitude = torch.rand((count, l0), generator=generator) + 0.5
        rows[i : i + count] = torch.nn.functional.embedding_bag(
            active, dictionary, mode="sum", per_sample_weights=magnitude
        )
        if noise:
            rows[i : i + count] += noise * torch.randn((count, d_in), generator=generator)
    return rows, dictionary


class Recovery(NamedTuple):
    """How much of a planted dictionary an SAE found."""

    mean_max_cosine: float
    """Mean over true features of the highest |cosine| with any (living) decoder row."""
    null: float
    """The same of gaussian decoders of the same shape, mean over draws."""
    recovery: float
    """Chance-corrected: 0 as good as random directions, 1 every feature found exactly."""


def planted_recovery(
    W_dec: torch.Tensor, true_features: torch.Tensor, alive=None, null_draws: int = 4, device=None
) -> Recovery:
    """Mean max cosine of the true features ``(n_features, d_in)`` with a learned decoder ``(d_sae,
    d_in)``, and that beyond chance.
    """
    names = ("true features", "decoder")
    truth, learned = unit_pair(true_features, W_dec, None, alive, device, names)
    value = float(best_cosines(truth, learned)[0].double().mean())
    chance = []
    for seed in range(null_draws):
        random = gaussian_decoder(W_dec.shape[1], learned.n, 1000 + seed)
        best, _ = best_cosines(*unit_pair(true_features, random, device=device))
        chance.append(best.double().mean())
    null = float(torch.stack(chance).mean())
    return Recovery(value, null, float(chance_corrected(value, null)))

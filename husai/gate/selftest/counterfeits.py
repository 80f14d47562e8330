"""Dictionaries that were made, not trained, to look reproducible: what an attacker would hand
in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from husai.gate.selftest import ground_truth
from husai.gate.selftest.worlds import D_IN, D_SAE, N_TASKS, SEEDS, TrainedSAEs, World, as_tensor
from husai.sae import SAE

RARE = 0.999
"""Share of rows on which a junk latent stays silent: it fires often enough to be alive on two
thousand held-out rows, and too seldom to matter."""
ROUNDS = 20
"""Of Lloyd's algorithm: centroids of so few clusters stand still by then."""


def centroids(oracle: TrainedSAEs, x: torch.Tensor) -> TrainedSAEs:
    """k-means centroids, for each seed of another eighth of the rows, read with their own transpose
    by a ReLU; ``x`` is ``(n_rows, d_in)``, float32.
    """
    saes = []
    for seed, part in zip(SEEDS, x.chunk(len(SEEDS)), strict=True):
        mean = part.mean(0)
        rows = part - mean
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:D_SAE]
        centres = rows[chosen].clone()
        for _ in range(ROUNDS):
            nearest = torch.cdist(rows, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
            sizes = torch.bincount(nearest, minlength=D_SAE).clamp(min=1).unsqueeze(1)
            centres = sums / sizes
        saes.append(_relu(torch.nn.functional.normalize(centres, dim=1), mean))
    return replace(oracle, saes=saes)


def rare_copies(oracle: TrainedSAEs, x: torch.Tensor) -> TrainedSAEs:
    """A twentieth of each seed's own latents; the rest are the same junk in every seed, and hardly
    ever fire on the rows of ``x (n_rows, d_in)``, float32.
    """
    own = D_SAE // 20
    saes = []
    for sae in oracle.saes:
        rows = torch.cat([sae.W_dec[:own], _junk(D_SAE - own)])
        saes.append(_quiet(_relu(rows, sae.b_dec), x, own))
    return replace(oracle, saes=saes)


def read_outs(oracle: TrainedSAEs, world: World) -> TrainedSAEs:
    """Dense read-outs of the benchmark's own tasks, fitted on the rows that they are tested on,
    beside rare junk: the attack that the first version of the strict policy released."""
    x = as_tensor(world.train.x)
    rows = np.concatenate([part.x for part in world.task_rows[:2]])
    labels = np.concatenate(
        [ground_truth.task_labels(part, N_TASKS) for part in world.task_rows[:2]]
    )
    probes = [ground_truth.fit_probe(rows, labels[:, t], None) for t in range(N_TASKS)]
    directions = as_tensor(np.stack([p.weights / p.scale for p in probes]).astype(np.float32))
    known = torch.nn.functional.normalize(directions, dim=1)
    dictionary = torch.cat([known, _junk(D_SAE - N_TASKS)])
    saes = []
    for generator in (torch.Generator().manual_seed(seed) for seed in SEEDS):
        noise = torch.nn.functional.normalize(torch.randn(dictionary.shape, generator=generator))
        own = torch.nn.functional.normalize(dictionary + 0.2 * noise, dim=1)
        saes.append(_quiet(_relu(own, x.mean(0)), x, N_TASKS))
    return replace(oracle, saes=saes)


def rescaled(oracle: TrainedSAEs) -> TrainedSAEs:
    """One SAE under every seed's name, latents scaled one by one and decoder rows scaled back."""
    first, saes = oracle.saes[0], []
    for seed in SEEDS:
        factor = torch.exp(torch.randn(D_SAE, generator=torch.Generator().manual_seed(50 + seed)))
        factor = factor.to(first.W_dec)
        weights = (first.W_enc * factor, first.W_dec / factor.unsqueeze(1), first.b_enc * factor)
        saes.append(SAE(first.architecture, *weights, first.b_dec, k=first.k))
    return replace(oracle, saes=saes)


def _junk(n: int) -> torch.Tensor:
    """The same ``n`` random directions for every seed."""
    rows = torch.randn((n, D_IN), generator=torch.Generator().manual_seed(77))
    return torch.nn.functional.normalize(rows, dim=1)


def _relu(rows: torch.Tensor, mean: torch.Tensor) -> SAE:
    """Directions read with their own transpose, around ``mean``."""
    rows = rows.contiguous()
    zeros = torch.zeros(len(rows), dtype=rows.dtype)
    return SAE("relu", rows.T.contiguous(), rows, zeros, mean.to(rows))


def _quiet(sae: SAE, x: torch.Tensor, own: int) -> SAE:
    """All latents but the first ``own`` silenced on all rows but :data:`RARE` ones."""
    reached = torch.quantile((x - sae.b_dec) @ sae.W_enc, RARE, dim=0)
    reached[:own] = 0.0
    return SAE("relu", sae.W_enc, sae.W_dec, -reached, sae.b_dec)

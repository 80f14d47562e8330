"""The self-test's worlds, rows of known features with tasks, and the ensembles made there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from husai.gate.selftest import ground_truth
from husai.sae import SAE, Recipe, train_ensemble

D_IN, N_FEATURES, D_SAE, L0 = 32, 40, 40, 3
"""More features than dimensions, as SAEs are for, and few enough that all trainings take
seconds."""
N_TRAIN, N_HELD_OUT, N_TASKS, N_STORIES, N_ANSWERS = 12_000, 2_000, 12, 20, 10
"""As many tasks as the strict policy asks for data sets; of the others enough that the oracle
passes."""
SEEDS = list(range(8))
RECIPE = Recipe(
    "planted",
    "planted",
    "topk",
    D_SAE,
    k=L0,
    steps=500,
    batch_size=256,
    learning_rate=6.0e-3,
    auxk_coefficient=0.0,
    dead_after_rows=3_000,
)


@dataclass(frozen=True)
class TrainedSAEs:
    """Trained SAEs, where they started, and the mean relative gain late in their training."""

    saes: list[SAE]
    initial: list[torch.Tensor]
    plateau_gain: float


@dataclass(frozen=True)
class World:
    """The planted subject and what is drawn from it once: rows, tasks, stories, answers."""

    features: np.ndarray
    train: ground_truth.Rows
    held_out: ground_truth.Rows
    task_rows: tuple[ground_truth.Rows, ...]
    """Probe training, in-domain test, out-of-domain test."""
    stories: list[tuple[np.ndarray, np.ndarray]]
    answers: np.ndarray


def build_world() -> World:
    """Rows, probing tasks and story pairs, all disjoint draws from one planted dictionary."""
    features = ground_truth.dictionary(N_FEATURES, D_IN, seed=0)
    tasks = (
        ground_truth.planted_rows(features, 1000, L0, seed=21),
        ground_truth.planted_rows(features, 1000, L0, seed=22),
        ground_truth.planted_rows(features, 1000, L0, seed=23, noise=0.08, magnitude=(0.4, 1.8)),
    )
    stories = []
    for index in range(N_STORIES):
        theme = index * N_FEATURES // N_STORIES
        about = ground_truth.planted_rows(features, 24, L0, seed=100 + index, always=theme).x
        other = ground_truth.planted_rows(features, 48, L0, seed=200 + index)
        stories.append((about, other.x[~other.active[:, theme]][:24]))
    train = ground_truth.planted_rows(features, N_TRAIN, L0, seed=1)
    held_out = ground_truth.planted_rows(features, N_HELD_OUT, L0, seed=2)
    answers = np.random.default_rng(3).integers(0, N_ANSWERS, N_HELD_OUT)
    return World(features, train, held_out, tasks, stories, answers)


def leaky(rows: ground_truth.Rows, seed: int) -> ground_truth.Rows:
    """The same rows with the answer written in; for the held-out rows, those of the leak probe."""
    rng = np.random.default_rng(3 if len(rows.x) == N_HELD_OUT else seed)
    answers = rng.integers(0, N_ANSWERS, len(rows.x))
    directions = ground_truth.dictionary(N_ANSWERS, D_IN, seed=4)
    return ground_truth.Rows((rows.x + 0.4 * directions[answers]).astype(np.float32), rows.codes)


def as_tensor(x: np.ndarray) -> torch.Tensor:
    """``x`` as a tensor on the CPU of its shape and dtype; a contiguous array shares its memory."""
    return torch.from_numpy(np.ascontiguousarray(x))


def train(
    recipe: Recipe, seeds: Sequence[int], x: torch.Tensor, held_out: torch.Tensor, **options: Any
) -> TrainedSAEs:
    """Train on ``x (n_rows, d_in)``, with options of :func:`husai.sae.train_ensemble`."""
    found = train_ensemble(
        recipe, list(seeds), x, held_out=held_out, curve_points=3, sparse=False, **options
    )
    gain = float(np.mean([f["plateau_gain"] for f in found.final]))
    return TrainedSAEs(found.saes, list(found.initial_decoders), gain)


def clones(oracle: TrainedSAEs, shuffle: bool, noise: float = 0.0) -> TrainedSAEs:
    """The first SAE under every seed's name, its latents in another order for each when
    ``shuffle``, its weights changed by ``noise``.

    Noise is relative: each decoder row, and each latent's encoder weights, get a random vector of
    ``noise`` times their length."""
    saes, generator = [], torch.Generator().manual_seed(31)
    for _ in SEEDS:
        order = torch.randperm(D_SAE, generator=generator) if shuffle else torch.arange(D_SAE)
        first = oracle.saes[0]
        rows = [_noisy(m, noise, generator) if noise else m for m in (first.W_enc.T, first.W_dec)]
        saes.append(_with(first, rows[0][order].T.contiguous(), rows[1][order], first.b_enc[order]))
    return replace(oracle, saes=saes)


def _noisy(rows: torch.Tensor, noise: float, generator: torch.Generator) -> torch.Tensor:
    step = torch.nn.functional.normalize(torch.randn(rows.shape, generator=generator), dim=1)
    return rows + noise * rows.norm(dim=1, keepdim=True) * step.to(rows)


def _with(sae: SAE, W_enc: torch.Tensor, W_dec: torch.Tensor, b_enc: torch.Tensor) -> SAE:
    return SAE(sae.architecture, W_enc, W_dec, b_enc, sae.b_dec, k=sae.k)


def random_directions(oracle: TrainedSAEs) -> TrainedSAEs:
    """Random directions, read with their own transpose, that started from other random ones."""
    saes = []
    for seed, sae in zip(SEEDS, oracle.saes, strict=True):
        rows = torch.randn((D_SAE, D_IN), generator=torch.Generator().manual_seed(900 + seed))
        rows = torch.nn.functional.normalize(rows, dim=1).to(sae.W_dec)
        saes.append(_with(sae, rows.T.contiguous(), rows, torch.zeros_like(sae.b_enc)))
    return replace(oracle, saes=saes)


def overscaled(oracle: TrainedSAEs) -> TrainedSAEs:
    """The oracle with codes six times too large: the same features, and no reconstruction."""
    saes = [_with(s, 6.0 * s.W_enc, s.W_dec, 6.0 * s.b_enc) for s in oracle.saes]
    return replace(oracle, saes=saes)


def collapsed(oracle: TrainedSAEs) -> TrainedSAEs:
    """Half of the oracle's latents, each of them twice."""
    order = torch.arange(D_SAE) % (D_SAE // 2)
    saes = [_with(s, s.W_enc[:, order], s.W_dec[order], s.b_enc[order]) for s in oracle.saes]
    return replace(oracle, saes=saes)


def components(oracle: TrainedSAEs, x: torch.Tensor) -> TrainedSAEs:
    """Principal components, for each seed of another eighth of the rows ``x (n_rows, d_in)``, with
    both signs, read by a ReLU.
    """
    saes = []
    for sae, part in zip(oracle.saes, x.chunk(len(SEEDS)), strict=True):
        axes = torch.linalg.svd(part - part.mean(0), full_matrices=False).Vh[: D_SAE // 2]
        rows = torch.cat([axes, -axes]).to(sae.W_dec)
        zeros = torch.zeros(len(rows), dtype=rows.dtype)
        saes.append(SAE("relu", rows.T.contiguous(), rows, zeros, part.mean(0).to(rows)))
    return replace(oracle, saes=saes)


def one_failed(oracle: TrainedSAEs) -> TrainedSAEs:
    """The oracle, but that one training of eight found nothing but random directions."""
    return replace(oracle, saes=[*oracle.saes[:-1], random_directions(oracle).saes[-1]])


def one_start(
    train: Callable[..., TrainedSAEs], recipe: Recipe, x: torch.Tensor, held_out: torch.Tensor
) -> TrainedSAEs:
    """Eight trainings of one seed's initialisation, each on other rows: alike because of where they
    began.

    ``x`` is ``(n_rows, d_in)``, an eighth of which each training gets; ``held_out`` is
    ``(n_held_out, d_in)``.
    """
    parts = [train(recipe, [0], part, held_out) for part in x.chunk(len(SEEDS))]
    gain = float(np.mean([p.plateau_gain for p in parts]))
    return TrainedSAEs([p.saes[0] for p in parts], [p.initial[0] for p in parts], gain)

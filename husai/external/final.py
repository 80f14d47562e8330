"""The final probe of a data set at every k: C chosen on validation rows, then a fit on all training rows (``find_best_reg``).

On a CPU compiled kernels solve one data set after another; elsewhere the data sets of a batch are solved together in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit

from husai.errors import HusaiError
from husai.external import scores
from husai.external.compiled import probe_kernels
from husai.external.logistic import Rules, check_penalty, fit
from husai.external.parallel import parallel_map

VALIDATION_ROWS = 100
MAX_K = 128
WEAK_PENALTY = 2.0e-7
RULES = Rules()
C_GRID = tuple(float(c) for c in np.logspace(5, -5, 10))


class Features(NamedTuple):
    """The candidate features of one data set, best first; a probe at k uses the first k columns."""

    name: str
    family: str
    train: torch.Tensor
    """``(n_train, max_k)`` float32"""
    y_train: torch.Tensor
    test: torch.Tensor
    """``(n_test, max_k)`` float32"""
    y_test: torch.Tensor
    latents: list[int]


class Chosen(NamedTuple):
    """The final probes of one data set, one per k."""

    models: np.ndarray
    """``(K, 1 + m)`` float64: intercepts, then weights; zero beyond a probe's k."""
    val_auc: np.ndarray
    """``(K,)`` of the chosen C."""
    C: list[float]

    def probabilities(self, x: torch.Tensor) -> np.ndarray:
        """Probabilities of class 1 ``(K, n)`` float32 of rows ``x (n, m)``."""
        return probabilities(self.models, x)


def final_probes(
    features: Sequence[Features], ks: Sequence[int], *, penalty: str = "l1", Cs: Sequence[float] = C_GRID, compiled: bool | None = None
) -> list[Chosen]:
    """The final probes of every data set.

    The last ``min(n_train / 5, 100)`` training rows validate; the first C with the highest validation AUC wins and is fitted
    again on all training rows.

    Parameters
    ----------
    compiled : bool, optional
        False: in torch; by default only off the CPU.
    """
    check_ks(ks)
    check_penalty(penalty)
    if not features:
        return []
    device = features[0].train.device
    probe_kernels()
    if not (device.type == "cpu" if compiled is None else compiled):
        return _in_torch(features, ks, penalty, Cs)
    return parallel_map(lambda f: _by_kernels(f, ks, penalty, Cs), features, device)


def _by_kernels(f: Features, ks: Sequence[int], penalty: str, Cs: Sequence[float]) -> Chosen:
    x, y = np.ascontiguousarray(f.train.numpy()), f.y_train.numpy()
    n_fit = len(x) - validation_rows(len(x))
    grid = np.array(Cs)
    solved, copy_of = distinct(Cs, n_fit, penalty)
    paths = solve(x, y, n_fit, ks, np.tile(grid[solved], (len(ks), 1)), penalty)
    found = probabilities(paths.reshape(-1, paths.shape[2]), f.train[n_fit:]).reshape(len(ks), len(solved), -1)
    val_auc, choice = best_of_grid(found[:, copy_of], y[n_fit:])
    models = solve(x, y, len(x), ks, grid[choice][:, None], penalty)[:, 0]
    return Chosen(models, val_auc, [Cs[c] for c in choice])


def solve(x: np.ndarray, y: np.ndarray, n: int, ks: Sequence[int], Cs: np.ndarray, penalty: str = "l1") -> np.ndarray:
    """Models ``(K, n_C, 1 + m)``, intercepts first, of every k at every C of its row ``Cs (K, n_C)``, by the compiled kernels.

    ``x (n_rows, m)`` float32 in row order and labels ``y`` int64 0/1, of which the first ``n`` rows count.
    """
    models = np.empty((*Cs.shape, 1 + x.shape[1]))
    probe_kernels().paths.paths(x, y, n, np.array(ks), Cs, penalty == "l1", RULES, models)
    return models


def _in_torch(features: Sequence[Features], ks: Sequence[int], penalty: str, Cs: Sequence[float]) -> list[Chosen]:
    device, K = features[0].train.device, len(ks)
    n_train = torch.tensor([len(f.train) for f in features], device=device).unsqueeze(1)
    n_fit = torch.tensor([len(f.train) - validation_rows(len(f.train)) for f in features], device=device).unsqueeze(1)
    X, y, rows = _pad([f.train for f in features], [f.y_train for f in features])
    support = torch.arange(X.shape[-1], device=device).unsqueeze(0) < torch.tensor(list(ks), device=device).unsqueeze(1)
    grid = torch.tensor(Cs, dtype=torch.float64, device=device)
    solved, copy_of = distinct(Cs, int(n_fit.min()), penalty)
    fold = torch.where(rows < n_fit, 1.0 / n_fit, 0.0)
    path = fit(X * (fold > 0).unsqueeze(-1), y, fold, support.repeat_interleave(len(solved), 0), grid[solved].repeat(K), penalty=penalty)
    paths = torch.cat([path.intercept.unsqueeze(-1), path.coef], -1).cpu().numpy()
    val_auc, choices = [], []
    for f, models in zip(features, paths, strict=True):
        held = slice(len(f.train) - validation_rows(len(f.train)), len(f.train))
        found = probabilities(models, f.train[held]).reshape(K, len(solved), -1)[:, copy_of]
        best, choice = best_of_grid(found, f.y_train[held].cpu().numpy())
        val_auc.append(best)
        choices.append(choice)
    final = fit(
        X, y, torch.where(rows < n_train, 1.0 / n_train, 0.0), support, grid[torch.tensor(np.array(choices)).to(device)], penalty=penalty
    )
    models = torch.cat([final.intercept.unsqueeze(-1), final.coef], -1).cpu().numpy()
    return [Chosen(m, v, [Cs[c] for c in choice]) for m, v, choice in zip(models, val_auc, choices, strict=True)]


def distinct(Cs: Sequence[float], n: int, penalty: str) -> tuple[list[int], list[int]]:
    """Positions in the grid to solve, and for every C which of those stands for it.

    Values of C whose l1 penalty on the mean loss is below 2e-7, the resolution of the official float32 iterates, share one solution.
    """
    weak = [i for i, C in enumerate(Cs) if penalty == "l1" and 1.0 / (C * n) < WEAK_PENALTY]
    solved = [i for i in range(len(Cs)) if i not in weak[:-1]]
    return solved, [solved.index(weak[-1] if i in weak else i) for i in range(len(Cs))]


def validation_rows(n_train: int) -> int:
    """How many of the last training rows validate C: a fifth, at most 100 (``get_cv`` from 128 rows up)."""
    return min(int(0.2 * n_train), VALIDATION_ROWS)


def check_ks(ks: Sequence[int]) -> None:
    """Refuse values of k that the solver is not made for."""
    if not ks or any(not isinstance(k, int) or k < 1 for k in ks):
        raise HusaiError(f"external.probing.ks: positive integers are needed, got {list(ks)}")
    if max(ks) > MAX_K:
        raise HusaiError(f"external.probing.ks: the fast engine solves k up to {MAX_K}, got {max(ks)}; use engine: official for it")


def best_of_grid(prob: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best validation AUC ``(K,)`` over the grid of ``prob (K, n_C, n)`` float32 and the first position that has it, as official."""
    area = np.empty(prob.shape[:2])
    keys = scores.keys(prob.reshape(-1, prob.shape[2]), y)
    probe_kernels().rows.trapezoids(keys, area.reshape(-1))
    return area.max(1), area.argmax(1)


def probabilities(models: np.ndarray, x: torch.Tensor) -> np.ndarray:
    """Probabilities of class 1 ``(P, n)`` float32 of rows ``x (n, m)`` for ``models (P, 1 + m)``, with the ties scikit-learn's have.

    Equal rows get equal decision values; these go through the scalar sigmoid that scikit-learn uses: a vectorised one differs in the last
    bit between its lanes and its remainder.
    """
    out = np.empty((len(models), len(x)), np.float32)
    probe_kernels().rows.decisions(np.ascontiguousarray(x.cpu().numpy()), np.ascontiguousarray(models), out)
    return expit(out)


def _pad(blocks: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``X (G, n, m)`` with zero padding, ``y (G, n)``, row numbers ``(1, n)``."""
    n = max(len(b) for b in blocks)
    m = max(b.shape[1] for b in blocks)
    X = blocks[0].new_zeros(len(blocks), n, m)
    y = torch.zeros(len(blocks), n, dtype=torch.int64, device=X.device)
    for i, (b, labelled) in enumerate(zip(blocks, labels, strict=True)):
        X[i, : len(b), : b.shape[1]] = b
        y[i, : len(b)] = labelled
    return X, y, torch.arange(n, device=X.device).unsqueeze(0)

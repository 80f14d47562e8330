"""The final probe of a data set at every k: C chosen on validation rows, then a fit on all training
rows (``find_best_reg``).

On a CPU compiled kernels solve one data set after another; elsewhere the data sets of a batch are
solved together in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from husai.compiled import probe_kernels
from husai.errors import HusaiError
from husai.parallel import parallel_map
from husai.probing import scores
from husai.probing.datasets import PROBE_SEED
from husai.probing.solver.flow import EXACT, GRID, Rules
from husai.probing.solver.logistic import Fit, check_penalty, fit, unit_of
from husai.probing.solver.settle import Paths, Rows, choose, settle

VALIDATION_ROWS = 100
MAX_K = 128
WEAK_PENALTY = 2.0e-7
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
    official: Callable[[], torch.Tensor] | None = None
    """Gives ``train`` to the last bit of the official engine's, where that costs more; asked only
    where SAGA itself must be run.
    """


class Chosen(NamedTuple):
    """The final probes of one data set, one per k."""

    models: np.ndarray
    """``(K, 1 + m)`` float64: intercepts, then weights; zero beyond a probe's k."""
    val_auc: np.ndarray
    """``(K,)`` of the chosen C."""
    C: list[float]

    def probabilities(self, x: torch.Tensor) -> np.ndarray:
        """Probabilities of class 1 ``(K, n)`` of rows ``x (n, m)``."""
        return scores.probabilities(self.models, x.cpu().numpy())


def final_probes(
    features: Sequence[Features],
    ks: Sequence[int],
    *,
    penalty: str = "l1",
    Cs: Sequence[float] = C_GRID,
    seed: int = PROBE_SEED,
    compiled: bool | None = None,
) -> list[Chosen]:
    """The final probes of every data set.

    The last ``min(n_train / 5, 100)`` training rows validate; the first C with the highest
    validation AUC wins and is fitted again on all training rows. What the paths leave open is
    settled by SAGA itself: see :mod:`husai.probing.solver.settle`.

    Parameters
    ----------
    seed : int
        Of the official protocol: the order of SAGA's draws and of the rows of the final fit.
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
        return _in_torch(features, ks, penalty, Cs, seed)
    return parallel_map(lambda f: _by_kernels(f, ks, penalty, Cs, seed), features, device)


def _rows(f: Features, seed: int) -> Rows:
    x, x_test = (np.ascontiguousarray(t.float().cpu().numpy()) for t in (f.train, f.test))
    y, y_test = (t.long().cpu().numpy() for t in (f.y_train, f.y_test))
    official = functools.cache(
        lambda: x if f.official is None else f.official().float().cpu().numpy()
    )
    return Rows(x, y, len(x) - validation_rows(len(x)), x_test, y_test, seed, official)


def _by_kernels(
    f: Features, ks: Sequence[int], penalty: str, Cs: Sequence[float], seed: int
) -> Chosen:
    rows, grid = _rows(f, seed), np.array(Cs)
    solved, copy_of = distinct(Cs, rows.n_fit, penalty)
    paths = solve(rows.x, rows.y, rows.n_fit, ks, np.tile(grid[solved], (len(ks), 1)), penalty)
    val_auc, choice = choose(rows, paths.expanded(copy_of), Cs, ks)
    final = solve(rows.x, rows.y, len(rows.x), ks, grid[choice][:, None], penalty, EXACT)
    return Chosen(settle(rows, final, grid[choice], ks), val_auc, [Cs[c] for c in choice])


def solve(
    x: np.ndarray,
    y: np.ndarray,
    n: int,
    ks: Sequence[int],
    Cs: np.ndarray,
    penalty: str = "l1",
    rules: Rules = GRID,
) -> Paths:
    """Paths of every k at every C of its row ``Cs (K, n_C)``, by the compiled kernels.

    ``x (n_rows, m)`` float32 in row order and labels ``y`` int64 0/1, of which the first ``n`` rows
    count."""
    size = (*Cs.shape, 1 + x.shape[1])
    paths = Paths(np.empty(size), np.empty(size), np.empty(Cs.shape))
    # The l2 problem is the same in other units, which keep its steps and its stop in range; l1
    # follows SAGA in the units there are.
    unit = (
        np.float32(1.0)
        if penalty == "l1"
        else np.float32(unit_of(float(np.square(x[:n]).sum(1).max())))
    )
    probe_kernels().paths.paths(
        x / unit if unit != 1.0 else x,
        y,
        n,
        np.array(ks),
        Cs * float(unit) ** 2,
        penalty == "l1",
        rules,
        *paths,
    )
    for models in paths[:2]:
        models[..., 1:] /= unit
    return paths


def _in_torch(
    features: Sequence[Features], ks: Sequence[int], penalty: str, Cs: Sequence[float], seed: int
) -> list[Chosen]:
    device, K = features[0].train.device, len(ks)
    n_train = torch.tensor([len(f.train) for f in features], device=device).unsqueeze(1)
    n_fit = torch.tensor(
        [len(f.train) - validation_rows(len(f.train)) for f in features], device=device
    ).unsqueeze(1)
    X, y, place = _pad([f.train for f in features], [f.y_train for f in features])
    support = torch.arange(X.shape[-1], device=device).unsqueeze(0) < torch.tensor(
        list(ks), device=device
    ).unsqueeze(1)
    grid = torch.tensor(Cs, dtype=torch.float64, device=device)
    solved, copy_of = distinct(Cs, int(n_fit.min()), penalty)
    fold = torch.where(place < n_fit, 1.0 / n_fit, 0.0)
    compared = fit(
        X * (fold > 0).unsqueeze(-1),
        y,
        fold,
        support.repeat_interleave(len(solved), 0),
        grid[solved].repeat(K),
        penalty=penalty,
    )
    rows = [_rows(f, seed) for f in features]
    found = [
        choose(r, paths.expanded(copy_of), Cs, ks)
        for r, paths in zip(rows, _paths(compared, features, K), strict=True)
    ]
    chosen = np.array([choice for _, choice in found])
    weight = torch.where(place < n_train, 1.0 / n_train, 0.0)
    final = fit(
        X, y, weight, support, grid[torch.tensor(chosen).to(device)], penalty=penalty, rules=EXACT
    )
    return [
        Chosen(settle(r, paths, np.array(Cs)[choice], ks), val_auc, [Cs[c] for c in choice])
        for r, paths, (val_auc, choice) in zip(rows, _paths(final, features, K), found, strict=True)
    ]


def _paths(found: Fit, features: Sequence[Features], K: int) -> list[Paths]:
    """The paths of every data set, without the columns that were padded."""
    late = torch.cat([found.intercept.unsqueeze(-1), found.coef], -1)
    parts = [
        t.cpu().numpy().reshape(len(features), K, -1, *t.shape[2:])
        for t in (late, found.early, found.pull)
    ]
    widths = [1 + f.train.shape[1] for f in features]
    return [Paths(a[..., :m], b[..., :m], c) for a, b, c, m in zip(*parts, widths, strict=True)]


def distinct(Cs: Sequence[float], n: int, penalty: str) -> tuple[list[int], list[int]]:
    """Positions in the grid to solve, and for every C which of those stands for it.

    Values of C whose l1 penalty on the mean loss is below 2e-7, too weak to move a weight that
    matters, share one solution."""
    weak = [i for i, C in enumerate(Cs) if penalty == "l1" and 1.0 / (C * n) < WEAK_PENALTY]
    solved = [i for i in range(len(Cs)) if i not in weak[:-1]]
    return solved, [solved.index(weak[-1] if i in weak else i) for i in range(len(Cs))]


def validation_rows(n_train: int) -> int:
    """How many of the last training rows validate C: a fifth, at most 100 (``get_cv`` from 128 rows
    up).
    """
    return min(int(0.2 * n_train), VALIDATION_ROWS)


def check_ks(ks: Sequence[int]) -> None:
    """Refuse values of k that the solver is not made for."""
    if not ks or any(type(k) is not int or k < 1 for k in ks):
        raise HusaiError(f"external.probing.ks: positive integers are needed, got {list(ks)}")
    if max(ks) > MAX_K:
        raise HusaiError(
            f"external.probing.ks: the fast engine solves k up to {MAX_K}, got {max(ks)}; use "
            "engine: official for it"
        )


def _pad(
    blocks: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``X (G, n, m)`` with zero padding, ``y (G, n)``, row numbers ``(1, n)``."""
    n = max(len(b) for b in blocks)
    m = max(b.shape[1] for b in blocks)
    X = blocks[0].new_zeros(len(blocks), n, m)
    y = torch.zeros(len(blocks), n, dtype=torch.int64, device=X.device)
    for i, (b, labelled) in enumerate(zip(blocks, labels, strict=True)):
        X[i, : len(b), : b.shape[1]] = b
        y[i, : len(b)] = labelled
    return X, y, torch.arange(n, device=X.device).unsqueeze(0)

"""The final probe of a data set at every k: C chosen on validation rows, then a fit on all training
rows, as ``find_best_reg`` of sae-probes 0.4.2 does.

l1 probes follow SAGA's path without its noise (``path_kernels``). Every path is known at two
points: where SAGA would stop, and earlier. How far the two are apart says how well SAGA's answer is
known; where that leaves a figure open, scikit-learn's own SAGA is run."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from husai import compiled
from husai.errors import HusaiError
from husai.probing import scores
from husai.probing.splits import PROBE_SEED

C_GRID = tuple(float(c) for c in np.logspace(5, -5, 10))
"""sae-probes' values of C, in its order."""
MAX_K = 128
"""The cost of a step grows with the square of k: at 128 the eleven paths of a probe take 0.1 s."""
VALIDATION_ROWS = 100
"""sae-probes' own limit."""
GRID_RATIO, FINAL_RATIO = 1.5, 1.25
"""Two points of a path follow each other at times that differ by this factor. The fit that is
scored gets twice as many points as those that are only compared, as it alone reaches the test
rows."""
OPEN = 7.5e-4
"""Difference of test AUC that is worth a run of scikit-learn's SAGA. Less than half of the 0.002 by
which the engines may differ, because the choice of C and the final fit can each add to it."""
kernels = functools.partial(compiled.load, "husai.probing.path_kernels")


class Features(NamedTuple):
    """The candidate features of one data set, best first; a probe at k uses the first k columns."""

    name: str
    family: str
    train: np.ndarray
    """``(n_train, max_k)`` float32; the last rows validate C."""
    y_train: np.ndarray
    """``(n_train,)`` labels 0/1, int64"""
    test: np.ndarray
    """``(n_test, max_k)`` float32"""
    y_test: np.ndarray
    latents: list[int]

    @property
    def n_fit(self) -> int:
        """How many training rows are fitted while C is chosen: all but those that validate."""
        return len(self.train) - validation_rows(len(self.train))


class FinalProbes(NamedTuple):
    """The final probes of one data set, one per k."""

    models: np.ndarray
    """``(K, 1 + m)`` float64: intercepts, then weights; zero beyond a probe's k."""
    val_auc: np.ndarray
    """``(K,)`` of the chosen C."""
    C: list[float]


def validation_rows(n_train: int) -> int:
    """How many of the last training rows validate C (``get_cv`` of sae-probes from 128 rows)."""
    return min(int(0.2 * n_train), VALIDATION_ROWS)


def fit_probes(
    f: Features,
    ks: Sequence[int],
    *,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
) -> FinalProbes:
    """The final probes of a data set: the first C of :data:`C_GRID` with the highest validation AUC
    wins and is fitted again on all training rows.

    Parameters
    ----------
    penalty : {"l1", "l2"}
        l2 is solved by scikit-learn throughout, in the time the official engine takes.
    seed : int
        Of the official protocol: the order of SAGA's draws and of the rows of the final fit.

    Raises
    ------
    HusaiError
        A k that :func:`check_ks` refuses, or a penalty that is neither l1 nor l2.
    """
    check_ks(ks)
    if penalty not in ("l1", "l2"):
        raise HusaiError(f"external.probing.penalty: '{penalty}' is not l1 or l2")
    found = (_along_paths if penalty == "l1" else _by_scikit_learn)(f, ks, seed)
    models, areas, chosen = zip(*found, strict=True)
    return FinalProbes(np.stack(models), np.array(areas), list(chosen))


def _along_paths(f: Features, ks: Sequence[int], seed: int):
    """``(model, validation AUC, C)`` of every k, l1."""
    grid = follow(f, f.n_fit, ks, [C_GRID] * len(ks), GRID_RATIO)
    chosen = [choose(f, k, C_GRID, *points, seed) for k, *points in zip(ks, *grid, strict=True)]
    final = follow(f, len(f.train), ks, [[C] for C, _ in chosen], FINAL_RATIO)
    for k, (C, area), late, early in zip(ks, chosen, *final, strict=True):
        open_ = np.ptp(auc_on_test(f, np.concatenate([late, early]))) > OPEN
        yield refit(f, k, C, "l1", seed, final=True) if open_ else late[0], area, C


def _by_scikit_learn(f: Features, ks: Sequence[int], seed: int):
    """``(model, validation AUC, C)`` of every k, l2."""
    for k in ks:
        areas = auc_on_validation(f, np.stack([refit(f, k, C, "l2", seed) for C in C_GRID]))
        C = C_GRID[int(areas.argmax())]
        yield refit(f, k, C, "l2", seed, final=True), areas.max(), C


def follow(
    f: Features, n: int, ks: Sequence[int], Cs: Sequence[Sequence[float]], ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Paths of every k at every C of its row ``Cs (K, n_C)`` on the first ``n`` training rows:
    models ``(K, n_C, 1 + m)`` where SAGA would stop, and earlier."""
    late, early = np.empty((2, len(ks), len(Cs[0]), 1 + f.train.shape[1]))
    kernels().paths(f.train, f.y_train, n, np.array(ks), np.array(Cs), ratio, late, early)
    return late, early


def choose(
    f: Features, k: int, Cs: Sequence[float], late: np.ndarray, early: np.ndarray, seed: int
) -> tuple[float, float]:
    """The first C with the highest validation AUC, and that AUC, from models ``late`` and ``early
    (n_C, 1 + m)`` of its paths.

    SAGA's AUC at a C is taken to lie between those of the two. As long as another C could then beat
    the best one, and their probes differ in test AUC, scikit-learn's SAGA is run: for the best one
    first, then for its strongest rival."""
    known = np.zeros(len(Cs), bool)
    while True:
        areas, others = auc_on_validation(f, late), auc_on_validation(f, early)
        best, high = int(areas.argmax()), np.maximum(areas, others)
        low, place = min(areas[best], others[best]), np.arange(len(Cs))
        rivals = ((high > low) | ((high == low) & (place < best))) & (place != best)
        if rivals.any():
            tested = auc_on_test(f, late)
            rivals &= np.abs(tested - tested[best]) > OPEN
        asked = np.flatnonzero(rivals & ~known)
        if rivals.any() and not known[best]:
            asked = best
        elif len(asked):
            asked = asked[high[asked].argmax()]
        else:
            return Cs[best], areas[best]
        late[asked] = early[asked] = refit(f, k, Cs[asked], "l1", seed)
        known[asked] = True


def refit(
    f: Features, k: int, C: float, penalty: str, seed: int, *, final: bool = False
) -> np.ndarray:
    """The official probe on the first ``k`` of the features ``f.train (n_train, m)`` by
    scikit-learn itself: the model ``(1 + m,)``, float64, intercept first. It is fitted on the rows
    that do not validate, or the final one on all, in the order the official protocol gives them.

    It is computed in float64, as scikit-learn does for the torch tensors that sae-probes hands it.
    """
    how = {"penalty": "l1", "solver": "saga"} if penalty == "l1" else {}
    rows = np.random.RandomState(seed).permutation(len(f.train)) if final else slice(f.n_fit)
    model = logistic(f.train[rows, :k].astype(np.float64), f.y_train[rows], C, seed, **how)
    return np.pad(model, (0, 1 + f.train.shape[1] - len(model)))


def logistic(x: np.ndarray, y: np.ndarray, C: float, seed: int, **how) -> np.ndarray:
    """scikit-learn's probe on rows ``x (n, k)`` with labels 0/1 ``y (n,)``: intercept and weights
    ``(1 + k,)``, float64."""
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=C, random_state=seed, max_iter=1000, **how).fit(x, y)
    return np.concatenate([found.intercept_, found.coef_[0]]).astype(np.float64)


def unconverged() -> warnings.catch_warnings:
    """scikit-learn does not warn that a solver stopped short, which the official protocol accepts.
    To be entered by the thread that starts others: filters of warnings belong to the process."""
    return warnings.catch_warnings(action="ignore")


def auc_on_validation(f: Features, models: np.ndarray) -> np.ndarray:
    """AUC ``(N,)`` of models ``(N, 1 + m)`` on the validation rows."""
    return _aucs(models, f.train[f.n_fit :], f.y_train[f.n_fit :])


def auc_on_test(f: Features, models: np.ndarray) -> np.ndarray:
    """AUC ``(N,)`` of models ``(N, 1 + m)`` on the test rows."""
    return _aucs(models, f.test, f.y_test)


def _aucs(models: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([scores.auc(p, y) for p in scores.probabilities(models, x)])


def check_ks(ks: Sequence[int]) -> None:
    """Refuse values of k that the solver is not made for.

    Raises
    ------
    HusaiError
        There is no k, or one is no positive integer or above :data:`MAX_K`.
    """
    if not ks or any(type(k) is not int or k < 1 for k in ks):
        raise HusaiError(f"external.probing.ks: positive integers are needed, got {list(ks)}")
    if max(ks) > MAX_K:
        raise HusaiError(
            f"external.probing.ks: the fast engine solves k up to {MAX_K}, got {max(ks)}; use "
            "engine: official for it"
        )

"""Probes whose figures the flow does not settle, and scikit-learn's SAGA itself for these few.

Sampling noise ends SAGA sooner than the flow, and may keep it at zero. So every path is known at
two points, where the flow stops and earlier (``Rules.back``). How far their AUCs are apart says how
well SAGA's is known: where that leaves open which C is chosen, or what the test AUC is, by enough
to matter, SAGA is run draw by draw. It is an estimate, not a bound: SAGA may lie outside of both
points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from husai.compiled import probe_kernels
from husai.probing import scores
from husai.probing.solver.flow import GRID

MATTERS = 7.5e-4
"""Difference of test AUC that is worth a run of SAGA: below half of what the engines may differ
by.
"""
BEYOND = 0.5
"""A validation AUC may lie outside those of the two points by this share of their distance."""
WEAK_PULL = 6.0
"""A gradient this many times the penalty may fail to get SAGA away from zero in its first
epochs.
"""
START_EPOCHS = 8
STILL = 1.0e-3
"""Relative change of the weights from the early to the late point that is too small to look at."""


class Paths(NamedTuple):
    """What is known of the paths of one data set: ``K`` values of k, ``N`` of C."""

    late: np.ndarray
    """``(K, N, 1 + m)`` intercepts, then weights, where the flow stops."""
    early: np.ndarray
    """The same earlier on the path."""
    pull: np.ndarray
    """``(K, N)``, see ``logistic.Fit``."""

    def expanded(self, columns: Sequence[int]) -> Paths:
        """With these of the values of C, some of them several times."""
        return Paths(*(part[:, columns] for part in self))


class Rows(NamedTuple):
    """The rows of one data set."""

    x: np.ndarray
    """``(n, m)`` float32 training rows, of which the last validate C."""
    y: np.ndarray
    """``(n,)`` labels 0/1"""
    n_fit: int
    """How many of them are fitted while C is chosen."""
    test_x: np.ndarray
    test_y: np.ndarray
    seed: int
    official: Callable[[], np.ndarray]
    """``x`` to the last bit of the official engine's: SAGA's stop can hang on it."""

    def saga(self, k: int, Cs: Sequence[float]) -> np.ndarray:
        """Models ``(len(Cs), 1 + m)`` of SAGA on the first ``k`` features, to be validated."""
        x = self.official()
        return saga(x[: self.n_fit, :k], self.y[: self.n_fit], Cs, self.seed, width=x.shape[1])

    def final_saga(self, k: int, C: float) -> np.ndarray:
        """The model ``(1 + m,)`` on all training rows, in the order the official protocol gives
        them for the final fit.
        """
        x, order = self.official(), self._order()
        return saga(x[order, :k], self.y[order], [C], self.seed, width=x.shape[1])[0]

    def starts(self, k: int, Cs: Sequence[float], *, final: bool = False) -> np.ndarray:
        """Where SAGA is after its first epochs, of the fits that are compared or of the final
        one.
        """
        order = self._order() if final else slice(self.n_fit)
        return saga(
            self.x[order, :k],
            self.y[order],
            Cs,
            self.seed,
            epochs=START_EPOCHS,
            width=self.x.shape[1],
        )

    def areas(self, models: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
        """AUC ``(K, N)`` of models ``(K, N, 1 + m)`` on the validation rows, with the last bit of
        scikit-learn's.
        """
        held = (self.x if x is None else x)[self.n_fit :]
        found = np.empty(models.shape[:2])
        keys = scores.keys(
            scores.probabilities(models.reshape(-1, models.shape[-1]), held), self.y[self.n_fit :]
        )
        probe_kernels().rows.trapezoids(keys, found.reshape(-1))
        return found

    def _order(self) -> np.ndarray:
        return np.random.RandomState(self.seed).permutation(len(self.x))


def saga(
    x: np.ndarray,
    y: np.ndarray,
    Cs: Sequence[float],
    seed: int,
    *,
    epochs: float = GRID.max_epochs,
    width: int | None = None,
) -> np.ndarray:
    """Intercept and weights of ``LogisticRegression(C=C, penalty="l1", solver="saga",
    random_state=seed, max_iter=epochs)``, bit by bit.

    ``x (n, m)``, ``y (n,)`` 0/1; returns ``(len(Cs), 1 + width)``, zeros beyond m. In float64, as
    scikit-learn computes for the torch tensors that sae-probes hands it."""
    x, n = np.ascontiguousarray(x, np.float64), len(x)
    step = 1.0 / (2.0 * (0.25 * (np.einsum("ij,ij->i", x, x).max() + 1.0)))
    shrinkage = step * ((1.0 / np.array(Cs, np.float64)) / n)
    first = np.random.RandomState(seed).randint(1, np.iinfo(np.int32).max)
    models = np.zeros((len(Cs), 1 + (width or x.shape[1])))
    found = models[:, : 1 + x.shape[1]]
    probe_kernels().saga.saga(
        x, y.astype(np.float64), first, step, shrinkage, GRID.tolerance, int(epochs), found
    )
    return models


def choose(
    rows: Rows, grid: Paths, Cs: Sequence[float], ks: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Best validation AUC ``(K,)`` over the grid of paths and the first position in ``Cs`` that has
    it, as official.
    """
    late, early = rows.areas(grid.late), rows.areas(grid.early)
    for q, k in enumerate(ks):
        _start(rows, k, Cs, Paths(*(part[q] for part in grid)), late[q], early[q])
        chosen = int(late[q].argmax())
        margin = BEYOND * np.abs(late[q] - early[q])
        low, high = np.minimum(late[q], early[q]) - margin, np.maximum(late[q], early[q]) + margin
        rivals = [
            j
            for j in range(len(Cs))
            if j != chosen and (high[j] > low[chosen] or (high[j] == low[chosen] and j < chosen))
        ]
        rivals = _distinct(grid.late[q], chosen, rivals)
        if rivals and _matters(rows, grid.late[q, [chosen, *rivals]]):
            asked = sorted([chosen, *rivals])
            late[q] = -1.0
            late[q, asked] = rows.areas(
                rows.saga(k, [Cs[j] for j in asked])[None], rows.official()
            )[0]
    return late.max(1), late.argmax(1)


def settle(rows: Rows, final: Paths, Cs: Sequence[float], ks: Sequence[int]) -> np.ndarray:
    """Models ``(K, 1 + m)`` of the final fits ``final (K, 1, ...)`` on all training rows at one C
    for every k.
    """
    models = final.late[:, 0].copy()
    for q, k in enumerate(ks):
        if 1.0 < final.pull[q, 0] < WEAK_PULL:
            start = rows.starts(k, [Cs[q]], final=True)[0]
            if start[1:].any() != models[q, 1:].any():
                models[q] = rows.final_saga(k, Cs[q]) if start[1:].any() else start
                continue
        if _moves(final.late[q, 0], final.early[q, 0]) and _matters(
            rows, np.stack([final.late[q, 0], final.early[q, 0]])
        ):
            models[q] = rows.final_saga(k, Cs[q])
    return models


def _start(
    rows: Rows, k: int, Cs: Sequence[float], grid: Paths, late: np.ndarray, early: np.ndarray
) -> None:
    """Correct both AUCs ``(N,)`` of one k where SAGA does not get away from zero but the flow does,
    or the other way round, and it could decide what is chosen."""
    weak = {j for j in range(len(Cs)) if 1.0 < grid.pull[j] < WEAK_PULL}
    while weak:
        chosen = int(late.argmax())
        asked = sorted(weak if late[chosen] <= 0.5 else weak & {chosen})
        if not asked:
            return
        for j, start in zip(asked, rows.starts(k, [Cs[j] for j in asked]), strict=True):
            if not start[1:].any():
                late[j] = early[j] = 0.5
            elif not grid.late[j, 1:].any():
                late[j] = early[j] = rows.areas(rows.saga(k, [Cs[j]])[None], rows.official())[0, 0]
        weak.difference_update(asked)


def _distinct(models: np.ndarray, chosen: int, rivals: Sequence[int]) -> list[int]:
    """The rivals without those whose solution is that of the chosen one or of an earlier rival, but
    for less than is looked at: SAGA makes the same draws for them."""
    kept: list[int] = []
    for j in rivals:
        if all(_moves(models[j], models[i]) for i in (chosen, *kept)):
            kept.append(j)
    return kept


def _moves(late: np.ndarray, early: np.ndarray) -> bool:
    change = np.abs(late[1:] - early[1:]).max() > STILL * np.abs(late[1:]).max()
    return bool(change or ((late == 0) != (early == 0)).any())


def _matters(rows: Rows, models: np.ndarray) -> bool:
    """Whether these models ``(P, 1 + m)`` differ in test AUC by more than is left unsettled."""
    return bool(
        np.ptp(scores.auc(scores.probabilities(models, rows.test_x), rows.test_y)) > MATTERS
    )

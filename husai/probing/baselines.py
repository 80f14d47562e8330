"""What an SAE is compared with, per data set: dense logistic probe, top-k neurons and PCA-k, on the
subject's own activations, pooled as the codes of SAEs are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from husai.compute import side_by_side
from husai.probing.encoders import ProbeData
from husai.probing.protocol import as_array, features_of, probe_codes, probe_features
from husai.probing.scores import auc, probabilities, scores_of
from husai.probing.solver import C_GRID, Features, logistic, unconverged, validation_rows
from husai.probing.splits import PROBE_SEED, probe_split
from husai.probing.tables import INFORMATIVE
from husai.statistics import auc_interval

FOLDS = 5
"""Of the cross-validation that says whether a data set is informative. The official protocol
validates on at most 100 rows, on which an AUC of 0.70 has a lower bound below 0.60; all training
rows, at most 1024, bring it to 0.67."""


class DenseResult(NamedTuple):
    """The dense logistic probe of one data set."""

    auc: float
    val_auc: float
    accuracy: float
    f1: float
    C: float


class Validation(NamedTuple):
    """How well the dense probe tells the classes apart in the domain, by training rows alone."""

    auc: float
    lcb: float
    """Of a two-sided 95% interval."""
    n: int
    method: str = f"{FOLDS}-fold cross-validation, Hanley-McNeil 95%"


def dense_probe(data: ProbeData, *, seed: int = PROBE_SEED) -> DenseResult:
    """L2 logistic regression on all dimensions by the protocol of
    ``run_baseline_evals(method="logreg")`` (``find_best_reg``).

    Solved by scikit-learn itself: where L-BFGS stops short of the optimum moves the AUC by more
    than the tolerance we claim, and it is done once per subject, hook and data set."""
    train, test = probe_split(data.y, seed, name=data.name)
    x, y = as_array(data.activations()), data.y
    return fit_dense(x[train], y[train], x[test], y[test], seed)[0]


def fit_dense(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    seed: int = PROBE_SEED,
) -> tuple[DenseResult, np.ndarray]:
    """The result, and the model ``(1 + d,)``, float64; see :func:`dense_probe`. Rows
    ``x_train (n_train, d)`` and ``x_test (n_test, d)`` have labels 0/1 ``y_train (n_train,)`` and
    ``y_test (n_test,)``; the last training rows validate C.
    """
    n_fit = len(x_train) - validation_rows(len(x_train))
    held, y_held = x_train[n_fit:], y_train[n_fit:]
    models = np.stack([logistic(x_train[:n_fit], y_train[:n_fit], C, seed) for C in C_GRID])
    areas = [auc(p, y_held) for p in probabilities(models, held)]
    C = C_GRID[int(np.argmax(areas))]
    order = np.random.RandomState(seed).permutation(len(x_train))
    model = logistic(x_train[order], y_train[order], C, seed)
    area, *others = scores_of(model, x_test, y_test)
    return DenseResult(area, max(areas), *others, C), model


def validate_dense(x: np.ndarray, y: np.ndarray, C: float, seed: int = PROBE_SEED) -> Validation:
    """AUC of a dense probe on training rows ``x (n, d)`` in random order, each scored by the fit
    that did not see it.

    Scores of different fits are ranked together, which can only make the AUC smaller but for
    chance."""
    held, rows = np.empty(len(y)), np.arange(len(y))
    for fold in np.array_split(rows, FOLDS):
        rest = np.setdiff1d(rows, fold)
        held[fold] = probabilities(logistic(x[rest], y[rest], C, seed)[None], x[fold])[0]
    area, positive = auc(held, y), int(np.count_nonzero(y == 1))
    return Validation(area, auc_interval(area, positive, len(y) - positive)[0], len(y))


def principal_components(data: ProbeData, max_k: int, seed: int = PROBE_SEED) -> Features:
    """Scores on the leading principal components of the standardised training rows, as
    ``find_best_pcareg`` projects them."""
    train, test = probe_split(data.y, seed, name=data.name)
    x = data.activations().double()
    mean, scale = x[train].mean(0), x[train].std(0, correction=0)
    x = (x - mean) / torch.where(scale > 0, scale, 1.0)
    variances, directions = torch.linalg.eigh(x[train].T @ x[train])
    k = min(max_k, len(variances))
    return features_of(data, x @ directions.flip(1)[:, :k], train, test, list(range(k)))


def baseline_rows(
    sources: Sequence[ProbeData],
    ks: Sequence[int],
    *,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
) -> list[dict]:
    """One record per data set: ``dense`` and, by k, ``neurons`` and ``pca``; each with auc,
    val_auc, accuracy, f1, C. Beside them ``validation`` of the dense probe, and whether the data
    set is ``informative``.

    Neurons and components go through the same probe, ranking rule and grid as SAE latents at the
    same k, so only the basis differs."""

    def measure(data: ProbeData) -> dict:
        activations = data.activations()
        dense = dense_probe(data, seed=seed)
        train, _ = probe_split(data.y, seed, name=data.name)
        validation = validate_dense(as_array(activations)[train], data.y[train], dense.C, seed)
        pca = probe_features(principal_components(data, max(ks), seed), ks, penalty, seed)
        neurons = probe_codes(activations, data, ks, penalty=penalty, seed=seed)
        return {
            "dataset": data.name,
            "family": data.family,
            "n_rows": len(data.y),
            "informative": validation.lcb >= INFORMATIVE,
            "validation": validation._asdict(),
            "dense": dense._asdict(),
            "neurons": {str(r.k): _values(r) for r in neurons},
            "pca": {str(r.k): _values(r) for r in pca},
        }

    with unconverged():
        return side_by_side(measure, sources)


def _values(result) -> dict:
    return {name: getattr(result, name) for name in DenseResult._fields}

"""Ground truth for the gate's self-test: rows made of known features, and small real benchmarks on
them. Numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from husai.statistics import auc

GATE_K = 16  # latents a probe may read, as in the strict saebench gate
RIDGE = 1.0e-2
"""Keeps probes finite where latents are copies of each other, at a hundredth of a column's
variance."""
ROWS_OF_A_TEXT = 4  # so that texts differ, and many remain


class Rows(NamedTuple):
    """``x`` (n, d_in) float32 rows and the ``codes`` (n, n_features) they were made of."""

    x: np.ndarray
    codes: np.ndarray

    @property
    def active(self) -> np.ndarray:
        """Which features each row holds, bool (n, n_features)."""
        return self.codes > 0


def dictionary(n_features: int, d_in: int, seed: int) -> np.ndarray:
    """Unit feature directions, float64 (n_features, d_in)."""
    features = np.random.default_rng(seed).standard_normal((n_features, d_in))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def planted_rows(
    features: np.ndarray,
    n_rows: int,
    l0: int,
    seed: int,
    noise: float = 0.02,
    magnitude: tuple[float, float] = (0.5, 1.5),
    always: int = -1,
) -> Rows:
    """Rows that each add ``l0`` distinct of the ``features (n_features, d_in)`` (``always`` among
    them when not negative) with uniform magnitudes, and noise.

    ``x`` is ``(n_rows, d_in)``, float32; the codes are ``(n_rows, n_features)``, float64.
    """
    rng = np.random.default_rng(seed)
    order = rng.random((n_rows, len(features)))
    if always >= 0:
        order[:, always] = -1.0
    chosen = np.argpartition(order, l0 - 1, axis=1)[:, :l0]
    codes = np.zeros((n_rows, len(features)))
    np.put_along_axis(codes, chosen, rng.uniform(*magnitude, (n_rows, l0)), axis=1)
    x = codes @ features + noise * rng.standard_normal((n_rows, features.shape[1]))
    return Rows(x.astype(np.float32), codes)


def gaussian_twin(x: np.ndarray, seed: int) -> np.ndarray:
    """Rows of a randomised subject, float32 ``(n_rows, d_in)``: same number, mean and covariance as
    those of ``x (n_rows, d_in)``, none of their sparse structure.
    """
    rng = np.random.default_rng(seed)
    rows = rng.multivariate_normal(x.mean(0), np.cov(x.T), len(x), method="cholesky")
    return rows.astype(np.float32)


def principal_axes(x: np.ndarray) -> np.ndarray:
    """Principal axes of rows as columns ``(d_in, d_in)``, the strongest first."""
    return np.linalg.svd(np.cov(x.T.astype(np.float64)))[0]


class Probe(NamedTuple):
    """A linear probe on the columns it chose."""

    columns: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def __call__(self, z: np.ndarray) -> np.ndarray:
        return ((z[:, self.columns] - self.mean) / self.scale) @ self.weights


def fit_probe(z: np.ndarray, labels: np.ndarray, k: int | None) -> Probe:
    """Ridge probe on the ``k`` columns of ``z (n, d)`` with the largest class-mean difference (all
    when None), standardised; ``labels (n,)`` are bool.

    Every array of the probe is ``(k,)``, or ``(d,)`` with all columns; it makes scores ``(n,)`` of
    codes ``(n, d)``.
    """
    columns = np.arange(z.shape[1])
    if k is not None and k < len(columns):
        difference = np.abs(z[labels].mean(0) - z[~labels].mean(0)) / (z.std(0) + 1e-9)
        columns = np.argsort(-difference, kind="stable")[:k]
    part = z[:, columns]
    mean, scale = part.mean(0), part.std(0) + 1e-9
    part = (part - mean) / scale
    gram = part.T @ part / len(part) + RIDGE * np.eye(len(columns))
    weights = np.linalg.solve(gram, part.T @ (2.0 * labels - 1.0) / len(part))
    return Probe(columns, mean, scale, weights)


def task_labels(rows: Rows, n_tasks: int) -> np.ndarray:
    """Labels of ``n_tasks`` tasks, bool (n, n_tasks): task t asks whether any of three neighbouring
    planted features is there.
    """
    step = rows.codes.shape[1] // n_tasks
    starts = [t * step for t in range(n_tasks)]
    return np.stack(
        [rows.active[:, [(s + j) % rows.codes.shape[1] for j in range(3)]].any(1) for s in starts],
        axis=1,
    )


def probe_scores(
    train: np.ndarray,
    train_labels: np.ndarray,
    tests: Sequence[tuple[np.ndarray, np.ndarray]],
    k: int | None,
) -> np.ndarray:
    """AUC of one probe a task, trained once and scored on each test set: float64
    ``(n_tests, n_tasks)``.

    ``train`` is ``(n, d)`` and ``train_labels`` bool ``(n, n_tasks)``; each of ``tests`` is such a
    pair, with rows of its own.
    """
    probes = [fit_probe(train, train_labels[:, t], k) for t in range(train_labels.shape[1])]
    return np.array(
        [[auc(probe(z), labels[:, t]) for t, probe in enumerate(probes)] for z, labels in tests]
    )


def contrastive_scores(
    encode: Callable[[np.ndarray], np.ndarray], stories: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """CE-Bench interpretability of each story pair, ``max z(|V1 - V2| + |I1 - I2|)`` with unbiased
    std and I2 the mean I1 over pairs: ``(n_pairs,)``.

    A pair is two arrays ``(n_rows, d_in)``; ``encode`` makes codes ``(n_rows, d_sae)`` of one.
    """
    means = np.array([[encode(a).mean(0), encode(b).mean(0)] for a, b in stories])
    contrast = np.abs(means[:, 0] - means[:, 1])
    own = means.mean(1)
    total = contrast + np.abs(own - own.mean(0))
    z = (total - total.mean(1, keepdims=True)) / (total.std(1, ddof=1, keepdims=True) + 1e-12)
    return z.max(1)


def downstream(x: np.ndarray, features: np.ndarray) -> np.ndarray:
    """What the planted subject makes of its activations: per text (:data:`ROWS_OF_A_TEXT` rows),
    the normalised mean of how strongly each row holds each feature, ``(n_texts, n_features)``."""
    held = np.maximum(x @ features.T - 0.25, 0.0)  # neighbouring features overlap by less
    pooled = held.reshape(-1, ROWS_OF_A_TEXT, len(features)).mean(1)
    return pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)


def splicing_losses(
    x: np.ndarray, reconstructed: np.ndarray, features: np.ndarray
) -> dict[str, list[float]]:
    """Loss of each text with the reconstruction, and with the mean, in place of the activations:
    the squared distance of :func:`downstream` to that of the activations.

    ``x`` and ``reconstructed`` are ``(n_rows, d_in)``, ``features`` ``(n_features, d_in)``; each
    list has one loss per text of :data:`ROWS_OF_A_TEXT` rows.
    """
    clean = downstream(x, features)
    mean = np.broadcast_to(x.mean(0), x.shape)
    return {
        name: ((downstream(rows, features) - clean) ** 2).sum(1).tolist()
        for name, rows in (("spliced", reconstructed), ("ablated", mean))
    }


def leak_excess(x: np.ndarray, answers: np.ndarray, n_answers: int) -> float:
    """Held-out accuracy, less chance, of a ridge probe on ``x (n, d_in)`` for ``answers (n,)``,
    integers below ``n_answers`` that were drawn independently of the rows' features.
    """
    half, onehot = len(x) // 2, np.eye(n_answers)[answers]
    centred = x - x[:half].mean(0)
    weights = np.linalg.solve(
        centred[:half].T @ centred[:half] + RIDGE * half * np.eye(x.shape[1]),
        centred[:half].T @ onehot[:half],
    )
    return float(((centred[half:] @ weights).argmax(1) == answers[half:]).mean() - 1.0 / n_answers)


def shared_rows(a: np.ndarray, b: np.ndarray) -> int:
    """Number of rows of ``b (n_b, d)`` that also occur in ``a (n_a, d)``, byte for byte."""
    seen = {row.tobytes() for row in np.ascontiguousarray(a)}
    return sum(row.tobytes() in seen for row in np.ascontiguousarray(b))

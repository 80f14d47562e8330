"""Which rows of a data set train a probe and which test it, drawn as sae-probes 0.4.2 draws
them."""

from __future__ import annotations

import numpy as np

from husai.errors import HusaiError

PROBE_SEED = 42
"""The official protocol's default."""
MAX_TRAIN, MIN_TEST = 1024, 100
"""sae-probes trains on ``min(n - 100, 1024)`` rows."""
MIN_TRAIN = 128
"""Below it sae-probes validates by six folds instead of one split, which this protocol does not."""


def probe_train_rows(y: np.ndarray) -> np.ndarray:
    """Sorted row numbers ``(n_train,)``, int64, that train a probe on rows with labels 0/1
    ``y (n_rows,)``; every other row may be used to test it.

    Raises
    ------
    HusaiError
        The rows, or those of one class, are too few for a balanced draw.
    """
    num_train = min(len(y) - MIN_TEST, MAX_TRAIN)
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    if num_train < 2 or len(positive) < -(-num_train // 2) or len(negative) < num_train // 2:
        raise HusaiError(
            f"{len(y)} rows ({len(positive)} positive) are too few for a balanced draw of "
            f"{num_train} training rows; raise max_rows"
        )
    drawn = _draw(np.random.RandomState(PROBE_SEED), positive, negative, num_train)
    return np.sort(np.concatenate(drawn))


def probe_split(
    y: np.ndarray,
    seed: int = PROBE_SEED,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    name: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training rows, ``(n_train,)``, those of :func:`probe_train_rows` in another
    order, and of the test rows, ``(n_test,)``: all but one of the rest. Labels ``y (n_rows,)`` are
    0/1.

    Follows ``get_xy_traintest`` and ``get_train_test_indices`` draw by draw. When a row limit left
    the classes unequal, the test set shrinks to the largest balanced one.

    Raises
    ------
    HusaiError
        One class only, fewer than 128 training rows, or too few of a class for them and a test set.
    """
    y = np.asarray(y)
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    if len(positive) == 0 or len(negative) == 0:
        raise HusaiError(
            f"data set '{name}': only one class among its {len(y)} rows; raise max_rows or remove "
            "the data set"
        )
    num_train = min(len(y) - MIN_TEST, MAX_TRAIN) if num_train is None else num_train
    half = -(-num_train // 2)
    if num_train < MIN_TRAIN or len(positive) <= half or len(negative) <= num_train - half:
        raise HusaiError(
            f"data set '{name}': {len(y)} rows ({len(positive)} of class 1) are too few for "
            f"{max(num_train, MIN_TRAIN)} balanced training "
            "rows and a test set; raise max_rows or remove the data set"
        )
    rng = np.random.RandomState(seed)
    train = _draw(rng, positive, negative, num_train)
    left = np.ones(len(y), bool)
    left[np.concatenate(train)] = False
    positive, negative = positive[left[positive]], negative[left[negative]]
    if num_test is None:
        num_test = min(len(y) - num_train - 1, 2 * min(len(positive), len(negative)))
    test = _draw(rng, positive, negative, num_test)
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def _draw(rng: np.random.RandomState, positive: np.ndarray, negative: np.ndarray, n: int):
    """``n`` rows, half of each class, the odd one positive: ``[positives, negatives]``."""
    n_positive = -(-n // 2)
    return [
        rng.choice(rows, size=size, replace=False)
        for rows, size in ((positive, n_positive), (negative, n - n_positive))
    ]

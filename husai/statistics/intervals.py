"""Intervals that cover what they say: units that share a seed or a data-set family are not
independent, and none pretend to be.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import special

from husai.errors import HusaiError
from husai.evidence import Metric


@functools.cache
def t_quantile(df: float, confidence: float = 0.95) -> float:
    """Half-width factor of a two-sided Student t interval with ``df`` degrees of freedom.

    Raises
    ------
    HusaiError
        ``confidence`` does not lie between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise HusaiError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(special.stdtrit(df, 0.5 + confidence / 2))


def as_array(values) -> np.ndarray:
    """Numbers, an array, or a tensor (on any device, with or without gradient) as a float64 array
    of the same shape.
    """
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=np.float64)


def square(values) -> np.ndarray:
    """Stored pairwise values ``(n, n)`` as float64; null is undefined (NaN)."""
    return np.array([list(row) for row in values], dtype=np.float64)


def finite_array(values, what: str) -> np.ndarray:
    """Values as :func:`as_array` gives them, of the same shape.

    Raises
    ------
    HusaiError
        There are no values, or NaN or infinite ones; the message starts with ``what``.
    """
    array = as_array(values)
    if array.size == 0:
        raise HusaiError(f"{what}: no values were given")
    if not np.isfinite(array).all():
        raise HusaiError(
            f"{what}: {int((~np.isfinite(array)).sum())} of {array.size} values are NaN or infinite"
        )
    return array


def unbounded(value: float, n: int, method: str) -> Metric:
    """A value that these data give no interval for."""
    return Metric(float(value), -math.inf, math.inf, int(n), method)


def symmetric(value: float, se: float, df: float, n: int, method: str, confidence: float) -> Metric:
    """Student t interval of ``value`` with standard error ``se`` on ``df`` degrees of freedom."""
    half = t_quantile(df, confidence) * se
    return Metric(float(value), float(value - half), float(value + half), int(n), method)


def leave_one_out(pairwise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over pairs, and that mean with each seed left out, for ``(..., n, n)`` symmetric
    matrices.

    Returns arrays of shape ``(...)`` and ``(..., n)``. The diagonal is ignored; n must be at least
    3."""
    n = pairwise.shape[-1]
    row = pairwise.sum(-1) - np.diagonal(pairwise, axis1=-2, axis2=-1)
    total = row.sum(-1)
    return total / (n * (n - 1)), (total[..., None] - 2 * row) / ((n - 1) * (n - 2))


def jackknife_se(pairwise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over pairs and its delete-one-seed standard error, both of shape ``(...)``, for
    ``(..., n, n)`` matrices, n >= 3; vectorised over the rest.
    """
    n = pairwise.shape[-1]
    value, left_out = leave_one_out(pairwise)
    return value, np.sqrt((n - 1) * left_out.var(axis=-1))


def jackknife_t(values, confidence: float = 0.95) -> Metric:
    r"""Delete-one-seed jackknife interval with Student t on n - 1 degrees of freedom.

    With :math:`\theta_{(i)}` the statistic without seed i, ``se^2 = (n-1)/n sum_i (theta_(i) -
    mean)^2``. For a mean over pairs, pairs that share a seed are correlated; leaving out whole
    seeds accounts for it.

    Parameters
    ----------
    values : array (n, n) or (n,)
        Pairwise values of n seeds (symmetric; the diagonal is ignored): the statistic is the mean
        over pairs. Or one value per seed: the statistic is their mean.

    Returns
    -------
    Metric
        ``lcb = -inf, ucb = inf`` when seeds are too few: one value, or fewer than three seeds for
        pairwise values.

    Raises
    ------
    HusaiError
        The values are neither ``(n, n)`` nor ``(n,)``, pairwise ones are of fewer than two seeds or
        not symmetric, or a value is NaN or infinite.

    Examples
    --------
    >>> found = jackknife_t([1.0, 2.0, 3.0])  # one value per seed: 2 +- 4.303 / sqrt(3)
    >>> round(found.value, 3), round(found.lcb, 3), round(found.ucb, 3)
    (2.0, -0.484, 4.484)
    >>> jackknife_t([[1.0, 0.4], [0.4, 1.0]])  # one pair
    Metric(value=0.4, lcb=-inf, ucb=inf, n=2, method='jackknife-t')
    """
    values = as_array(values)
    if values.ndim == 1:
        values, n = finite_array(values, "jackknife"), values.size
        if n == 1:
            return unbounded(values[0], 1, "jackknife-t")
        se = values.std(ddof=1) / math.sqrt(n)
        return symmetric(values.mean(), se, n - 1, n, "jackknife-t", confidence)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise HusaiError(
            "jackknife: expected (n, n) pairwise values or (n,) values per seed, got shape "
            f"{values.shape}"
        )
    count = values.shape[0]
    if count < 2:
        raise HusaiError(f"jackknife: {count} seeds have no pairs; at least two are needed")
    values = values.copy()
    np.fill_diagonal(values, 0.0)
    values = finite_array(values, "jackknife")
    if not np.allclose(values, values.T, rtol=1e-6, atol=1e-9):
        raise HusaiError("jackknife: the pairwise matrix is not symmetric")
    if count == 2:
        return unbounded(values[0, 1], 2, "jackknife-t")
    value, se = jackknife_se(values)
    return symmetric(value, se, count - 1, count, "jackknife-t", confidence)


class Difference(NamedTuple):
    """``a - b`` of two independent ensembles; see :func:`difference`."""

    value: float
    se: float
    """Standard error; infinite when seeds are too few for one."""
    df: float
    """Welch-Satterthwaite degrees of freedom, between the smaller n - 1 and the sum."""
    n: int
    """Seeds of the smaller ensemble."""


def difference(a, b) -> Difference:
    """``a - b`` with its jackknife standard error; each ``(n, n)`` of pairs or ``(n,)`` values."""
    units = [jackknife_t(x) for x in (a, b)]
    n, value = min(u.n for u in units), units[0].value - units[1].value
    if any(math.isinf(u.lcb) for u in units):
        return Difference(value, math.inf, 1.0, n)
    variances = [((u.ucb - u.lcb) / 2 / t_quantile(u.n - 1)) ** 2 for u in units]
    total, df = sum(variances), n - 1.0
    if total:
        df = total**2 / sum(v**2 / (u.n - 1) for v, u in zip(variances, units, strict=True))
    return Difference(value, math.sqrt(total), round(df, 6), n)


def jackknife_difference(a, b, confidence: float = 0.95) -> Metric:
    """Interval of ``a - b`` for two independent ensembles, each ``(n, n)`` pairwise values or
    ``(n,)`` values per seed.
    """
    found = difference(a, b)
    if math.isinf(found.se):
        return unbounded(found.value, found.n, "jackknife-welch-t")
    return symmetric(found.value, found.se, found.df, found.n, "jackknife-welch-t", confidence)

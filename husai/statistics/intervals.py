"""Intervals that cover what they say: units that share a seed or a data-set family are not
independent, and none pretend to be.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from husai.errors import HusaiError
from husai.provenance import metric
from husai.statistics.levels import stated_bounds
from husai.statistics.two_way import two_way


class Interval(NamedTuple):
    """A value with a two-sided interval; unbounded when the data cannot give one."""

    value: float
    lcb: float
    ucb: float
    n: int
    """Number of independent units."""
    method: str

    def metric(self) -> dict:
        """As a metric of an evidence record."""
        return metric(*self)


@functools.cache
def t_quantile(df: float, confidence: float = 0.95) -> float:
    """Half-width factor of a two-sided Student t interval with ``df`` degrees of freedom."""
    if not 0 < confidence < 1:
        raise HusaiError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(special.stdtrit(df, 0.5 + confidence / 2))


def as_array(values) -> np.ndarray:
    """Numbers, an array, or a tensor (on any device, with or without gradient) as a float64
    array.
    """
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=np.float64)


def finite_array(values, what: str) -> np.ndarray:
    """:func:`as_array`; an error that starts with ``what`` when there are no values, or NaN or
    infinite ones.
    """
    array = as_array(values)
    if array.size == 0:
        raise HusaiError(f"{what}: no values were given")
    if not np.isfinite(array).all():
        raise HusaiError(
            f"{what}: {int((~np.isfinite(array)).sum())} of {array.size} values are NaN or infinite"
        )
    return array


def unbounded(value: float, n: int, method: str) -> Interval:
    """A value that these data give no interval for."""
    return Interval(float(value), -math.inf, math.inf, int(n), method)


def _symmetric(
    value: float, se: float, df: float, n: int, method: str, confidence: float
) -> Interval:
    half = t_quantile(df, confidence) * se
    return Interval(float(value), float(value - half), float(value + half), int(n), method)


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
    """Mean over pairs and its delete-one-seed standard error for ``(..., n, n)`` matrices, n >= 3;
    vectorised over the rest.
    """
    n = pairwise.shape[-1]
    value, left_out = leave_one_out(pairwise)
    return value, np.sqrt((n - 1) * left_out.var(axis=-1))


def jackknife_t(matrix_or_stat, n: int | None = None, confidence: float = 0.95) -> Interval:
    r"""Delete-one-seed jackknife interval with Student t on n - 1 degrees of freedom.

    With :math:`\theta_{(i)}` the statistic without seed i, ``se^2 = (n-1)/n sum_i (theta_(i) -
    mean)^2``. For a mean over pairs, pairs that share a seed are correlated; leaving out whole
    seeds accounts for it.

    Parameters
    ----------
    matrix_or_stat : array (n, n), array (n,), or callable
        Pairwise values of n seeds (symmetric; the diagonal is ignored): the statistic is the mean
        over pairs. Or one value per seed: the statistic is their mean. Or ``f(indices) -> float``
        with ``n``: the statistic of a subset of seeds.
    n : int, optional
        Number of seeds, needed for a callable.

    Returns
    -------
    Interval
        ``lcb = -inf, ucb = inf`` when seeds are too few: one value, or fewer than three seeds for
        pairwise values.

    Examples
    --------
    >>> found = jackknife_t([1.0, 2.0, 3.0])  # one value per seed: 2 +- 4.303 / sqrt(3)
    >>> round(found.value, 3), round(found.lcb, 3), round(found.ucb, 3)
    (2.0, -0.484, 4.484)
    >>> jackknife_t([[1.0, 0.4], [0.4, 1.0]])  # one pair
    Interval(value=0.4, lcb=-inf, ucb=inf, n=2, method='jackknife-t')
    """
    if callable(matrix_or_stat):
        return _jackknife_callable(matrix_or_stat, n, confidence)
    values = as_array(matrix_or_stat)
    if n is not None and values.shape[:1] != (n,):
        raise HusaiError(f"jackknife: shape {values.shape} does not hold n = {n} seeds")
    if values.ndim == 1:
        values = finite_array(values, "jackknife")
        if values.size == 1:
            return unbounded(values[0], 1, "jackknife-t")
        return _symmetric(
            values.mean(),
            values.std(ddof=1) / math.sqrt(values.size),
            values.size - 1,
            values.size,
            "jackknife-t",
            confidence,
        )
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
    return _symmetric(value, se, count - 1, count, "jackknife-t", confidence)


def _jackknife_callable(stat: Callable, n: int | None, confidence: float) -> Interval:
    if n is None or n < 1:
        raise HusaiError(f"jackknife: a function needs the number of seeds n >= 1, got {n}")
    value = float(stat(np.arange(n)))
    if n == 1:
        return unbounded(value, 1, "jackknife-t")
    left_out = np.array([float(stat(np.delete(np.arange(n), i))) for i in range(n)])
    if not np.isfinite(left_out).all():
        return unbounded(value, n, "jackknife-t")
    return _symmetric(
        value, math.sqrt((n - 1) * left_out.var()), n - 1, n, "jackknife-t", confidence
    )


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
    """``a - b`` with its jackknife standard error; each ``(n, n)`` pairwise values or ``(n,)``
    values per seed.
    """
    units = [jackknife_t(x) for x in (a, b)]
    n, value = min(u.n for u in units), units[0].value - units[1].value
    if any(math.isinf(u.lcb) for u in units):
        return Difference(value, math.inf, 1.0, n)
    variances = [((u.ucb - u.lcb) / 2 / t_quantile(u.n - 1)) ** 2 for u in units]
    total = sum(variances)
    df = (
        total**2 / sum(v**2 / (u.n - 1) for v, u in zip(variances, units, strict=True))
        if total
        else n - 1.0
    )
    return Difference(value, math.sqrt(total), round(df, 6), n)


def jackknife_difference(a, b, confidence: float = 0.95) -> Interval:
    """Interval of ``a - b`` for two independent ensembles, each ``(n, n)`` pairwise values or
    ``(n,)`` values per seed.
    """
    found = difference(a, b)
    if math.isinf(found.se):
        return unbounded(found.value, found.n, "jackknife-welch-t")
    return _symmetric(found.value, found.se, found.df, found.n, "jackknife-welch-t", confidence)


@functools.lru_cache(maxsize=16)
def _draws(seed: int, n_resamples: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, size=(n_resamples, n))


def bootstrap_percentile(
    values, n_resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap of the mean, as the ``cycle3`` policy defines it.

    Equal bit for bit to ``default_rng(seed).choice(values, (n_resamples, n)).mean(1)`` with
    percentiles 2.5 and 97.5. It treats ``values`` as independent: over pairs that share seeds it
    covers far less than it says (for three pairs it is exactly ``[min, max]``), so ``strict`` does
    not use it there.

    Examples
    --------
    >>> found = bootstrap_percentile([0.1, 0.4, 0.2])
    >>> round(found.lcb, 6), round(found.ucb, 6)
    (0.1, 0.4)
    """
    values = finite_array(values, "bootstrap").ravel()
    if values.size == 1:
        return unbounded(values[0], 1, "bootstrap-percentile")
    means = values[_draws(int(seed), int(n_resamples), values.size)].mean(axis=1)
    tail = round(50.0 * (1.0 - confidence), 10)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return Interval(
        float(values.mean()), float(low), float(high), values.size, "bootstrap-percentile"
    )


def paired_t(deltas, confidence: float = 0.95) -> Interval:
    """Student t interval of the mean of paired differences ``(n,)``; one difference gives no
    interval.
    """
    return jackknife_t(finite_array(deltas, "paired t").ravel(), confidence=confidence)._replace(
        method="paired-t"
    )


def crossed_interval(
    table,
    families: Sequence[Hashable],
    n_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean of a table seeds x data sets: the widest of a crossed bootstrap, a
    family-level t, a seed-level t and a two-way t.

    The bootstrap draws seeds and, crossed with them, whole families with replacement (Owen 2007,
    "The pigeonhole bootstrap"). The t interval takes each family's contribution to the mean over
    data sets as one unit, on families - 1 degrees of freedom; for families of equal size that is
    the t interval of the family means. Both are too narrow where seeds differ more than families:
    percentiles over few seeds let a null pass in 6% of cases instead of 2.5%. The t interval of the
    seed means closes that gap. Where seeds and families differ alike each of the three sees one half
    of the variance (3.4-4.1% instead of 2.5%): the two-way variance sees both
    (:func:`husai.statistics.two_way.two_way`; ``tests/statistics/test_coverage.py``).

    Parameters
    ----------
    table : array (n_seeds, n_datasets)
        Paired differences.
    families : sequence of length n_datasets
        Which data sets are related.

    Returns
    -------
    Interval
        ``n`` is the number of seeds. One seed, or one family, gives no interval.
    """
    table = np.atleast_2d(as_array(table))
    if table.ndim != 2 or table.shape[1] != len(families):
        raise HusaiError(
            f"crossed interval: table {table.shape} needs one family per column, got "
            f"{len(families)} families"
        )
    finite_array(table, "crossed interval")
    names, member = np.unique([str(f) for f in families], return_inverse=True)
    n_seeds, n_families = table.shape[0], len(names)
    value = float(table.mean())
    if n_seeds < 2 or n_families < 2:
        return unbounded(value, n_seeds, "crossed")
    size = np.bincount(member, minlength=n_families).astype(np.float64)
    sums = np.stack([np.bincount(member, weights=row, minlength=n_families) for row in table])
    rng = np.random.default_rng(seed)
    seed_weight = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), n_resamples)
    family_weight = rng.multinomial(n_families, np.full(n_families, 1 / n_families), n_resamples)
    means = np.einsum("rf,rf->r", seed_weight @ sums, family_weight) / (
        n_seeds * (family_weight @ size)
    )
    tail = round(50.0 * (1.0 - confidence), 10)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    residual = (sums.mean(0) - value * size) / size.mean()
    se = math.sqrt(float((residual**2).sum()) / (n_families * (n_families - 1)))
    by_family = _symmetric(value, se, n_families - 1, n_seeds, "family-t", confidence)
    seed_se = float(table.mean(1).std(ddof=1)) / math.sqrt(n_seeds)
    by_seed = _symmetric(value, seed_se, n_seeds - 1, n_seeds, "seed-t", confidence)
    bootstrap = Interval(value, float(low), float(high), n_seeds, "crossed-bootstrap")
    both = two_way((sums - value * size) / size.mean(), size)
    by_both = _symmetric(
        value, float(both.se), round(float(both.df), 6), n_seeds, "two-way-t", confidence
    )
    return max(
        by_family, by_seed, by_both, bootstrap, key=lambda interval: interval.ucb - interval.lcb
    )


def crossed_metric(table, families: Sequence[Hashable]) -> dict:
    """:func:`crossed_interval` as a metric of an evidence record, with the bounds that further
    candidates are judged by.
    """
    bounds = stated_bounds(
        lambda confidence: crossed_interval(table, families, confidence=confidence)
    )
    return {**crossed_interval(table, families).metric(), "bounds": bounds}

"""Intervals by drawing again: the bootstrap of the original policy, and the crossed bootstrap over
seeds and data-set families.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from husai.errors import HusaiError
from husai.evidence import Metric
from husai.statistics.intervals import as_array, finite_array, symmetric, unbounded
from husai.statistics.levels import stated_bounds
from husai.statistics.two_way import two_way


@functools.lru_cache(maxsize=16)
def _draws(seed: int, n_resamples: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, size=(n_resamples, n))


def bootstrap_percentile(
    values, n_resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Metric:
    """Percentile bootstrap of the mean, as the ``cycle3`` policy defines it.

    Equal bit for bit to ``default_rng(seed).choice(values, (n_resamples, n)).mean(1)`` with
    percentiles 2.5 and 97.5. It treats ``values`` as independent: over pairs that share seeds it
    covers far less than it says (for three pairs it is exactly ``[min, max]``), so ``strict`` does
    not use it there. No values, or NaN among them, are an error.

    References
    ----------
    Efron, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7 (1979).

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
    mean = float(values.mean())
    return Metric(mean, float(low), float(high), values.size, "bootstrap-percentile")


def crossed_interval(
    table,
    families: Sequence[Hashable],
    n_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Metric:
    """Interval of the mean of a table seeds x data sets: the widest of a crossed bootstrap, a
    family-level t, a seed-level t and a two-way t.

    The bootstrap draws seeds and, crossed with them, whole families with replacement (Owen 2007,
    "The pigeonhole bootstrap"). The t interval takes each family's contribution to the mean over
    data sets as one unit, on families - 1 degrees of freedom; for families of equal size that is
    the t interval of the family means. Both are too narrow where seeds differ more than families:
    percentiles over few seeds let a null pass in 6% of cases instead of 2.5%. The t interval of the
    seed means closes that gap. Where seeds and families differ alike each of the three sees one
    half of the variance (3.4-4.1% instead of 2.5%): the two-way variance sees both
    (:func:`husai.statistics.two_way.two_way`; ``tests/statistics/test_coverage.py``).

    Parameters
    ----------
    table : array (n_seeds, n_datasets)
        Paired differences.
    families : sequence of length n_datasets
        Which data sets are related.

    Returns
    -------
    Metric
        ``n`` is the number of seeds. One seed, or one family, gives no interval.

    Raises
    ------
    HusaiError
        ``families`` are not one per data set, or the table is not ``(n_seeds, n_datasets)``, empty,
        or holds NaN or infinite values.
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
    means = np.einsum("rf,rf->r", seed_weight @ sums, family_weight)
    means /= n_seeds * (family_weight @ size)
    tail = round(50.0 * (1.0 - confidence), 10)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    residual = (sums.mean(0) - value * size) / size.mean()
    se = math.sqrt(float((residual**2).sum()) / (n_families * (n_families - 1)))
    by_family = symmetric(value, se, n_families - 1, n_seeds, "family-t", confidence)
    seed_se = float(table.mean(1).std(ddof=1)) / math.sqrt(n_seeds)
    by_seed = symmetric(value, seed_se, n_seeds - 1, n_seeds, "seed-t", confidence)
    bootstrap = Metric(value, float(low), float(high), n_seeds, "crossed-bootstrap")
    both = two_way((sums - value * size) / size.mean(), size)
    df = round(float(both.df), 6)
    by_both = symmetric(value, float(both.se), df, n_seeds, "two-way-t", confidence)
    return max(by_family, by_seed, by_both, bootstrap, key=lambda found: found.ucb - found.lcb)


def crossed_metric(table, families: Sequence[Hashable]) -> Metric:
    """:func:`crossed_interval` with the bounds that further candidates are judged by."""
    bounds = stated_bounds(
        lambda confidence: crossed_interval(table, families, confidence=confidence)
    )
    return replace(crossed_interval(table, families), bounds=tuple(bounds))

"""Is one ensemble different from another, and by how much: p-values, their adjustment for many
tests, and effect sizes.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from husai.errors import HusaiError, nearest
from husai.evidence import Metric
from husai.statistics.intervals import as_array, difference, finite_array, leave_one_out, unbounded


def difference_pvalue(a, b, alternative: str = "greater") -> float:
    """p-value of ``a = b`` for two independent ensembles, each ``(n, n)`` pairwise values or
    ``(n,)`` values per seed.

    Student t of :func:`husai.statistics.difference`: whole seeds are the units, pairs that share
    one are not counted twice. ``alternative`` is ``greater`` (a above b), ``less`` or
    ``two-sided``; 1 when seeds are too few for a standard error."""
    found = difference(a, b)
    return 1.0 if math.isinf(found.se) else _t_pvalue(found.value, found.se, found.df, alternative)


def _t_pvalue(value: float, se: float, df: float, alternative: str) -> float:
    """p-value of a Student t statistic; a value without spread is certain."""
    t = value / se if se > 0 else math.copysign(math.inf, value) if value else 0.0
    tails = {"greater": (1, -t), "less": (1, t), "two-sided": (2, -abs(t))}
    if alternative not in tails:
        raise HusaiError(
            f"alternative: '{alternative}' is not one of "
            f"{', '.join(tails)}{nearest(alternative, tuple(tails))}"
        )
    sides, at = tails[alternative]
    return float(sides * special.stdtr(df, at))


def holm(pvalues) -> np.ndarray:
    """Holm's step-down adjusted p-values, ``(m,)`` float64, in the order given: reject where the
    adjusted value is at most alpha.

    Raises
    ------
    HusaiError
        There are no p-values, or one is NaN or outside [0, 1].

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    p = finite_array(pvalues, "Holm").ravel()
    if ((p < 0) | (p > 1)).any():
        raise HusaiError("Holm: p-values must lie in [0, 1]")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    steps = (p.size - np.arange(p.size)) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def pseudo_values(pairwise) -> np.ndarray:
    """One value per seed, ``(n,)``, for a mean over pairs ``(n, n)``: ``n * mean - (n - 1) * mean
    without the seed`` (Tukey 1958).

    Their mean is the mean over pairs and their t interval the jackknife-t; where a method wants
    independent units, these are the units.

    Raises
    ------
    HusaiError
        The values are not ``(n, n)``, or of fewer than three seeds.
    """
    values = as_array(pairwise)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.shape[0] < 3:
        raise HusaiError(
            "pseudo-values: expected (n, n) pairwise values of at least 3 seeds, got shape "
            f"{values.shape}"
        )
    n = len(values)
    mean, without = leave_one_out(values)
    return n * mean - (n - 1) * without


def cohens_d(a, b, confidence: float = 0.95) -> Metric:
    """Standardised mean difference ``(mean a - mean b) / pooled sd`` of independent units, with its
    exact interval.

    The interval inverts the noncentral t distribution (Steiger & Fouladi 1997). ``n`` counts the
    units of both samples. Fewer than two units in a sample, or no spread at all, gives no interval.
    """
    a, b = finite_array(a, "Cohen's d").ravel(), finite_array(b, "Cohen's d").ravel()
    n, df = a.size + b.size, a.size + b.size - 2
    distance = float(a.mean() - b.mean())
    squares = ((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()
    spread = math.sqrt(squares / df) if df > 0 else 0.0
    if min(a.size, b.size) < 2 or spread == 0.0:
        return unbounded(0.0 if distance == 0.0 else math.nan, n, "noncentral-t")
    factor = math.sqrt(1 / a.size + 1 / b.size)
    t = distance / spread / factor
    tail = (1 - confidence) / 2
    low, high = (_noncentrality(t, df, q) * factor for q in (1 - tail, tail))
    return Metric(distance / spread, low, high, n, "noncentral-t")


def _noncentrality(t: float, df: int, q: float) -> float:
    """The noncentrality for which the noncentral t distribution has ``P(T <= t) = q``."""
    from scipy.optimize import brentq

    def gap(noncentrality: float) -> float:
        sign = 1.0 if t >= 0 else -1.0
        probability = special.nctdtr(df, sign * noncentrality, sign * t)
        if math.isnan(probability):  # the series fails far in a tail, where it is 0 or 1
            probability = 0.0 if sign * noncentrality > sign * t else 1.0
        return (probability if t >= 0 else 1 - probability) - q

    reach = 10.0 + 2 * abs(t)
    return float(brentq(gap, t - reach, t + reach, xtol=1e-10))

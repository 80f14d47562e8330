"""Difference in stability between two independent ensembles."""

from __future__ import annotations

import math

import numpy as np

from husai.statistics import Interval, jackknife_difference


def stability_difference(a: np.ndarray, b: np.ndarray) -> Interval:
    """Mean pairwise agreement of ensemble ``a`` minus that of ``b``, with a jackknife-t interval over seeds.

    Parameters
    ----------
    a, b : ndarray (n_a, n_a), (n_b, n_b)
        Pairwise values, for example chance-corrected PWMCC, each against the null of its own space.

    Returns
    -------
    Interval
        Undefined, without bounds, when any pair is undefined.
    """
    for matrix in (a, b):
        if not np.isfinite(matrix[~np.eye(len(matrix), dtype=bool)]).all():
            return Interval(math.nan, -math.inf, math.inf, min(len(a), len(b)), "undefined")
    return jackknife_difference(a, b)

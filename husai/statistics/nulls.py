"""A null as it is stored: its mean, and how far off that mean may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from husai.statistics.intervals import jackknife_se

TARGET_ERROR = 0.002
"""Standard error below which a null is known well enough: S then moves by 0.002 at most."""
FEWEST = 5
"""Dictionaries of which a standard error is believed without more draws."""


class NullMean(NamedTuple):
    """Mean of a null with its standard error."""

    value: float
    error: float
    """Standard error; NaN where a single pair gives none."""
    units: int
    """Independent units behind the error: draws, or dictionaries."""


def null_mean(pairs: Sequence[float], draws: Sequence[float] = ()) -> NullMean:
    """From independent ``draws`` where there are any, else from all ``pairs`` of n dictionaries.

    Draws are pairs of dictionaries of which no two share one: their mean has the standard error
    ``std / sqrt(n)``. Pairs of n dictionaries share them: theirs is the jackknife's over
    dictionaries."""
    if len(draws):
        values = np.asarray(draws, dtype=np.float64)
        error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return NullMean(float(values.mean()), error, len(values))
    matrix = pair_matrix(pairs)
    error = float(jackknife_se(matrix)[1]) if len(matrix) > 2 else math.nan
    return NullMean(float(np.mean(pairs)), error, len(matrix))


def pair_matrix(pairs: Sequence[float]) -> np.ndarray:
    """Pairs (0, 1), (0, 2), ..., (1, 2), ... as a symmetric matrix with ones on the diagonal."""
    n = round((1 + (1 + 8 * len(pairs)) ** 0.5) / 2)
    found = np.eye(n)
    found[np.triu_indices(n, 1)] = pairs
    return np.maximum(found, found.T)


def null_means(nulls: Mapping[str, Mapping[str, Any]]) -> dict[str, NullMean]:
    """``{kind: mean}`` of stored nulls (``pairs``, and ``draws`` where there are any).

    Two dictionaries give one pair and no error of their own: they get the spread over pairs of the
    ``gaussian`` null, whose dictionaries are drawn like untrained ones."""
    found = {kind: null_mean(n["pairs"], n.get("draws", ())) for kind, n in nulls.items()}
    like = nulls.get("gaussian", {})
    spread = np.asarray(like.get("draws") or like.get("pairs") or [math.nan], dtype=np.float64)
    spread = float(spread.std(ddof=1)) if len(spread) > 1 else 0.0
    return {
        kind: mean._replace(error=spread) if math.isnan(mean.error) else mean
        for kind, mean in found.items()
    }

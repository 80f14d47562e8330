"""Correction for chance: how far a value lies between what unrelated things score and 1."""

from __future__ import annotations

import math

import numpy as np

ASSESSABLE_LIMIT = 0.9
"""Of a null. From there to 1 is too little room to tell a feature from chance (docs/method.md)."""


def assessable(null) -> bool:
    """False when chance alone scores above 0.9: the metric can then tell nothing apart, and a gate
    that needs it fails.
    """
    mean = float(null)
    return math.isfinite(mean) and mean <= ASSESSABLE_LIMIT


def chance_corrected(value, null):
    """``S = (value - null) / (1 - null)``: 0 at chance, 1 when identical, negative below chance.

    ``value`` is a number, a list, an array or a tensor. NaN when the null is 1 (nothing could be
    better than chance). The form is that of Cohen's kappa.

    References
    ----------
    Cohen, "A coefficient of agreement for nominal scales", Educ. Psychol. Meas. 20 (1960).

    Examples
    --------
    >>> chance_corrected(0.75, null=0.5)
    0.5
    """
    mean = float(null)
    value = np.asarray(value) if isinstance(value, (list, tuple)) else value
    if not mean < 1.0:
        return value * math.nan
    return (value - mean) / (1.0 - mean)

"""The leak probe: labels that are independent of the honest input must be predicted by chance."""

from __future__ import annotations

import math

TOLERANCE = 0.01
Z_95 = 1.6448536269514722
"""How far above chance the lower bound may lie, and the normal quantile of a one-sided 95%
bound."""


def wilson_lower(successes: float, n: int, z: float = Z_95) -> float:
    """One-sided 95% lower bound of a proportion (Wilson 1927, score interval)."""
    if n == 0:
        return 0.0
    p = successes / n
    centre = p + z * z / (2 * n)
    margin = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - margin) / (1 + z * z / n))


def leak_record(correct: int, n: int, chance: float) -> dict:
    """Accuracy on shuffled labels against chance.

    Returns
    -------
    dict
        accuracy, chance, n, excess = accuracy - chance, excess_lcb = its one-sided 95% lower bound
        (Wilson), and at_chance: whether that bound is at most ``TOLERANCE``; an honest subject
        fails by luck next to never, an answer in the input always.
    """
    accuracy = correct / n
    lower = wilson_lower(correct, n) - chance
    return {
        "accuracy": accuracy,
        "chance": chance,
        "n": n,
        "excess": accuracy - chance,
        "excess_lcb": lower,
        "at_chance": lower <= TOLERANCE,
    }

"""At which level the bounds of a candidate are judged when it is not the first that was confirmed
on its data. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FAMILY_ALPHA = 0.05
STATED = 6


def candidate_alpha(order: int) -> float:
    """One-sided level for the ``order``-th candidate confirmed on the same data: ``0.05 / (order *
    (order + 1))``.

    Every further candidate is one more chance for a false pass. These levels sum to 0.05 however
    many follow, so the chance that any of them passes wrongly is at most 5%, whenever one stops,
    and no earlier decision has to be looked at again (alpha spending; Foster & Stine, J. R. Stat.
    Soc. B 70 (2008)). The first is judged at 0.025: the bound of a two-sided 95% interval.

    Holm's method needs the p-values of all candidates at once and takes back earlier rejections as
    more arrive. It is never stricter than its own first step, ``0.05 / order``, and no level here
    exceeds that: what passes here, Holm across the candidates so far rejects too."""
    return FAMILY_ALPHA / (order * (order + 1))


def stated_bounds(interval_at: Callable[[float], Any]) -> list[dict[str, float]]:
    """Bounds for further candidates, for a metric from whose 95% interval they cannot be computed
    afterwards (a bootstrap).

    ``interval_at`` gives the interval at a two-sided confidence.
    """
    alphas = [candidate_alpha(order) for order in range(2, STATED + 1)]
    found = [(alpha, interval_at(1.0 - 2.0 * alpha)) for alpha in alphas]
    return [{"alpha": alpha, "lcb": interval.lcb, "ucb": interval.ucb} for alpha, interval in found]

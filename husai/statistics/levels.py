"""At which level the bounds of a candidate are judged when it is not the first that was confirmed
on its data. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FAMILY_ALPHA = 0.05
"""Chance that any of a candidate's successors, however many, passes wrongly."""
LATER = 0.7
"""Share of the level that a second or later candidate gets. Far out in the tail the intervals of
unequal families pass up to a third more often than they say: six levels summed to 5.5% there, and
to 4.8% with this share (``tests/statistics/test_levels.py``)."""
STATED = 6
"""Candidates for whose levels a metric states its bounds. Each costs one more pair of bounds in
every record; a seventh attempt on the same data has no bound and fails."""


def candidate_alpha(order: int) -> float:
    """One-sided level for the ``order``-th candidate confirmed on the same data: ``0.05 / (order *
    (order + 1))``, from the second on times :data:`LATER`.

    These levels sum to less than 0.05 however many follow, so the chance that any of them passes
    wrongly is at most 5%, whenever one stops, and no earlier decision has to be looked at again
    (alpha spending; Foster & Stine, J. R. Stat. Soc. B 70 (2008)). The first is judged at 0.025:
    the bound of a two-sided 95% interval.

    Holm's method needs the p-values of all candidates at once and takes back earlier rejections as
    more arrive. It is never stricter than its own first step, ``0.05 / order``, and no level here
    exceeds that: what passes here, Holm across the candidates so far rejects too."""
    level = FAMILY_ALPHA / (order * (order + 1))
    return level if order == 1 else LATER * level


def stated_bounds(interval_at: Callable[[float], Any]) -> list[dict[str, float]]:
    """Bounds for further candidates, for a metric from whose 95% interval they cannot be computed
    afterwards (a bootstrap).

    ``interval_at`` gives the interval at a two-sided confidence.
    """
    alphas = [candidate_alpha(order) for order in range(2, STATED + 1)]
    found = [(alpha, interval_at(1.0 - 2.0 * alpha)) for alpha in alphas]
    return [{"alpha": alpha, "lcb": interval.lcb, "ucb": interval.ucb} for alpha, interval in found]

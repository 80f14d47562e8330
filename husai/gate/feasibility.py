"""Can a threshold be met at all, by any candidate and with the seeds at hand?"""

from __future__ import annotations

import math
from typing import NamedTuple

from husai.evidence import Evidence, Metric
from husai.gate.policy import Condition, Gate
from husai.provenance import finite


class Finding(NamedTuple):
    """What stands between a condition and any candidate; ``blocking`` makes it unattainable."""

    gate: str
    condition: str
    kind: str
    """``unattainable`` (beyond what the score can be), ``unresolvable`` (beyond what the seeds can
    show) or ``resolution``.
    """
    blocking: bool
    reason: str
    needed: float | None = None
    limit: float | None = None


def assess(gate: Gate, condition: Condition, metric: Metric, item: Evidence) -> Finding | None:
    """Compare a condition with what is attainable for this metric and resolvable with this
    interval; None where a point is judged that can be attained.

    The attainable range is the policy's ``range``, narrowed by what the metric itself says it can
    be and, for CE-Bench, by the bound of the z-score: a candidate at the bound gains at most
    ``(bound - frozen) / bound`` over a frozen decoder. The smallest effect resolvable is the
    half-width of the interval on the judged side: critical value x standard error."""
    low, high, why = _limits(condition, metric, item)
    upward, asked, where = condition.upward, condition.threshold, (gate.name, condition.name)
    limit = high if upward else low
    if not condition.holds(limit):
        text = f"unattainable: {condition.op} {asked:g} is asked, but {why} ends at {limit:.4g}"
        return Finding(*where, "unattainable", True, text, asked, limit)
    if metric.value is None or condition.basis == "point":
        return None
    half_width = metric.value - metric.lcb if upward else metric.ucb - metric.value
    needed = asked + half_width if upward else asked - half_width
    if math.isinf(half_width):
        text = f"unresolvable: n = {metric.n} gives no interval on that side"
        return Finding(*where, "unresolvable", True, text)
    if needed > limit if upward else needed < limit:
        text = (
            f"unresolvable: with n = {metric.n} the value itself would have to be "
            f"{needed:.3g}, beyond its limit {limit:g}"
        )
        return Finding(*where, "unresolvable", True, text, needed, limit)
    text = (
        f"with n = {metric.n} a value of {needed:.3g} would be needed (half-width {half_width:.3g})"
    )
    return Finding(*where, "resolution", False, text, needed, finite(limit))


def _limits(condition: Condition, metric: Metric, item: Evidence) -> tuple[float, float, str]:
    low, high, why = condition.low, condition.high, "its range"
    if math.isfinite(metric.low) or math.isfinite(metric.high):
        why = metric.limit or "what this metric can be"
        low, high = max(low, metric.low), min(high, metric.high)
    if (condition.evidence, condition.metric) == ("cebench", "delta_vs_frozen"):
        bound, score = (
            found.value if (found := item.metrics.get(name)) else None
            for name in ("bound", "interpretability_fixed")
        )
        if bound and score is not None and metric.value is not None:
            attainable = 1.0 - (score / bound - metric.value)
            if attainable < high:
                high, has = attainable, f"{1 - attainable:.3g}"
                why = (
                    f"the CE-Bench bound {bound:.4g}, of which the frozen decoder already has {has}"
                )
    return low, high, why

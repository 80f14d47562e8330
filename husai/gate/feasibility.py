"""Can a threshold be met at all? Bounds of the score, and the smallest effect that the seeds at
hand can resolve.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from husai.evidence import Evidence, Metric
from husai.gate.policy import Condition, Gate


class Finding(NamedTuple):
    """What stands between a condition and any candidate. ``blocking`` findings are listed as
    unattainable.
    """

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


def assess(gate: Gate, condition: Condition, metric: Metric, item: Evidence) -> list[Finding]:
    """Compare a condition with what is attainable for this metric and resolvable with this
    interval.

    The attainable range is the policy's ``range``, narrowed by what the metric itself says it can
    be and, for CE-Bench, by the bound of the z-score: a candidate at the bound gains at most
    ``(bound - frozen) / bound`` over a frozen decoder. The smallest effect resolvable is the
    half-width of the interval on the judged side: critical value x standard error."""
    low, high, why = _limits(condition, metric, item)
    found = _beyond(gate, condition, low, high, why)
    if found or metric.value is None or condition.basis == "point":
        return found
    upward = condition.op in (">=", ">")
    half_width = metric.value - metric.lcb if upward else metric.ucb - metric.value
    needed = condition.threshold + half_width if upward else condition.threshold - half_width
    limit = high if upward else low
    blocked = "unresolvable", True
    if math.isinf(half_width):
        text = f"unresolvable: n = {metric.n} gives no interval on that side"
        return [Finding(gate.name, condition.name, *blocked, text)]
    if needed > limit if upward else needed < limit:
        text = (
            f"unresolvable: with n = {metric.n} the value itself would have to be "
            f"{needed:.3g}, beyond its limit {limit:g}"
        )
        return [Finding(gate.name, condition.name, *blocked, text, needed, limit)]
    text = (
        f"with n = {metric.n} a value of {needed:.3g} would be needed (half-width {half_width:.3g})"
    )
    end = limit if math.isfinite(limit) else None
    return [Finding(gate.name, condition.name, "resolution", False, text, needed, end)]


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
                high, why = (
                    attainable,
                    f"the CE-Bench bound {bound:.4g}, of which the frozen decoder already has "
                    f"{1 - attainable:.3g}",
                )
    return low, high, why


def _beyond(
    gate: Gate, condition: Condition, low: float, high: float, why: str = "its range"
) -> list[Finding]:
    asked = condition.threshold
    beyond = {">=": asked > high, ">": asked >= high, "<=": asked < low, "<": asked <= low}[
        condition.op
    ]
    if not beyond:
        return []
    limit = high if condition.op in (">=", ">") else low
    text = f"unattainable: {condition.op} {asked:g} is asked, but {why} ends at {limit:.4g}"
    return [Finding(gate.name, condition.name, "unattainable", True, text, asked, limit)]

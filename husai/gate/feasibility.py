"""Can a threshold be met at all? Bounds of the score, and the smallest effect that the seeds at
hand can resolve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from husai.gate.evidence import Reading, read_metric
from husai.gate.policy import Condition, Gate, Policy


class Finding(NamedTuple):
    """What stands between a condition and any candidate. ``blocking`` findings are listed as
    unattainable.
    """

    gate: str
    condition: str
    kind: str  # "unattainable" (beyond the score's bound), "unresolvable" (beyond what the seeds can show), "resolution"
    blocking: bool
    reason: str
    needed: float | None = None
    limit: float | None = None


def check_policy(policy: Policy) -> list[Finding]:
    """Thresholds no evidence whatsoever could meet, from the ranges the policy states."""
    return [
        f
        for gate in policy.gates
        for c in gate.conditions()
        for f in _beyond(gate, c, c.low, c.high)
    ]


def assess(
    gate: Gate, condition: Condition, reading: Reading, record: Mapping[str, Any]
) -> list[Finding]:
    """Compare a condition with what is attainable for this metric and resolvable with this
    interval.

    The attainable range is the policy's ``range``, narrowed by ``min``/``max`` in the metric itself
    and, for CE-Bench, by the bound of the z-score: a candidate at the bound gains at most ``(bound
    - frozen) / bound`` over a frozen decoder. The smallest effect resolvable is the half-width of
    the interval on the judged side: critical value x standard error."""
    low, high, why = _limits(condition, reading, record)
    found = _beyond(gate, condition, low, high, why)
    if found or reading.value is None or condition.basis == "point":
        return found
    upward = condition.op in (">=", ">")
    half_width = reading.value - reading.lcb if upward else reading.ucb - reading.value
    needed = condition.threshold + half_width if upward else condition.threshold - half_width
    limit = high if upward else low
    if math.isinf(half_width):
        text = f"unresolvable: n = {reading.n} gives no interval on that side"
        return [Finding(gate.name, condition.name, "unresolvable", True, text)]
    if needed > limit if upward else needed < limit:
        text = (
            f"unresolvable: with n = {reading.n} the value itself would have to be "
            f"{needed:.3g}, beyond its limit {limit:g}"
        )
        return [Finding(gate.name, condition.name, "unresolvable", True, text, needed, limit)]
    text = (
        f"with n = {reading.n} a value of {needed:.3g} would be needed (half-width "
        f"{half_width:.3g})"
    )
    return [
        Finding(
            gate.name,
            condition.name,
            "resolution",
            False,
            text,
            needed,
            limit if math.isfinite(limit) else None,
        )
    ]


def _limits(
    condition: Condition, reading: Reading, record: Mapping[str, Any]
) -> tuple[float, float, str]:
    low, high, why = condition.low, condition.high, "its range"
    metrics = record.get("metrics", {})
    entry = metrics.get(condition.metric)
    for key, bound in (("min", low), ("max", high)):
        number = entry.get(key) if isinstance(entry, Mapping) else None
        if isinstance(number, (int, float)) and math.isfinite(number):
            why = str(entry.get("limit") or "what this metric can be")
            low, high = (max(bound, number), high) if key == "min" else (low, min(bound, number))
    if (
        condition.evidence == "cebench"
        and condition.metric == "delta_vs_frozen"
        and {"bound", "interpretability_fixed"} <= metrics.keys()
    ):
        bound, score = (
            read_metric(metrics["bound"]).value,
            read_metric(metrics["interpretability_fixed"]).value,
        )
        if bound and score is not None and reading.value is not None:
            attainable = 1.0 - (score / bound - reading.value)
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

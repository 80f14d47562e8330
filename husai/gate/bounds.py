"""The level at which a candidate's bounds are judged, and bounds restated at a stricter one."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from husai.evidence import Metric, is_number
from husai.gate.attempts import confirmation_family, entries_of
from husai.gate.ledger import CONFIRMATION_LEDGER
from husai.gate.policy import Policy
from husai.statistics.levels import candidate_alpha

FIRST = candidate_alpha(1)
STUDENT = ("jackknife-t", "jackknife-welch-t", "paired-t")


def restate(metric: Metric, alpha: float) -> Metric:
    """``metric`` with its bounds at one-sided level ``alpha``, never tighter than before.

    Student intervals are widened by the ratio of quantiles on n - 1 degrees of freedom. (Welch's
    are at least n - 1; the ratio falls as they grow, so the bound errs to the safe side.) Other
    metrics state such bounds themselves, under ``bounds``. Where neither is possible the metric has
    no bound."""
    if alpha >= FIRST or metric.problem or metric.value is None or not metric.bounded:
        return metric
    for one in metric.bounds:
        if is_number(one.get("alpha")) and math.isclose(one["alpha"], alpha, rel_tol=1e-9):
            low, high = (
                bound if is_number(bound) and not math.isnan(bound) else absent
                for bound, absent in ((one.get("lcb"), -math.inf), (one.get("ucb"), math.inf))
            )
            return replace(metric, lcb=min(metric.lcb, low), ucb=max(metric.ucb, high))
    if metric.method in STUDENT and metric.n >= 2:
        factor = _widening(metric.n - 1, alpha)
        lcb, ucb = (
            metric.value + (bound - metric.value) * factor for bound in (metric.lcb, metric.ucb)
        )
        return replace(metric, lcb=lcb, ucb=ucb)
    return replace(metric, lcb=-math.inf, ucb=math.inf)


def standing(
    policy: Policy, candidate: Mapping[str, Any] | None, ledger: str | Path = CONFIRMATION_LEDGER
) -> dict[str, Any]:
    """What the confirmation ledger says of a candidate, as :func:`husai.gate.evaluate` takes it:
    ``alpha``, the one-sided level at which its bounds are judged, stricter for every test on the
    same data before it; and its own entries as ``attempts``.
    """
    recipe_hash = candidate.get("recipe_hash") if isinstance(candidate, Mapping) else None
    if not (recipe_hash and policy.judges_bounds):
        return {"alpha": FIRST, "attempts": ()}
    return {
        "alpha": candidate_alpha(confirmation_family(str(recipe_hash), ledger)["order"]),
        "attempts": entries_of(str(recipe_hash), ledger),
    }


@functools.cache
def _widening(df: int, alpha: float) -> float:
    from husai.statistics import t_quantile

    return t_quantile(df, 1.0 - 2.0 * alpha) / t_quantile(df, 1.0 - 2.0 * FIRST)

"""The level at which a candidate's bounds are judged, and a bound stated at a stricter level than
that of its own interval.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from husai.gate.evidence import Reading, is_number
from husai.gate.ledger import CONFIRMATION_LEDGER, confirmation_family
from husai.gate.policy import Policy
from husai.statistics.levels import candidate_alpha

FIRST = candidate_alpha(1)
STUDENT = ("jackknife-t", "jackknife-welch-t", "paired-t")


def restate(reading: Reading, entry: Mapping[str, Any], alpha: float) -> Reading:
    """``reading`` with its bounds at one-sided level ``alpha``, never tighter than before.

    Student intervals are widened by the ratio of quantiles on n - 1 degrees of freedom. (Welch's
    are at least n - 1; the ratio falls as they grow, so the bound errs to the safe side.) Other
    metrics state such bounds themselves, under ``bounds``. Where neither is possible the metric has
    no bound."""
    if (
        alpha >= FIRST
        or reading.problem
        or reading.value is None
        or (math.isinf(reading.lcb) and math.isinf(reading.ucb))
    ):
        return reading
    stated = entry.get("bounds")
    for one in stated if isinstance(stated, list) else ():
        if (
            isinstance(one, Mapping)
            and is_number(one.get("alpha"))
            and math.isclose(one["alpha"], alpha, rel_tol=1e-9)
        ):
            low, high = one.get("lcb"), one.get("ucb")
            return reading._replace(
                lcb=min(reading.lcb, low) if is_number(low) and not math.isnan(low) else -math.inf,
                ucb=max(reading.ucb, high)
                if is_number(high) and not math.isnan(high)
                else math.inf,
            )
    if entry.get("method") in STUDENT and reading.n >= 2:
        factor = _widening(reading.n - 1, alpha)
        lcb, ucb = (
            reading.value + (bound - reading.value) * factor for bound in (reading.lcb, reading.ucb)
        )
        return reading._replace(lcb=lcb, ucb=ucb)
    return reading._replace(lcb=-math.inf, ucb=math.inf)


def level_of(
    policy: Policy, candidate: Mapping[str, Any] | None, ledger: str | Path = CONFIRMATION_LEDGER
) -> float:
    """One-sided level at which a policy judges a candidate: stricter for every test on the same
    data that the ledger names before it.
    """
    recipe_hash = candidate.get("recipe_hash") if isinstance(candidate, Mapping) else None
    counts = policy.confirmation and policy.one_candidate and recipe_hash
    return candidate_alpha(confirmation_family(str(recipe_hash), ledger)["order"] if counts else 1)


@functools.cache
def _widening(df: int, alpha: float) -> float:
    from husai.statistics import t_quantile

    return t_quantile(df, 1.0 - 2.0 * alpha) / t_quantile(df, 1.0 - 2.0 * FIRST)

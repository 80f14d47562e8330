"""Metrics that junk cannot win, from what a stability record stores: agreement above chance, by
weight and by the worst seed, and what sets the SAEs apart from their frozen control.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from husai.evidence import Metric
from husai.statistics.chance import assessable, chance_corrected
from husai.statistics.intervals import (
    as_array,
    jackknife_difference,
    jackknife_t,
    square,
    t_quantile,
    unbounded,
)
from husai.statistics.nulls import TARGET_ERROR, NullMean, null_means

PER_SEED_QUALITY = ("redundancy", "dense_fraction", "distinct_latents", "l0_per_d_in")
NARROW = 6.0
"""A start trace of a decoder that is its own start, below which the trace of one SAE is not judged
alone. Honest trainings keep about two thirds of it and must reach 3: it is 2.9 at 4 latents, where
all were flagged, 4.7 at 6 and 6.3 at 8 (16 trainings each)."""


def corrected(matrix: np.ndarray, null: NullMean, kind: str = "", what: str = "null") -> Metric:
    """Chance-corrected mean of a pairwise matrix ``(n, n)``, with the error of the null in its
    interval.

    ``S = (P - N) / (1 - N)``, so the variance is ``se(P)^2 / (1 - N)^2 + ((1 - P) / (1 - N)^2)^2
    se(N)^2`` (delta method), with Student t on n - 1 degrees of freedom: fewer than those of the
    null, so the bound errs to the safe side. Undefined where the null is not assessable.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    label = f"{kind} {what}" if kind else what
    n = len(matrix)
    if not assessable(null.value):
        return unbounded(math.nan, n, f"not assessable: {label} {null.value:.3f}")
    if not np.isfinite(matrix[~np.eye(n, dtype=bool)]).all():
        return unbounded(math.nan, n, "undefined")
    found = jackknife_t(chance_corrected(matrix, null.value))
    if not math.isfinite(found.lcb) or not null.error > 0:
        return found
    slope = (1.0 - found.value) / (1.0 - null.value)
    half = math.hypot(found.ucb - found.value, t_quantile(n - 1) * slope * null.error)
    return Metric(found.value, found.value - half, found.value + half, n, found.method)


def null_error(kind: str, null: NullMean) -> Metric:
    """The standard error of the null that S is measured against, as a metric: 0.002 is wanted."""
    reached = "below" if null.error < TARGET_ERROR else "not below"
    text = f"{kind} null, {null.units} units: {reached} {TARGET_ERROR:g}"
    return Metric(null.error, null.error, null.error, null.units, text)


def worst_seed(matrix: np.ndarray, null: float) -> Metric:
    """Lowest mean S of one seed with all others, from pairwise values ``(n, n)``; NaN where the
    null is not assessable.
    """
    corrected_matrix = chance_corrected(np.asarray(matrix, dtype=np.float64), null)
    n = len(corrected_matrix)
    own = (corrected_matrix.sum(1) - np.diagonal(corrected_matrix)) / (n - 1)
    lowest = float(own.min()) if assessable(null) else math.nan
    return unbounded(lowest, n, "lowest mean over the pairs of one seed")


def quality_metrics(stored: Mapping[str, Any], worst: str, null: NullMean) -> dict[str, Metric]:
    """``{name: metric}`` of everything here that ``stored`` has the values for: what
    :func:`husai.statistics.ensemble_metrics` takes, ``frozen`` (values per SAE of the control) and
    ``activation_nulls`` (``{kind: {"pairs", "draws"}}``). S is measured against ``null``, of kind
    ``worst``.
    """
    pairwise, per_seed = stored["pairwise"], stored["per_seed"]
    found = {
        "S_worst_seed": worst_seed(square(pairwise["pwmcc"]), null.value),
        "null_error": null_error(worst, null),
    }
    if "pwmcc_weighted" in pairwise:
        found["S_weighted"] = corrected(square(pairwise["pwmcc_weighted"]), null, worst)
    for kind, mean in null_means(stored.get("activation_nulls") or {}).items():
        found["activation_agreement"] = corrected(
            square(pairwise["activation_r"]), mean, kind, "activation null"
        )
        half = t_quantile(mean.units - 1) * mean.error if mean.units > 1 else math.inf
        found["null_activation_r"] = Metric(
            mean.value, mean.value - half, mean.value + half, mean.units, "t over draws"
        )
    for name in PER_SEED_QUALITY:
        if name in per_seed:
            found[name] = jackknife_t(as_array(per_seed[name]))
    return found | _versus_frozen(per_seed, stored.get("frozen") or {})


def untraced(traces: Sequence[float | None], limits: Sequence[float | None] | None, bar: float):
    """How many seeds keep no trace of their start, and how that was judged; None where the SAEs are
    so narrow that no order of rows could show it.

    The trace of one SAE is judged alone where it could be at least :data:`NARROW`. Of narrower SAEs
    the traces of all seeds are taken together, ``sum / sqrt(n)``: they descend from their starts as
    a group, or none of them counts as traced."""
    values = as_array(traces)
    most = np.full(len(values), math.inf) if limits is None else as_array(limits)
    if not (most < NARROW).any():
        text = f"row order resembles the seed's own start by less than {bar:g} sd"
        return int((~(values >= bar)).sum()), text
    root = math.sqrt(len(values))
    if not most.sum() / root >= bar:
        return None, "too few latents for the order of rows to say anything"
    together = bool(values.sum() / root >= bar)
    return 0 if together else len(values), f"all seeds together against {bar:g} sd (narrow SAEs)"


def _versus_frozen(per_seed: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Metric]:
    if "explained_variance" not in frozen or "explained_variance" not in per_seed:
        return {}
    found = {}
    for name in ("explained_variance", "l0"):
        own, control = as_array(per_seed[name]), as_array(frozen[name])
        found[f"{name}_vs_frozen"] = (
            jackknife_difference(own, control)
            if np.isfinite([*own, *control]).all()
            else unbounded(math.nan, len(own), "undefined")
        )
    return found

"""The metrics of an ensemble from what is stored beside them: pairwise values, nulls and values per
seed.

The measurement writes its metrics with :func:`ensemble_metrics`; ``husai verify`` calls it again on
the record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from husai.evidence import Metric
from husai.statistics.chance import assessable
from husai.statistics.intervals import as_array, jackknife_t, square, unbounded
from husai.statistics.nulls import null_means
from husai.statistics.quality import corrected, quality_metrics, untraced

CLONE = 1.0 - 1e-6
"""PWMCC from which two decoders are the same up to order and sign of rows."""
COINCIDENCE = 1e-6
"""Chance, over all pairs of an ensemble, at which as many rows at one index are no coincidence."""
TRACE = 3.0
"""Standard deviations by which a decoder must resemble its own start, row by row, more than it
would in any other order.
"""
SINGLE = ("effective_rank", "participation_ratio", "shared_init_pairs")
"""Metrics that nothing stored beside them gives."""
PAIRWISE = {
    "pwmcc": "pwmcc",
    "pwmcc_all": "pwmcc_all",
    "pw_mcc": "pw_mcc",
    "shared_fraction": "shared",
    "shared_fraction_all": "shared_all",
    "feature_stability": "reappearance",
    "activation_r": "activation_r",
    "pwmcc_weighted": "pwmcc_weighted",
    "shared_fraction_weighted": "shared_weighted",
}
"""Metric: the pairwise values it is the mean of."""
OVERLAP = "subspace_overlap_r"
PER_SEED = ("explained_variance", "l0", "dead_fraction", "cos_to_init", "cos_to_init_all")


def matrix_interval(values: np.ndarray) -> Metric:
    """Jackknife-t of a pairwise matrix, or of one value per seed; an undefined entry gives an
    undefined value without bounds.
    """
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.eye(len(values), dtype=bool)] if values.ndim == 2 else values
    if not np.isfinite(defined).all():
        return unbounded(math.nan, len(values), "undefined")
    return jackknife_t(values)


def coincidence_limit(n: int) -> int:
    """Fewest rows at one index that no pair of ``n`` independent SAEs has, but with chance
    :data:`COINCIDENCE`.

    The rows of independent trainings are in independent orders, so those that meet at one index are
    fixed points of a random permutation: ``k`` or more have probability at most ``1 / k!`` whatever
    the dictionaries are (the factorial moment ``E[C(X, k)] <= 1 / k!``)."""
    k, pairs = 1, n * (n - 1) / 2
    while pairs / math.factorial(k) > COINCIDENCE:
        k += 1
    return k


def clone_pairs(pwmcc_all: np.ndarray, same_index: np.ndarray | None) -> int:
    """Pairs that are no two trainings: equal up to order and sign of rows, or alike at more indices
    than independent orders can be. ``pwmcc_all`` and, where they were counted, ``same_index`` are
    ``(n, n)``.
    """
    found = np.asarray(pwmcc_all) >= CLONE
    if same_index is not None:
        found = found | (np.asarray(same_index) >= coincidence_limit(len(found)))
    return int(np.triu(found, 1).sum())


def ensemble_metrics(stored: Mapping[str, Any]) -> dict[str, Metric]:
    """``{name: metric}`` of a stability record, all but :data:`SINGLE`.

    Parameters
    ----------
    stored : mapping
        The record, or its details: ``pairwise`` (matrices by name), ``per_seed`` (lists by name),
        ``nulls`` and ``nulls_all`` (``{kind: {"pairs": [...]}}``).
    """
    pairwise = {name: square(values) for name, values in stored["pairwise"].items()}
    per_seed, n = stored["per_seed"], len(pairwise["pwmcc"])
    named = {name: pairwise[of] for name, of in PAIRWISE.items() if of in pairwise}
    named |= {name: matrix for name, matrix in pairwise.items() if name.startswith(OVERLAP)}
    found = {name: matrix_interval(matrix) for name, matrix in named.items()}
    means, means_all = null_means(stored["nulls"]), null_means(stored["nulls_all"])
    worst, worst_all = (max(m, key=lambda kind, m=m: m[kind].value) for m in (means, means_all))
    found["S"] = corrected(pairwise["pwmcc"], means[worst], worst)
    found["S_all"] = corrected(pairwise["pwmcc_all"], means_all[worst_all], worst_all)
    found |= quality_metrics(stored, worst, means[worst])
    found |= {f"null_{kind}": _null(kind, value) for kind, value in stored["nulls"].items()}
    found["null_worst"] = found[f"null_{worst}"]
    found["null_worst_all"] = _null(worst_all, stored["nulls_all"][worst_all])
    found |= {
        name: matrix_interval(as_array(per_seed[name])) for name in PER_SEED if name in per_seed
    }
    same, method = pairwise.get("same_index"), "equal decoders"
    if same is not None:
        method += f", or {coincidence_limit(n)} rows or more alike at one index"
    found["clone_pairs"] = Metric(float(clone_pairs(pairwise["pwmcc_all"], same)), method=method)
    if "start_trace" in per_seed:
        limits = per_seed.get("start_trace_limit")
        count, method = untraced(per_seed["start_trace"], limits, TRACE)
        if count is not None:
            found["untraced_seeds"] = Metric(float(count), method=method)
    yes = float(assessable(means[worst].value))
    found["assessable"] = Metric(yes, yes, yes, n, f"worst null: {worst}")
    return found


def _null(kind: str, stored: Mapping[str, Any]) -> Metric:
    """A null as a metric: its bounds are the lowest and the highest pair that it was measured
    on."""
    values = stored.get("draws") or stored["pairs"]
    what = "independent draws" if stored.get("draws") else "pairs"
    method = f"{kind} null: mean, min and max over {what}"
    return Metric(float(np.mean(values)), min(values), max(values), len(values), method)

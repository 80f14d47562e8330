"""Difference in stability between two independent ensembles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from husai.evidence import Metric, read_metric
from husai.probing.tables import informative
from husai.statistics import (
    chance_corrected,
    crossed_metric,
    jackknife_difference,
    t_quantile,
)
from husai.statistics.ensemble import square
from husai.statistics.nulls import NullMean, null_means
from husai.statistics.quality import corrected


def stability_difference(a: np.ndarray, b: np.ndarray) -> Metric:
    """Mean pairwise agreement of ensemble ``a`` minus that of ``b``, with a jackknife-t interval
    over seeds.

    Parameters
    ----------
    a, b : ndarray (n_a, n_a), (n_b, n_b)
        Pairwise values, for example chance-corrected PWMCC, each against the null of its own space.

    Returns
    -------
    Metric
        Undefined, without bounds, when any pair is undefined.
    """
    for matrix in (a, b):
        if not np.isfinite(matrix[~np.eye(len(matrix), dtype=bool)]).all():
            return Metric(math.nan, -math.inf, math.inf, min(len(a), len(b)), "undefined")
    return jackknife_difference(a, b)


def probing_difference(rows: Sequence[Mapping[str, Any]]) -> Metric:
    """AUC of probes on the candidate minus that of probes on the SAE of the randomised subject, in
    pairs of seed and data set, crossed over seeds and families.

    Parameters
    ----------
    rows : sequence of mapping
        ``seed``, ``dataset``, ``family``, ``auc`` and ``random_auc``; every seed has every data
        set.
    """
    families = {row["dataset"]: row["family"] for row in rows}
    delta = {(row["seed"], row["dataset"]): row["auc"] - row["random_auc"] for row in rows}
    seeds = dict.fromkeys(row["seed"] for row in rows)
    table = [[delta[seed, name] for name in families] for seed in seeds]
    return crossed_metric(table, list(families.values()))


def paired_probes(ours: Sequence[dict], theirs: Sequence[dict]) -> list[dict]:
    """Rows that :func:`probing_difference` reads, from probing records of single SAEs, ``ours`` on
    the trained subject and ``theirs`` on the randomised one: AUC at the gate's k on the data sets
    that are informative on the trained subject.

    SAEs are paired in the order of the records, as many as the smaller ensemble has: seeds of two
    subjects have nothing but their number in common."""
    rows = []
    for mine, other in zip(ours, theirs, strict=False):
        k = mine["probing"]["gate_k"]
        aucs = {row["dataset"]: row["auc"] for row in other["per_dataset"] if row["k"] == k}
        families = informative(mine["per_dataset"])
        rows += [
            {
                "seed": mine["seed"],
                "random_seed": other["seed"],
                "dataset": row["dataset"],
                "family": families[row["dataset"]],
                "auc": row["auc"],
                "random_auc": aucs[row["dataset"]],
            }
            for row in mine["per_dataset"]
            if row["k"] == k and row["dataset"] in families
        ]
    return rows


def _widened(difference: Metric, *sides: tuple[Metric, NullMean]) -> Metric:
    """The interval with the errors of both nulls in it, as that of S has its own
    (:func:`husai.statistics.quality.corrected`)."""
    errors = [(1 - S.value) / (1 - null.value) * null.error for S, null in sides if null.error > 0]
    if not errors or not math.isfinite(difference.lcb):
        return difference
    half = math.hypot(
        difference.ucb - difference.value, *(t_quantile(difference.n - 1) * e for e in errors)
    )
    return replace(difference, lcb=difference.value - half, ucb=difference.value + half)


def stress_metrics(
    kind: str, candidate: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, dict]:
    """Metrics of ``random_model`` or ``transcoder`` evidence from the stability records of the
    candidate and of the other ensemble.

    Each is corrected by the worst null measured for *both* kinds of ensemble in its own space (a
    null only one of them has is left out of the comparison), whose error is part of the interval.
    ``transcoder`` also gives the raw difference that the ``cycle3`` policy reads."""
    shared = [name for name in candidate["nulls"] if name in other["nulls"]]
    null, other_null = (
        max((null_means(r["nulls"])[name] for name in shared), key=lambda n: n.value)
        for r in (candidate, other)
    )
    ours, theirs = (square(r["pairwise"]["pwmcc"]) for r in (candidate, other))
    difference = stability_difference(
        chance_corrected(ours, null.value), chance_corrected(theirs, other_null.value)
    )
    ours, theirs = corrected(ours, null), corrected(theirs, other_null)
    method = f"worst of {', '.join(shared)}"
    variance = other["metrics"].get("explained_variance")
    metrics = {
        "delta_S": _widened(difference, (ours, null), (theirs, other_null)),
        "S_candidate": ours,
        f"S_{kind}": theirs,
        "null_candidate": Metric(null.value, method=method),
        f"null_{kind}": Metric(other_null.value, method=method),
        f"explained_variance_{kind}": variance and read_metric(variance),
    }
    if kind == "transcoder":
        raw = [square(r["pairwise"]["pwmcc_all"]) for r in (other, candidate)]
        metrics["transcoder_delta"] = stability_difference(*raw)
    return metrics

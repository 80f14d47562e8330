"""Choosing one candidate condition by absolute scores, so that the rest of the pool cannot sway the
choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from husai.cebench.bound import score_bound
from husai.errors import HusaiError
from husai.selection.candidates import (
    EXTERNAL,
    METRICS,
    Candidate,
    Entry,
    Selection,
    dominates,
    too_few,
)

SAEBENCH_SCALE = 0.05  # AUC gain over a frozen decoder that counts as one
CEBENCH_SCALE = 0.05  # gain as a fraction of the CE-Bench bound that counts as one
DENSE_MARGIN = 0.02  # allowed AUC loss against a dense probe, as in the strict gate


def select_strict(
    candidates: Sequence[Candidate],
    *,
    min_seeds: int = 5,
    interval: Callable | None = None,
    require_both_external: bool = True,
) -> Selection:
    """Choose by absolute scores: the largest of the smallest scaled lower bounds, whatever else is
    in the pool.

    Per condition and metric, the 95% lower bound over seeds of the deltas against a frozen decoder
    (SAEBench in AUC, CE-Bench as a fraction of its bound) and against a dense probe, each divided
    by a fixed scale; the score is the smallest of them. A condition's score depends on its own
    records only. The winner must then be confirmed on fresh seeds and held-out data; it is never
    gated on the data that chose it."""
    interval = interval or _seed_interval
    eligible = [c for c in candidates if all(code in (None, 0) for code in c.returncodes.values())]
    groups: dict[str, dict[Any, Candidate]] = {}
    for candidate in eligible:
        groups.setdefault(candidate.recipe_hash or candidate.condition, {}).setdefault(
            str(candidate.seed), candidate
        )
    left_out = too_few(
        {next(iter(members.values())).condition: members for members in groups.values()}, min_seeds
    )
    entries = [
        _strict_entry(list(members.values()), interval)
        for members in groups.values()
        if len(members) >= min_seeds
    ]
    if require_both_external:
        left_out |= {
            e.name: "no interval from both external benchmarks"
            for e in entries
            if len(e.components) < 2
        }
        entries = [e for e in entries if len(e.components) >= 2]
    if not entries:
        raise HusaiError(
            f"no condition has {min_seeds} seeds with both external benchmarks ({len(eligible)} "
            "eligible candidates)"
        )
    for entry in entries:
        entry.is_pareto = not any(
            dominates(other, entry) for other in entries if other is not entry
        )
    ordered = sorted(entries, key=_strict_key)
    scales = {"saebench": SAEBENCH_SCALE, "cebench": CEBENCH_SCALE, "dense_margin": DENSE_MARGIN}
    options = {
        "selector": "strict",
        "min_seeds": min_seeds,
        "scales": scales,
        "require_both_external": require_both_external,
    }
    return Selection("strict", ordered, len(candidates), len(eligible), options, left_out)


def _strict_key(entry: Entry) -> tuple:
    return -entry.score, -sum(entry.components.values()), entry.name


def _strict_entry(members: list[Candidate], interval: Callable) -> Entry:
    """Scaled lower bounds of one condition; where the frozen-decoder deltas were not measured, the
    original's deltas stand in.
    """
    members = sorted(members, key=lambda c: str(c.seed))
    metrics: dict[str, Any] = {}
    for key in (*METRICS, "delta_vs_frozen", "delta_vs_dense", "cebench_delta_vs_frozen_fraction"):
        values = [m.metrics.get(key) if key in METRICS else m.strict.get(key) for m in members]
        known = [v for v in values if v is not None]
        found = interval(known) if len(known) == len(members) else None
        metrics[key] = found[0] if found else None
        metrics[f"{key}_ci95_low"] = found[1] if found and math.isfinite(found[1]) else None
        metrics[f"{key}_n"] = len(known)
    components = {}
    if metrics["delta_vs_frozen_ci95_low"] is not None:
        components["saebench"] = metrics["delta_vs_frozen_ci95_low"] / SAEBENCH_SCALE
        if metrics["delta_vs_dense_ci95_low"] is not None:
            components["dense"] = (
                metrics["delta_vs_dense_ci95_low"] + DENSE_MARGIN
            ) / SAEBENCH_SCALE
    elif metrics["saebench_delta_ci95_low"] is not None:
        components["saebench"] = (
            metrics["saebench_delta_ci95_low"] + DENSE_MARGIN
        ) / SAEBENCH_SCALE
    if metrics["cebench_delta_vs_frozen_fraction_ci95_low"] is not None:
        components["cebench"] = metrics["cebench_delta_vs_frozen_fraction_ci95_low"] / CEBENCH_SCALE
    elif metrics["cebench_interp_delta_vs_baseline_ci95_low"] is not None:
        components["cebench"] = metrics["cebench_interp_delta_vs_baseline_ci95_low"] / (
            CEBENCH_SCALE * _bound(members)
        )
    scores = {m.condition_id: _own_score(m) for m in members}
    best = max(members, key=lambda m: (scores[m.condition_id], m.condition_id))
    return Entry(
        best.condition,
        metrics,
        members,
        best,
        min(components.values(), default=-math.inf),
        components=components,
        seed_scores=scores,
    )


def _own_score(member: Candidate) -> float:
    pairs = (
        ("delta_vs_frozen", SAEBENCH_SCALE),
        ("cebench_delta_vs_frozen_fraction", CEBENCH_SCALE),
    )
    strict = [member.strict[k] / scale for k, scale in pairs if member.strict.get(k) is not None]
    old = [member.metrics[k] for k in EXTERNAL if member.metrics[k] is not None]
    return min(strict or old, default=-math.inf)


def _bound(members: Sequence[Candidate]) -> float:
    """The CE-Bench bound of the condition's width, 1 where the records do not tell it."""
    widths = [m.d_sae for m in members if m.d_sae]
    return min(map(score_bound, widths), default=1.0)


def _seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and 95% lower bound over seeds (Student t, n - 1 degrees of freedom); one seed has no
    bound.
    """
    from husai.statistics import jackknife_t

    found = jackknife_t(list(values))
    return found.value, found.lcb

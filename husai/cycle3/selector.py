"""Choosing one candidate condition as the original did: the ``cycle3`` selector, exactly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

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

WEIGHTS = {
    "saebench_delta": 0.5,
    "cebench_interp_delta_vs_baseline": 0.5,
    "train_explained_variance": 0.1,
}


def select_cycle3(
    candidates: Sequence[Candidate],
    *,
    seed_level: bool = False,
    min_seeds: int = 3,
    require_both_external: bool = False,
) -> Selection:
    """The original's selector (method.md section 3, Selection), its flaws included.

    Candidates with a failed benchmark, and groups with fewer than ``min_seeds`` members, are
    dropped. Of each condition the lower bound ``mean - 1.96 std / sqrt(n)`` takes the place of the
    metric. Scores are min-max normalised over the pool, so they change with it. A missing metric
    adds nothing and is never dominated.

    Raises
    ------
    HusaiError
        No candidate is eligible, or no condition has ``min_seeds`` seeds.
    """
    eligible = [c for c in candidates if _eligible(c, require_both_external)]
    if not eligible:
        raise HusaiError(
            f"none of {len(candidates)} candidates is eligible (failed benchmarks, missing deltas "
            "or thresholds)"
        )
    seeds = [Entry(c.condition_id, dict(c.metrics), [c], c) for c in eligible]
    _score(seeds)
    few = {} if seed_level else too_few(_by_condition(seeds), max(1, min_seeds))
    entries = seeds if seed_level else _grouped(seeds, max(1, min_seeds))
    if not entries:
        raise HusaiError(
            f"no condition has {min_seeds} seeds among {len(eligible)} eligible candidates; lower "
            "--min-seeds or add seeds"
        )
    if not seed_level:
        _score(entries)
    for entry in entries:
        entry.is_pareto = not any(dominates(other, entry) for other in entries)
    ordered = sorted(entries, key=_cycle3_key, reverse=True)
    options = {
        "selector": "cycle3",
        "seed_level": seed_level,
        "min_seeds": min_seeds,
        "weights": WEIGHTS,
        "uncertainty_mode": "point" if seed_level else "lcb",
        "require_both_external": require_both_external,
    }
    return Selection("cycle3", ordered, len(candidates), len(eligible), options, few)


def _eligible(candidate: Candidate, both: bool) -> bool:
    measured = all(candidate.metrics[k] is not None for k in EXTERNAL)
    return candidate.ended_well and (measured or not both)


def _score(entries: Sequence[Entry]) -> None:
    """Set each entry's weighted sum of min-max normalised metrics; a constant column counts 0.5."""
    for entry in entries:
        entry.score, entry.components = 0.0, {}
    for key, weight in WEIGHTS.items():
        found = [(e, e.metrics[key]) for e in entries if e.metrics.get(key) is not None]
        values = [v for _, v in found]
        low, high = min(values, default=0.0), max(values, default=0.0)
        for entry, value in found:
            entry.components[key] = (value - low) / (high - low) if high > low else 0.5
            entry.score += weight * entry.components[key]


def _by_condition(seeds: Sequence[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in seeds:
        groups.setdefault(entry.representative.condition, []).append(entry)
    return groups


def _grouped(seeds: Sequence[Entry], min_seeds: int) -> list[Entry]:
    out = []
    for name, members in _by_condition(seeds).items():
        if len(members) < min_seeds:
            continue
        metrics: dict[str, Any] = {}
        for key in METRICS:
            spread = _spread([m.metrics[key] for m in members])
            metrics.update({f"{key}_{k}": v for k, v in spread.items()})
            metrics[key] = spread["ci95_low"]
        best = max(members, key=lambda m: m.score).representative
        scores = {m.name: m.score for m in members}
        saes = [m.representative for m in members]
        out.append(Entry(name, metrics, saes, best, seed_scores=scores))
    return out


def _spread(values: Sequence[float | None]) -> dict[str, float | int | None]:
    known = [v for v in values if v is not None]
    if not known:
        return {"mean": None, "std": None, "ci95_low": None, "ci95_high": None, "n": 0}
    mean = statistics.fmean(known)
    std = statistics.stdev(known) if len(known) > 1 else 0.0
    half = 1.96 * std / math.sqrt(len(known))
    ends = {"ci95_low": mean - half, "ci95_high": mean + half}
    return {"mean": mean, "std": std, **ends, "n": len(known)}


def _cycle3_key(entry: Entry) -> tuple:
    known = (entry.metrics.get(k) for k in EXTERNAL)
    return (entry.is_pareto, entry.score, *(-math.inf if v is None else v for v in known))

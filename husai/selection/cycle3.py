"""Choosing one candidate condition as the original did: the ``cycle3`` selector, exactly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

from husai.errors import HusaiError
from husai.selection.candidates import EXTERNAL, METRICS, Candidate

WEIGHTS = {
    "saebench_delta": 0.5,
    "cebench_interp_delta_vs_baseline": 0.5,
    "train_explained_variance": 0.1,
}


@dataclass
class Entry:
    """One row of the pool: a seed or a condition, its metrics, its score, and the seed that stands
    for it.
    """

    name: str
    metrics: dict[str, Any]
    members: list[Candidate]
    representative: Candidate
    score: float = -math.inf
    is_pareto: bool = False
    components: dict[str, float] = field(default_factory=dict)
    seed_scores: dict[str, float] = field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        """This row for ``selected_candidate.json``."""
        return {
            "condition": self.name,
            "score": self.score,
            "is_pareto": self.is_pareto,
            "seed_count": len(self.members),
            "representative_seed": self.representative.seed,
            "components": self.components,
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class Selection:
    """Outcome of a selector: the pool in order, best first."""

    policy: str
    ordered: list[Entry]
    total: int
    eligible: int
    options: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)
    """Conditions that could not be chosen, each with the reason."""

    @property
    def selected(self) -> Entry:
        return self.ordered[0]

    @property
    def pareto(self) -> list[Entry]:
        return [e for e in self.ordered if e.is_pareto]

    def to_dict(self) -> dict[str, Any]:
        """The body of ``selected_candidate.json``, without provenance."""
        entry = self.selected
        representative = entry.representative
        return {
            "policy": self.policy,
            "condition": entry.name,
            "condition_id": entry.name,
            "group_id": representative.condition,
            "architecture": representative.architecture,
            "hook_name": representative.hook_name,
            "recipe": representative.recipe,
            "recipe_hash": representative.recipe_hash,
            "seed": representative.seed,
            "representative_condition_id": representative.condition_id,
            "checkpoint": representative.checkpoint,
            "source": representative.source,
            "source_results": representative.source_results,
            "seed_count": len(entry.members),
            "score": entry.score,
            "metrics": entry.metrics
            | (
                {}
                if representative.cebench_max is None
                else {"cebench_attainable_max": representative.cebench_max}
            ),
            "selection": {
                "joint_score": entry.score,
                "is_pareto": entry.is_pareto,
                "representative_seed": representative.seed,
            }
            | {"normalized_components": entry.components, **self.options},
            "counts": {
                "total_candidates": self.total,
                "eligible_seed_candidates": self.eligible,
                "eligible_candidates": len(self.ordered),
                "groups": len(self.ordered),
                "pareto_count": len(self.pareto),
            },
            "seed_candidates": [
                m.summary() | {"score": entry.seed_scores.get(m.condition_id)}
                for m in entry.members
            ],
            "pareto": [e.name for e in self.pareto],
            "pareto_front": [e.table() for e in self.pareto],
            "pool": [e.table() for e in self.ordered],
            "left_out": self.left_out,
        }


def select_cycle3(
    candidates: Sequence[Candidate],
    *,
    seed_level: bool = False,
    min_seeds: int = 3,
    require_both_external: bool = False,
    uncertainty_mode: str = "lcb",
    min_saebench_delta: float = -math.inf,
    min_cebench_delta: float = -math.inf,
) -> Selection:
    """The original's selector (method.md section 3, Selection), its flaws included.

    Candidates with a failed benchmark, and groups with fewer than ``min_seeds`` members, are
    dropped. Of each condition the lower bound ``mean - 1.96 std / sqrt(n)``
    (``uncertainty_mode='point'``: the mean) takes the place of the metric. Scores are min-max
    normalised over the pool, so they change with it. A missing metric adds nothing and is never
    dominated."""
    if uncertainty_mode not in ("lcb", "point"):
        raise HusaiError(f"uncertainty mode '{uncertainty_mode}' is not lcb or point")
    eligible = [
        c
        for c in candidates
        if _eligible(c, require_both_external, min_saebench_delta, min_cebench_delta)
    ]
    if not eligible:
        raise HusaiError(
            f"none of {len(candidates)} candidates is eligible (failed benchmarks, missing deltas "
            "or thresholds)"
        )
    seeds = [Entry(c.condition_id, dict(c.metrics), [c], c) for c in eligible]
    _score(seeds)
    few = {} if seed_level else too_few(_by_condition(seeds), max(1, min_seeds))
    entries = seeds if seed_level else _grouped(seeds, uncertainty_mode, max(1, min_seeds))
    if not entries:
        raise HusaiError(
            f"no condition has {min_seeds} seeds among {len(eligible)} eligible candidates; lower "
            "--min-seeds or add seeds"
        )
    if not seed_level:
        _score(entries)
    for entry in entries:
        entry.is_pareto = not any(
            dominates(other, entry) for other in entries if other is not entry
        )
    ordered = sorted(entries, key=_cycle3_key, reverse=True)
    mode = {"uncertainty_mode": "point" if seed_level else uncertainty_mode}
    options = {
        "selector": "cycle3",
        "seed_level": seed_level,
        "min_seeds": min_seeds,
        "weights": WEIGHTS,
        **mode,
    }
    options["require_both_external"] = require_both_external
    return Selection("cycle3", ordered, len(candidates), len(eligible), options, few)


def _eligible(candidate: Candidate, both: bool, min_saebench: float, min_cebench: float) -> bool:
    saebench, cebench = (candidate.metrics[k] for k in EXTERNAL)
    if both and (saebench is None or cebench is None):
        return False
    if (saebench is not None and saebench < min_saebench) or (
        cebench is not None and cebench < min_cebench
    ):
        return False
    return all(code in (None, 0) for code in candidate.returncodes.values())


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


def too_few(groups: Mapping[str, Sized], min_seeds: int) -> dict[str, str]:
    """Conditions with fewer than ``min_seeds`` members, each with the reason why it cannot be
    chosen.
    """
    why = {1: "one seed gives no interval"}
    return {
        name: f"{why.get(len(members), f'{len(members)} seeds')}; {min_seeds} are needed"
        for name, members in groups.items()
        if len(members) < min_seeds
    }


def _grouped(seeds: Sequence[Entry], mode: str, min_seeds: int) -> list[Entry]:
    out = []
    for name, members in _by_condition(seeds).items():
        if len(members) < min_seeds:
            continue
        metrics: dict[str, Any] = {}
        for key in METRICS:
            spread = _spread([m.metrics[key] for m in members])
            metrics.update({f"{key}_{k}": v for k, v in spread.items()})
            metrics[key] = spread["ci95_low" if mode == "lcb" else "mean"]
        best = max(members, key=lambda m: m.score)
        scores = {m.name: m.score for m in members}
        out.append(
            Entry(
                name,
                metrics,
                [m.representative for m in members],
                best.representative,
                seed_scores=scores,
            )
        )
    return out


def _spread(values: Sequence[float | None]) -> dict[str, float | int | None]:
    known = [v for v in values if v is not None]
    if not known:
        return {"mean": None, "std": None, "ci95_low": None, "ci95_high": None, "n": 0}
    mean = statistics.fmean(known)
    std = statistics.stdev(known) if len(known) > 1 else 0.0
    half = 1.96 * std / math.sqrt(len(known))
    return {
        "mean": mean,
        "std": std,
        "ci95_low": mean - half,
        "ci95_high": mean + half,
        "n": len(known),
    }


def dominates(a: Entry, b: Entry) -> bool:
    """Whether ``a`` is at least as good on both external deltas and better on one; False when
    either lacks one.
    """
    pairs = [(a.metrics.get(k), b.metrics.get(k)) for k in EXTERNAL]
    if any(x is None or y is None for x, y in pairs):
        return False
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def _cycle3_key(entry: Entry) -> tuple:
    known = (entry.metrics.get(k) for k in EXTERNAL)
    return (entry.is_pareto, entry.score, *(-math.inf if v is None else v for v in known))

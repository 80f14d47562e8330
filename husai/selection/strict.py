"""Choosing a candidate by its own distance to the gates: the rest of the pool cannot sway it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from husai.errors import HusaiError
from husai.selection.candidates import EXTERNAL, METRICS, Candidate, Entry, Selection, too_few
from husai.selection.margins import SCALES, margins, missing


def select_strict(
    candidates: Sequence[Candidate], conditions: Iterable[Any], *, min_seeds: int = 5
) -> Selection:
    """Choose the condition whose worst margin to any gate is the largest.

    Of every quantity that the strict policy gates and that the selection's data can show
    (:data:`husai.selection.margins.SCALES`) the bound that the gate would read is taken, less the
    gate's threshold, divided by a fixed unit; the score is the smallest of them. A condition's
    score depends on its own records only, so adding a bad candidate never changes the winner. The
    winner must then be confirmed on fresh seeds and held-out data; it is never gated on the data
    that chose it.

    ``conditions`` (:class:`husai.gate.Condition`) are those that the candidate will have to meet.

    Raises
    ------
    HusaiError
        When no condition has ``min_seeds`` seeds and every quantity; with the reason for each. With
        ``min_seeds`` 1 a condition may lack quantities that one SAE alone does not have.
    """
    conditions = list(conditions)
    eligible = [c for c in candidates if c.ended_well]
    groups: dict[str, dict[str, Candidate]] = {}
    for one in eligible:
        by_seed = groups.setdefault(one.recipe_hash or one.condition, {})
        by_seed.setdefault(str(one.seed), one)
    conditions_found = [list(by_seed.values()) for by_seed in groups.values()]
    left_out = too_few({found[0].condition: found for found in conditions_found}, min_seeds)
    entries = []
    for members in (found for found in conditions_found if len(found) >= min_seeds):
        lacking = missing(members[0].gated, conditions)
        if lacking and min_seeds > 1:
            left_out[members[0].condition] = f"not measured: {', '.join(lacking)}"
            continue
        entry = _entry(members, conditions)
        if lacking:  # where one SAE alone is admitted it comes after all that is known whole
            entry.score = -math.inf
        entries.append(entry)
    if not entries:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise HusaiError(f"no condition can be chosen by the strict policy's gates ({reasons})")
    for entry in entries:
        entry.is_pareto = not any(_dominates(other, entry) for other in entries)
    ordered = sorted(entries, key=_order)
    options = {"selector": "strict", "min_seeds": min_seeds, "scales": SCALES}
    return Selection("strict", ordered, len(candidates), len(eligible), options, left_out)


def _order(entry: Entry) -> tuple:
    finite = [x for x in entry.components.values() if math.isfinite(x)]
    return -entry.score, -len(finite), -sum(finite), entry.name


def _dominates(a: Entry, b: Entry) -> bool:
    """Whether ``a`` is nowhere nearer to a gate than ``b``, and somewhere farther from it."""
    pairs = [(x, b.components[key]) for key, x in a.components.items() if key in b.components]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def _entry(members: list[Candidate], conditions: Sequence[Any]) -> Entry:
    """One condition: its margins, and the original's metrics as their mean over seeds."""
    members = sorted(members, key=lambda c: str(c.seed))
    found = margins(members[0].gated, conditions)
    metrics: dict[str, Any] = {}
    for key in METRICS:
        known = [m.metrics[key] for m in members if m.metrics.get(key) is not None]
        value, low = _seed_interval(known) if len(known) == len(members) else (None, None)
        metrics |= {key: value, f"{key}_ci95_low": low, f"{key}_n": len(known)}
    scores = {m.condition_id: _own_score(m) for m in members}
    best = max(members, key=lambda m: (scores[m.condition_id], m.condition_id))
    return Entry(
        best.condition,
        metrics,
        members,
        best,
        min((m.scaled for m in found), default=-math.inf),
        components={m.condition: m.scaled for m in found},
        seed_scores=scores,
        margins=found,
    )


def _own_score(member: Candidate) -> float:
    """The smaller of one seed's gains over the frozen control, each in its unit."""
    units = {
        "delta_vs_frozen": SCALES["saebench.delta_vs_frozen"],
        "cebench_delta_vs_frozen_fraction": SCALES["cebench.delta_vs_frozen"],
    }
    own = [member.strict[k] / unit for k, unit in units.items() if member.strict.get(k) is not None]
    old = [member.metrics[k] for k in EXTERNAL if member.metrics[k] is not None]
    return min(own or old, default=-math.inf)


def _seed_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and 95% lower bound over seeds (Student t, n - 1 degrees of freedom)."""
    from husai.statistics import jackknife_t

    found = jackknife_t(list(values))
    return found.value, found.lcb if math.isfinite(found.lcb) else None

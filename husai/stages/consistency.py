"""Consistency summary: what alignment to a reference decoder buys, scored with and without the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from husai.stages.records import StabilityRecord, condition_row, interval, load_records
from husai.stages.summary import write_summary
from husai.statistics import jackknife_difference

COLUMNS = [
    "weight",
    "delta_with_reference",
    "delta_without_reference",
    "S",
    "S_without_reference",
    "explained_variance",
    "ev_drop",
    "accepted",
]


def consistency_job(spec: dict, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/consistency/summary.*``: one row per weight.

    A weight is accepted when its gain in S without the reference is at least 0 with a lower bound of at least 0 and explained variance
    falls by no more than ``max_ev_drop``. The external delta of the acceptance rule applies to language subjects only.
    """
    section, records = spec["consistency"], load_records(inputs)
    control = next(r for r in records.values() if not r.recipe.consistency_weight)
    rows = [weight_row(r, control, section) for r in sorted(records.values(), key=lambda r: r.recipe.consistency_weight)]
    accepted = [r["weight"] for r in rows if r["accepted"]]
    headline = f"On {section['subject']}: " + (
        f"accepted weights {accepted}." if accepted else "no weight improves stability of the independent seeds."
    )
    notes = [
        "Pairs with the reference are pulled towards it by construction: the verdict uses the pairs without it.",
        f"The reference is seed {section['seeds'][0]} of the plain recipe; every seed starts from its own initialisation.",
    ]
    figures = [
        {"kind": "errorbar", "x": "weight", "y": "S", "title": "S over the alignment weight, all pairs"},
        {"kind": "errorbar", "x": "weight", "y": "S_without_reference", "title": "S over the alignment weight, without the reference"},
    ]
    return write_summary(
        "consistency", out, rows, columns=COLUMNS, headline=headline, notes=notes, figures=figures, inputs=inputs, config=spec
    )


def weight_row(record: StabilityRecord, control: StabilityRecord, section: dict) -> dict:
    """One weight against the control, over all pairs and over the pairs without the reference seed."""
    seeds = section["seeds"]
    others, null = seeds[1:], control.null()
    with_reference = jackknife_difference(record.s_matrix(seeds, null), control.s_matrix(seeds, null))
    without = jackknife_difference(record.s_matrix(others, null), control.s_matrix(others, null))
    drop = float(control.per_seed("explained_variance", seeds).mean() - record.per_seed("explained_variance", seeds).mean())
    weight = record.recipe.consistency_weight
    return {
        "weight": weight,
        **condition_row(record, seeds),
        "S": interval(record.s_matrix(seeds, null)).metric(),
        "S_without_reference": interval(record.s_matrix(others, null)).metric(),
        "delta_with_reference": with_reference.metric(),
        "delta_without_reference": without.metric(),
        "ev_drop": drop,
        "accepted": bool(weight and without.value >= 0 and without.lcb >= 0 and drop <= section["max_ev_drop"]),
    }

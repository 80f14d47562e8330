"""Ablation summary: stability over k at fixed d_sae, and over d_sae at fixed k."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from husai.stages.records import StabilityRecord, condition_row, load_records
from husai.stages.summary import write_summary

COLUMNS = [
    "grid",
    "d_sae",
    "k",
    "width_over_rank",
    "S",
    "pwmcc",
    "null_worst",
    "shared_fraction",
    "explained_variance",
    "l0",
    "dead_fraction",
]


def ablations_job(spec: dict, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/ablations/summary.*``: one row per condition of each grid, with intervals over seeds."""
    section, records = spec["ablations"], load_records(inputs)
    rows = []
    for k in section["k"]:
        rows.append({"grid": "k", **ablation_row(find(records, section["k_at_d_sae"], k), section["seeds"])})
    for d_sae in section["d_sae"]:
        rows.append({"grid": "d_sae", **ablation_row(find(records, d_sae, section["d_sae_at_k"]), section["seeds"])})
    trend = [(r["width_over_rank"], r["S"]["value"]) for r in rows if r["grid"] == "d_sae"]
    headline = f"On {section['subject']}, S against d_sae / effective rank: " + ", ".join(f"{x:.2g} -> {s:.3f}" for x, s in trend) + "."
    figures = [
        {"kind": "errorbar", "x": "width_over_rank", "y": "S", "group": "grid", "title": "Stability against d_sae / effective rank"},
        {"kind": "errorbar", "x": "k", "y": "S", "group": "grid", "title": "Stability against k"},
    ]
    notes = [
        f"Seeds {section['seeds']}; intervals are jackknife-t over seeds, null is the worst of {', '.join(next(iter(records.values())).data['nulls'])}."
    ]
    return write_summary(
        "ablations", out, rows, columns=COLUMNS, headline=headline, notes=notes, figures=figures, inputs=inputs, config=spec
    )


def find(records: dict[str, StabilityRecord], d_sae: int, k: int) -> StabilityRecord:
    """The record of one condition."""
    return next(r for r in records.values() if (r.recipe.d_sae, r.recipe.k) == (d_sae, k))


def ablation_row(record: StabilityRecord, seeds: Sequence[int]) -> dict:
    """A condition with its width relative to the effective rank of the activations."""
    row = condition_row(record, seeds)
    return {**row, "effective_rank": record.value("effective_rank"), "width_over_rank": row["d_sae"] / record.value("effective_rank")}

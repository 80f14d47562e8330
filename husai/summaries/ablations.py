"""Ablation summary: stability over k at fixed d_sae, and over d_sae at fixed k, on every
subject.
"""

from __future__ import annotations

from collections.abc import Sequence

from husai.config.stages import Ablations
from husai.planning.specs import AblationsSpec
from husai.report.summary import StageTable, errorbar, shown
from husai.stability.record import (
    StabilityRecord,
    common_nulls,
    condition_row,
    failed_records,
    load_records,
)

COLUMNS = [
    "subject",
    "grid",
    "d_sae",
    "k",
    "width_over_rank",
    "S",
    "S_gaussian",
    "pwmcc",
    "null_worst",
    "null_gaussian",
    "shared_fraction",
    "explained_variance",
    "l0",
    "dead_fraction",
]


def table(spec: AblationsSpec, inputs: Sequence[str]) -> StageTable:
    """One row per condition of each grid and subject, with intervals over seeds.

    Parameters
    ----------
    inputs : sequence of path
        Stability evidence of every condition.
    """
    section, rows, told, failed = spec.ablations, [], [], []
    for subject in section.subjects:
        records = load_records(inputs, subject)
        nulls = common_nulls(records.values())
        rows += subject_rows(section, subject, records, nulls)
        failed += [
            f"On {subject}: {name} failed: {reason}"
            for name, reason in failed_records(inputs, subject).items()
        ]
        told.append(
            f"On {subject}: seeds {section.seeds}; intervals are jackknife-t over seeds; the "
            f"worst null is that of {', '.join(nulls)}."
        )
    over_rank = "S against d_sae / effective rank"
    figures = [
        errorbar("width_over_rank", "S_gaussian", f"{over_rank}, gaussian null", "curve"),
        errorbar("width_over_rank", "S", f"{over_rank}, worst null", "curve"),
        errorbar("k", "S", "S against k, worst null", "curve"),
    ]
    headline = " ".join(trend(subject, rows) for subject in section.subjects)
    extra = {"negatives": failed}
    return StageTable(rows, COLUMNS, headline, [*failed, *told], figures, extra)


def subject_rows(
    section: Ablations, subject: str, records: dict[str, StabilityRecord], nulls: Sequence[str]
) -> list[dict]:
    """Both grids of one subject, without the conditions whose recipe failed."""
    by_condition = {(r.recipe.d_sae, r.recipe.k): r for r in reversed(records.values())}
    width, seeds = section.at("k_at_d_sae", subject), section.seeds
    grids = {
        "k": [(width, k) for k in section.k],
        "d_sae": [(d, section.d_sae_at_k) for d in section.d_sae],
    }
    return [
        {"subject": subject, "grid": grid, "curve": f"{subject}, {grid}"}
        | ablation_row(record, seeds, nulls)
        for grid, conditions in grids.items()
        for condition in conditions
        if (record := by_condition.get(condition)) is not None
    ]


def trend(subject: str, rows: Sequence[dict]) -> str:
    """S over d_sae / effective rank in words: against the worst null and, in brackets, against the
    gaussian one.
    """
    points = [r for r in rows if (r["subject"], r["grid"]) == (subject, "d_sae")]
    steps = [
        f"{r['width_over_rank']:.2g} -> {shown(r['S'].value)} ({r['S_gaussian'].value:.3f})"
        for r in points
    ]
    return (
        f"On {subject}, S against d_sae / effective rank, worst null (gaussian null): "
        f"{', '.join(steps)}."
    )


def ablation_row(record: StabilityRecord, seeds: Sequence[int], nulls: Sequence[str]) -> dict:
    """A condition with its width relative to the effective rank of the activations, also against
    the gaussian null alone.
    """
    row, gaussian = condition_row(record, seeds, nulls), record.null("gaussian", seeds=seeds)
    rank = record.value("effective_rank")
    against = {"S_gaussian": record.s_interval(seeds, gaussian), "null_gaussian": gaussian}
    return {**row, **against, "effective_rank": rank, "width_over_rank": row["d_sae"] / rank}

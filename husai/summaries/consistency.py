"""Consistency summary: what alignment to a reference decoder buys, scored with and without the
reference, on every subject.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from husai.config.stages import Consistency
from husai.errors import RecipeFailed
from husai.evidence import Metric
from husai.planning.specs import ConsistencySpec
from husai.probing.tables import probe_table
from husai.provenance import failure, read_json
from husai.report.summary import StageTable, errorbar
from husai.stability.record import (
    StabilityRecord,
    common_nulls,
    condition_row,
    failed_records,
    load_records,
)
from husai.statistics import assessable, crossed_interval, jackknife_difference

COLUMNS = [
    "subject",
    "weight",
    "delta_with_reference",
    "delta_without_reference",
    "S",
    "S_without_reference",
    "explained_variance",
    "ev_drop",
    "external_delta",
    "accepted",
]


def table(spec: ConsistencySpec, inputs: Sequence[str]) -> StageTable:
    """One row per subject and weight.

    A weight is accepted when the control's null is assessable, the gain in S without the reference
    is at least 0 with a lower bound of at least 0, explained variance falls by no more than
    ``max_ev_drop`` and, on the subject with external benchmarks, the probing AUC does not fall
    (``external_delta`` at least 0, paired by seed and data set).

    Raises
    ------
    RecipeFailed
        The control of a subject, its recipe without alignment, failed.
    """
    section, external = spec.consistency, external_records(inputs)
    rows, told, failed = [], [], []
    for subject in section.subjects:
        lost = failed_records(inputs, subject)
        failed += [f"On {subject}: {name} failed: {reason}" for name, reason in lost.items()]
        records = sorted(
            load_records(inputs, subject).values(), key=lambda r: r.recipe.consistency_weight
        )
        if not records or records[0].recipe.consistency_weight:
            raise RecipeFailed(
                f"consistency: the control of {subject} failed, so nothing can be compared with "
                f"it: {'; '.join(lost.values())}"
            )
        found = [
            {"subject": subject, **weight_row(r, records, section, external, spec.gate_k)}
            for r in records
        ]
        accepted = [r["weight"] for r in found if r["accepted"]]
        verdict = f"accepted weights {accepted}" if accepted else "no weight is accepted"
        told.append(f"On {subject}: {verdict}.")
        rows += found
    notes = [
        *failed,
        "Pairs with the reference are pulled towards it by construction: the verdict uses the "
        "pairs without it.",
        f"The reference is seed {section.seeds[0]} of the plain recipe; every seed starts from "
        "its own initialisation.",
        "A null above 0.9 leaves S undefined and nothing is accepted. A subject without external "
        "benchmarks has no external delta.",
    ]
    figures = [
        errorbar("weight", name, f"S over the alignment weight, {pairs}", "subject")
        for name, pairs in (("S", "all pairs"), ("S_without_reference", "without the reference"))
    ]
    return StageTable(rows, COLUMNS, " ".join(told), notes, figures, {"negatives": failed})


def external_records(inputs: Sequence[str]) -> dict[tuple[str, str], list[dict]]:
    """Sparse probing records by subject and recipe,
    ``results/external/{recipe}/seed{n}/saebench.json``; none where all failed.
    """
    found: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for path in map(Path, inputs):
        if path.name == "saebench.json":
            record = read_json(path)
            found[record["subject"], path.parent.parent.name] += [] if failure(record) else [record]
    return found


def weight_row(
    record: StabilityRecord,
    records: Sequence[StabilityRecord],
    section: Consistency,
    external: dict,
    gate_k: int | None,
) -> dict:
    """One weight against the control (weight 0), over all pairs and over the pairs without the
    reference seed.
    """
    control, seeds, kinds = records[0], section.seeds, common_nulls(records)
    others, null = seeds[1:], control.null(among=kinds, seeds=seeds)
    with_reference, without = (
        jackknife_difference(record.s_matrix(chosen, null), control.s_matrix(chosen, null))
        for chosen in (seeds, others)
    )
    before, after = (r.per_seed("explained_variance", seeds).mean() for r in (control, record))
    drop, weight = float(before - after), record.recipe.consistency_weight
    gain = external_delta(record, control, external, gate_k)
    probed = any(subject == record.data["subject"] for subject, _ in external)
    useful = gain.value >= 0 if gain is not None else not probed
    stable = assessable(null) and without.value >= 0 and without.lcb >= 0
    return {
        "weight": weight,
        **condition_row(record, seeds, kinds),
        "S": record.s_interval(seeds, null),
        "S_without_reference": record.s_interval(others, null),
        "delta_with_reference": with_reference,
        "delta_without_reference": without,
        "ev_drop": drop,
        "external_delta": gain,
        "accepted": bool(weight and stable and useful and drop <= section.max_ev_drop),
    }


def external_delta(
    record: StabilityRecord, control: StabilityRecord, external: dict, gate_k: int | None
) -> Metric | None:
    """Probing AUC at the gate's k minus the control's, paired by seed and informative data set;
    None on a subject without external benchmarks or informative data sets.
    """
    subject = record.data["subject"]
    ours, theirs = external.get((subject, record.id)), external.get((subject, control.id))
    if not ours or not theirs:
        return None
    table, families = probe_table(ours, gate_k, theirs)
    return crossed_interval(table, families) if families else None

"""Evidence of the confirmed candidate that is put together from other records: integrity, and
sparse probing against its controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from husai.evidence import Metric, new_record
from husai.gate.checks.integrity import integrity_metrics
from husai.planning.specs import ConfirmationSpec
from husai.probing.tables import NONE_INFORMATIVE, aucs, counts, informative, probing_metrics
from husai.provenance import read_json
from husai.recipe import Recipe
from husai.stability.record import StabilityRecord


def integrity(
    spec: ConfirmationSpec, recipe: Recipe, candidate: Path, stability: StabilityRecord
) -> dict[str, Any]:
    """What must be true before any other number counts: leak probe, plateau, movement, dead
    latents, disjoint text, independent starts.

    Of a brought candidate only what its metadata declare is known of its training; the rest is
    missing. A candidate without fresh seeds makes the whole record a failed one.

    Parameters
    ----------
    candidate : path
        Its ``recipe.json`` in ``results/confirmation/candidate``.
    """
    subject = Path("results/subjects") / recipe.subject
    model, probes = subject / "model/metrics.json", subject / "probes/manifest.json"
    leak, overlap = read_json(model).get("leak_probe"), read_json(probes)["text_overlap_rows"]
    described = read_json(candidate)
    not_fresh = described.get("not_fresh")
    return new_record(
        "integrity",
        recipe.subject,
        recipe.id,
        recipe.hash,
        integrity_metrics(leak, overlap, described, stability.metric("shared_init_pairs")),
        [model, probes, candidate, stability.path],
        spec.values(),
        described["seeds"],
        **({"status": "failed", "reason": not_fresh} if not_fresh else {}),
        phase="confirmation",
    )


def saebench(
    spec: ConfirmationSpec, recipe: Recipe, candidate: Sequence[Path], frozen: Sequence[Path]
) -> dict[str, Any]:
    """Paired deltas of AUC on the informative confirmation data sets
    (:func:`husai.probing.tables.probing_metrics`).

    Parameters
    ----------
    candidate, frozen : sequence of path
        Records of single SAEs: the candidate's and its frozen-decoder control's.
    """
    records, controls = ([read_json(p) for p in paths] for paths in (candidate, frozen))
    rows, seeds = records[0]["per_dataset"], [r["seed"] for r in records]
    metrics = probing_metrics(records, controls)
    found = [list(aucs(r, spec.gate_k).values()) for r in records]
    if found[0]:
        mean, method = float(np.mean(found)), "mean over seeds and data sets"
        metrics["auc"] = Metric(mean, n=len(seeds), method=method)
    return new_record(
        "saebench",
        recipe.subject,
        recipe.id,
        recipe.hash,
        metrics,
        [*candidate, *frozen],
        spec.values(),
        seeds,
        k=spec.gate_k,
        datasets=sorted({row["dataset"] for row in rows}),
        informative=informative(rows),
        **counts(rows),
        **({} if found[0] else {"reason": NONE_INFORMATIVE}),
        probing=records[0]["probing"],
        phase="confirmation",
    )

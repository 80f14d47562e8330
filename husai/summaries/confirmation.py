"""Evidence of the confirmed candidate that is put together from other records: integrity, and
sparse probing against its controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from husai.evidence import Metric, new_record, read_metric
from husai.planning.specs import ConfirmationSpec
from husai.provenance import read_json
from husai.recipe import Recipe
from husai.stability.record import StabilityRecord
from husai.statistics import crossed_metric
from husai.summaries.probes import probe_table


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
    leak = read_json(subject / "model/metrics.json").get("leak_probe")
    probes = read_json(subject / "probes/manifest.json")
    described = read_json(candidate)
    final, n = described["final"], len(described["final"])
    declared = " (declared by the brought SAEs)" if recipe.brought else ""
    overlap = Metric(
        probes["text_overlap_rows"], n=n, method="test rows found in the training text, by hash"
    )
    starts = stability.metric("shared_init_pairs") or Metric(
        None, method="how the brought SAEs were initialised is not known"
    )
    metrics = {
        "leak_excess": _leak(leak),
        "plateau_gain": _largest(final, "plateau_gain", declared),
        "cos_to_init": _largest(final, "cos_to_init", declared),
        "dead_fraction": _largest(final, "dead_fraction"),
        "text_overlap_rows": _largest(final, "text_overlap_rows", declared)
        if recipe.brought
        else overlap,
        "shared_init_pairs": replace(starts, n=n),
    }
    inputs = [subject / "model/metrics.json", subject / "probes/manifest.json", candidate]
    not_fresh = described.get("not_fresh")
    return new_record(
        "integrity",
        recipe.subject,
        recipe.id,
        recipe.hash,
        metrics,
        [*inputs, stability.path],
        spec.values(),
        described["seeds"],
        **({"status": "failed", "reason": not_fresh} if not_fresh else {}),
        phase="confirmation",
    )


def _leak(leak: dict | None) -> Metric:
    """Excess of the leak probe; an encoder predicts no target that its input could hold."""
    if leak is None:
        return Metric(0.0, 0.0, 0.0, method="no target is predicted, so none can leak")
    return read_metric(
        {
            "value": leak["excess"],
            "lcb": leak["excess_lcb"],
            "n": leak["n"],
            "method": "leak probe accuracy minus chance",
        }
    )


def _largest(final: Sequence[dict], name: str, of: str = "") -> Metric:
    values = [f.get(name) for f in final]
    if None in values:
        return Metric(
            None,
            n=len(values),
            method=f"not known of SAEs that were not trained here: their metadata give no {name}",
        )
    return Metric(float(max(values)), n=len(values), method=f"largest over seeds{of}")


def saebench(
    spec: ConfirmationSpec, recipe: Recipe, candidate: Sequence[Path], frozen: Sequence[Path]
) -> dict[str, Any]:
    """Paired deltas of AUC on the confirmation data sets at the fixed k, crossed over seeds and
    families.

    Parameters
    ----------
    candidate, frozen : sequence of path
        Records of single SAEs: the candidate's and its frozen-decoder control's.
    """
    k = spec.gate_k
    records, controls = ([read_json(p) for p in paths] for paths in (candidate, frozen))
    seeds = [r["seed"] for r in records]
    metrics, tables = {}, {}
    for name, against in (
        ("frozen", controls),
        ("dense", "dense_auc"),
        ("neurons", "neurons_auc"),
        ("pca", "pca_auc"),
    ):
        table, families = probe_table(records, k, against)
        metrics[f"delta_vs_{name}"] = crossed_metric(table, families)
        tables[f"delta_vs_{name}"] = table.tolist()
    aucs = [[row["auc"] for row in r["per_dataset"] if row["k"] == k] for r in records]
    metrics["auc"] = Metric(
        float(np.array(aucs).mean()), n=len(seeds), method="mean over seeds and data sets"
    )
    return new_record(
        "saebench",
        recipe.subject,
        recipe.id,
        recipe.hash,
        metrics,
        [*candidate, *frozen],
        spec.values(),
        seeds,
        k=k,
        datasets=sorted({row["dataset"] for row in records[0]["per_dataset"]}),
        families=families,
        tables=tables,
        engine=records[0].get("engine"),
        phase="confirmation",
    )

"""Baseline summary: does a trained ensemble agree more than every null, and by how much?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from husai import provenance
from husai.stages.records import StabilityRecord, condition_row, interval, load_records
from husai.stages.summary import write_summary
from husai.statistics import bootstrap_percentile, cohens_d

COLUMNS = ["null", "null_pwmcc", "trained_pwmcc", "S", "cohens_d"]


def baseline_job(spec: dict, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/baseline/summary.*`` and ``evidence.json`` (what the ``cycle3`` policy reads).

    One row per null: the trained ensemble's PWMCC, the null's, the chance-corrected value against that null with its jackknife-t
    interval, and Cohen's d between pairs (descriptive: pairs that share a seed are not independent).
    """
    section = spec["baseline"]
    (record,) = load_records(inputs).values()
    subject = provenance.read_json(next(p for p in inputs if Path(p).name == "manifest.json").replace("manifest.json", "metrics.json"))
    planted = provenance.read_json(next(p for p in inputs if Path(p).name == "planted.json"))
    rows = [null_row(record, kind) for kind in record.data["nulls"]]
    overall = condition_row(record)
    s = overall["S"]
    verdict = record.data.get("verdict", "")
    headline = (
        f"TopK k = {section['k']}, d_sae = {section['d_sae']} on {section['subject']}, {len(record.seeds)} seeds: "
        f"S = {s['value']:.3f} [{s['lcb']:.3f}, {s['ucb']:.3f}] against the worst null ({record.data['worst_null']}, {record.null():.3f}): {verdict}."
    )
    summary = write_summary(
        "baseline",
        out,
        rows,
        columns=COLUMNS,
        headline=headline,
        notes=[*notes(record, subject), planted_note(planted)],
        figures=[{"kind": "errorbar", "x": "null", "y": "S", "title": "Chance-corrected stability against each null"}],
        inputs=inputs,
        config=spec,
        condition=overall,
        metrics=record.data["metrics"],
        subject_metrics=subject,
        trajectory=record.data.get("trajectory"),
        training=record.data.get("final"),
        planted=planted["metrics"],
    )
    write_cycle3_evidence(record, out.with_name("evidence.json"), spec)
    return summary


def null_row(record: StabilityRecord, kind: str) -> dict:
    """The ensemble against one null."""
    null, pairs = record.data["nulls"][kind], record.pairs("pwmcc")
    effect = cohens_d(pairs, null["pairs"]).metric() if len(null["pairs"]) > 1 and np.std(null["pairs"]) + np.std(pairs) > 0 else None
    return {
        "null": kind,
        "null_pwmcc": provenance.metric(
            null["mean"], min(null["pairs"]), max(null["pairs"]), len(null["pairs"]), "mean, min, max over pairs"
        ),
        "trained_pwmcc": interval(record.matrix("pwmcc")).metric(),
        "S": interval(record.s_matrix(null=null["mean"])).metric(),
        "cohens_d": effect,
    }


def notes(record: StabilityRecord, subject: dict) -> list[str]:
    """What the table does not show: the subject, quality, movement, plateau, effective rank."""
    m = record.metric
    leak, out = subject.get("leak_probe", {}), []
    if "held_out_accuracy" in subject or "accuracy" in subject:
        out.append(f"Subject: held-out accuracy {subject.get('held_out_accuracy', subject.get('accuracy')):.4f}.")
    if leak:
        word = "at chance" if leak.get("at_chance") else "ABOVE CHANCE: the answer leaks into the input"
        out.append(f"Leak probe: accuracy {leak['accuracy']:.4f}, chance {leak['chance']:.4f} ({word}).")
    out.append(
        f"Held-out explained variance {m('explained_variance')['value']:.4f}, L0 {m('l0')['value']:.2f}, dead {m('dead_fraction')['value']:.2%}."
    )
    if m("cos_to_init"):
        out.append(f"Movement: median cosine of a decoder row to its own start {m('cos_to_init')['value']:.3f} (1 means it never moved).")
    plateau = [f["plateau_gain"] for f in record.data.get("final", [])]
    if plateau:
        word = "reached" if max(plateau) <= 0.005 else "NOT reached"
        out.append(f"Plateau {word}: explained variance gained {max(plateau):.3%} over the last fifth of training (bar 0.5%).")
    out.append(
        f"Effective rank of the activations {m('effective_rank')['value']:.1f}, participation ratio {m('participation_ratio')['value']:.1f}."
    )
    ranks = {
        int(k.removeprefix("subspace_overlap_r")): v["value"]
        for k, v in record.data["metrics"].items()
        if k.startswith("subspace_overlap_r")
    }
    overlap = ", ".join(f"r={r}: {v:.3f} (chance {r / record.data['d_in']:.3f})" for r, v in sorted(ranks.items()))
    return [*out, f"Subspace overlap of the decoders: {overlap}."]


def planted_note(record: dict) -> str:
    """Recovery of a known dictionary, beside the stability of the SAEs that found it."""
    m, spec = record["metrics"], record["spec"]
    return (
        f"Planted features ({spec['n_features']} in {spec['d_in']} dimensions, L0 {spec['l0']}): SAEs recover "
        f"{m['recovery']['value']:.3f} [{m['recovery']['lcb']:.3f}, {m['recovery']['ucb']:.3f}] of them beyond chance, with S = {m['S']['value']:.3f}."
    )


def write_cycle3_evidence(record: StabilityRecord, out: Path, spec: dict) -> None:
    """Trained minus gaussian null with the pair bootstrap, exactly as the original policy read it."""
    trained = bootstrap_percentile(record.pairs("pwmcc_all"))
    random = bootstrap_percentile(np.array(record.data["nulls_all"]["gaussian"]["pairs"]))
    delta = provenance.metric(
        trained.value - random.value, trained.lcb - random.ucb, trained.ucb - random.lcb, trained.n, "pair bootstrap (undercovers)"
    )
    metrics = {"trained_random_delta": delta, "trained_pwmcc": trained.metric(), "random_pwmcc": random.metric()}
    data = record.data
    evidence = provenance.evidence(
        "baseline", data["subject"], data["recipe"], data["recipe_hash"], metrics, inputs=[record.path], config=spec, seeds=record.seeds
    )
    provenance.write_json(out, evidence)

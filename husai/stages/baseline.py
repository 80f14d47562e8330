"""Baseline summary: does a trained ensemble agree more than every null, and by how much? One ensemble per subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from husai import provenance
from husai.stages.records import StabilityRecord, condition_row, interval, read_records
from husai.stages.summary import write_summary
from husai.statistics import (
    assessable,
    bootstrap_percentile,
    cohens_d,
    difference_pvalue,
    holm,
    jackknife_difference,
    pseudo_values,
)

COLUMNS = ["subject", "null", "null_pwmcc", "trained_pwmcc", "S", "delta", "p_holm", "cohens_d"]


def baseline_job(spec: dict, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/baseline/summary.*`` and ``evidence.json`` (what the ``cycle3`` policy reads, of the first subject).

    One row per subject and null: the trained ensemble's PWMCC, the null's, the chance-corrected value against that null with its
    jackknife-t interval, the difference with its interval and one-sided p-value (Holm over the nulls of a subject), and Cohen's d.
    Everywhere the seeds are the units, not the pairs.
    """
    records = read_records(inputs)
    subjects = {
        Path(p).parts[-3]: provenance.read_json(Path(p).with_name("metrics.json")) for p in inputs if Path(p).name == "manifest.json"
    }
    planted = provenance.read_json(next(p for p in inputs if Path(p).name == "planted.json"))
    names = [r.data["subject"] for r in records]
    told = [f"On {name}: {note}" for name, r in zip(names, records, strict=True) for note in notes(r, subjects[name])]
    figures = [{"kind": "errorbar", "x": "null", "y": "S", "group": "subject", "title": "Chance-corrected stability against each null"}]
    summary = write_summary(
        "baseline",
        out,
        [row for r in records for row in null_rows(r)],
        columns=COLUMNS,
        headline=" ".join(headline(r) for r in records),
        notes=[*told, planted_note(planted), COHENS_D_NOTE],
        figures=[*figures, *(trajectory_figure(r) for r in records if trajectory_of(r))],
        inputs=inputs,
        config=spec,
        conditions={name: condition_row(r) for name, r in zip(names, records, strict=True)},
        metrics={name: r.data["metrics"] for name, r in zip(names, records, strict=True)},
        subject_metrics=subjects,
        trajectory={name: trajectory_of(r) for name, r in zip(names, records, strict=True)},
        training=[{"subject": name, **final} for name, r in zip(names, records, strict=True) for final in r.data.get("final", [])],
        planted=planted["metrics"],
    )
    write_cycle3_evidence(records[0], out.with_name("evidence.json"), spec)
    return summary


COHENS_D_NOTE = "Cohen's d is between seeds: each seed's unit is its jackknife pseudo-value, so that pairs which share a seed count once."


def headline(record: StabilityRecord) -> str:
    """One subject's result in words; against the worst null, and where that one is not assessable, also against the gaussian."""
    recipe, worst = record.recipe, record.data["worst_null"]
    start = f"TopK k = {recipe.k}, d_sae = {recipe.d_sae} on {record.data['subject']}, {len(record.seeds)} seeds:"
    verdict = record.data.get("verdict", "")
    if assessable(record.null()):
        return f"{start} S = {_span(record.s_interval())} against the worst null ({worst}, {record.null():.3f}): {verdict}."
    return f"{start} {verdict}; against the gaussian null ({record.null('gaussian'):.3f}) S = {_span(record.s_interval(null=record.null('gaussian')))}."


def _span(found) -> str:
    return f"{found.value:.3f} [{found.lcb:.3f}, {found.ucb:.3f}]"


def null_rows(record: StabilityRecord) -> list[dict]:
    """The ensemble against each of its nulls."""
    rows = [null_row(record, kind) for kind in record.data["nulls"]]
    adjusted = holm([row["p_value"] for row in rows])
    return [{**row, "p_holm": float(p)} for row, p in zip(rows, adjusted, strict=True)]


def null_row(record: StabilityRecord, kind: str) -> dict:
    """The ensemble against one null."""
    null, trained = record.data["nulls"][kind], record.matrix("pwmcc")
    chance = pair_matrix(null["pairs"])
    effect = None
    if min(len(trained), len(chance)) > 2:
        effect = cohens_d(pseudo_values(trained), pseudo_values(chance)).metric()
    return {
        "subject": record.data["subject"],
        "null": kind,
        "null_pwmcc": provenance.metric(
            null["mean"], min(null["pairs"]), max(null["pairs"]), len(null["pairs"]), "mean, min, max over pairs"
        ),
        "trained_pwmcc": interval(trained).metric(),
        "S": record.s_interval(null=null["mean"]).metric(),
        "delta": jackknife_difference(trained, chance).metric(),
        "p_value": difference_pvalue(trained, chance),
        "cohens_d": effect,
    }


def pair_matrix(pairs: Sequence[float]) -> np.ndarray:
    """Pairs (0, 1), (0, 2), ..., (1, 2), ... as a symmetric matrix with ones on the diagonal."""
    n = round((1 + (1 + 8 * len(pairs)) ** 0.5) / 2)
    found = np.eye(n)
    found[np.triu_indices(n, 1)] = pairs
    return np.maximum(found, found.T)


def notes(record: StabilityRecord, subject: dict) -> list[str]:
    """What the table does not show: the subject, quality, movement, plateau, effective rank."""
    m = record.metric
    leak, out = subject.get("leak_probe", {}), []
    if "accuracy" in subject:
        out.append(f"held-out accuracy {subject['accuracy']:.4f}, loss {subject.get('loss', float('nan')):.3f} nats.")
    if leak:
        word = "at chance" if leak.get("at_chance") else "ABOVE CHANCE: the answer leaks into the input"
        out.append(f"leak probe: accuracy {leak['accuracy']:.4f}, chance {leak['chance']:.4f} ({word}).")
    out.append(
        f"held-out explained variance {m('explained_variance')['value']:.4f}, L0 {m('l0')['value']:.2f}, dead {m('dead_fraction')['value']:.2%}."
    )
    if m("cos_to_init"):
        out.append(f"movement: median cosine of a decoder row to its own start {m('cos_to_init')['value']:.3f} (1 means it never moved).")
    plateau = [f["plateau_gain"] for f in record.data.get("final", [])]
    if plateau:
        word = "reached" if max(plateau) <= 0.005 else "NOT reached"
        out.append(f"plateau {word}: explained variance gained {max(plateau):.3%} over the last fifth of training (bar 0.5%).")
    if trajectory_of(record):
        steps, values = trajectory_of(record)
        out.append(f"PWMCC of all latents went from {values[0]:.3f} at step {steps[0]:.0f} to {values[-1]:.3f} at step {steps[-1]:.0f}.")
    return [*out, *rank_notes(record)]


def rank_notes(record: StabilityRecord) -> list[str]:
    """How many directions the activations use, what that does to the covariance null, and how far the decoders' subspaces overlap."""
    rank, d_in = record.value("effective_rank"), record.data["d_in"]
    out = [f"effective rank of the activations {rank:.1f} of {d_in}, participation ratio {record.value('participation_ratio'):.1f}."]
    crowded = record.data.get("null_at_effective_rank")
    if crowded and record.data["worst_null"] == "covariance":
        end = "" if assessable(record.null()) else "; agreement above it could not be told from crowding, so S against it is not assessed"
        out.append(
            f"the covariance null is {record.null():.3f} because its directions lie where the activations vary: in about "
            f"{crowded['dimensions']} dimensions even {record.recipe.d_sae} isotropic directions score {crowded['pwmcc']:.3f}{end}."
        )
    ranks = {
        int(k.removeprefix("subspace_overlap_r")): v["value"]
        for k, v in record.data["metrics"].items()
        if k.startswith("subspace_overlap_r")
    }
    overlap = ", ".join(f"r={r}: {v:.3f} (chance {r / d_in:.3f})" for r, v in sorted(ranks.items()))
    return [*out, f"subspace overlap of the decoders: {overlap}."]


def trajectory_of(record: StabilityRecord) -> tuple[list[float], list[float]] | None:
    """Steps of training, and the PWMCC of all latents after each, averaged over seeds; None when it was not followed."""
    curves = record.data.get("trajectory") or {}
    return (curves["step"], curves["pwmcc"]) if curves.get("pwmcc") else None


def trajectory_figure(record: StabilityRecord) -> dict:
    """Stability over training as a figure of the report."""
    steps, values = trajectory_of(record)
    title = f"PWMCC of all latents during training, {record.data['subject']}"
    return {"kind": "line", "x": steps, "y": values, "x_label": "step", "y_label": "pwmcc", "title": title}


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

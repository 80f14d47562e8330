"""Baseline summary: does a trained ensemble agree more than every null, and by how much? One
ensemble per subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from husai import provenance
from husai.evidence import Metric, new_record
from husai.planning.specs import BaselineSpec
from husai.report.summary import StageTable, errorbar
from husai.stability.record import condition_row, interval, upper
from husai.statistics import (
    assessable,
    bootstrap_percentile,
    cohens_d,
    difference_pvalue,
    holm,
    jackknife_difference,
    pseudo_values,
)
from husai.summaries.baseline_notes import notes, planted_note, trajectory_figure, trajectory_of
from husai.summaries.ensembles import PLATEAU_BAR, BaselineEnsemble, ensembles, span

COLUMNS = [
    "subject",
    "null",
    "null_pwmcc",
    "trained_pwmcc",
    "S",
    "delta",
    "p_holm",
    "cohens_d",
    "cos_to_init",
    "plateau",
]
COHENS_D_NOTE = (
    "Cohen's d is between seeds: each seed's unit is its jackknife pseudo-value, so "
    "that pairs which share a seed count once."
)


def table(spec: BaselineSpec, inputs: Sequence[str]) -> StageTable:
    """One row per subject and null: the trained ensemble's PWMCC, the null's, the chance-corrected
    value against that null with its jackknife-t interval, the difference with its interval and
    one-sided p-value (Holm over the nulls of a subject), Cohen's d, movement from the start and
    plateau. Everywhere the seeds are the units, not the pairs.

    Parameters
    ----------
    inputs : sequence of path
        Stability evidence of the ensembles, manifests of the subjects, the planted evidence.
    """
    found = ensembles(spec, inputs)
    subjects = {
        Path(p).parts[-3]: provenance.read_json(Path(p).with_name("metrics.json"))
        for p in inputs
        if Path(p).name == "manifest.json"
    }
    planted = provenance.read_json(next(p for p in inputs if Path(p).name == "planted.json"))
    told = [f"On {m.subject}: {note}" for m in found for note in notes(m, subjects[m.subject])]
    title = "Chance-corrected stability against each null"
    figures = [errorbar("null", "S", title, "subject")]
    return StageTable(
        [row for m in found for row in null_rows(m)],
        COLUMNS,
        headline=" ".join(headline(m) for m in found),
        notes=[*told, planted_note(planted), COHENS_D_NOTE],
        figures=[*figures, *(trajectory_figure(m) for m in found if trajectory_of(m))],
        extra={
            "conditions": {m.subject: condition_row(m.record, m.seeds) for m in found},
            "metrics": {m.subject: m.data["metrics"] for m in found},
            "subject_metrics": subjects,
            "trajectory": {m.subject: trajectory_of(m) for m in found},
            "training": [{"subject": m.subject, **final} for m in found for final in m.final],
            "planted": planted["metrics"],
        },
    )


def headline(m: BaselineEnsemble) -> str:
    """One subject's result in words; against the worst null, and where that one is not assessable,
    also against the gaussian.
    """
    recipe = m.record.recipe
    start = f"TopK k = {recipe.k}, d_sae = {recipe.d_sae} on {m.subject}, {len(m.seeds)} seeds:"
    if assessable(m.null):
        null = f"the worst null ({m.worst}, {m.null:.3f})"
        return f"{start} S = {span(m.s)} against {null}: {m.verdict()}."
    gaussian = m.record.null("gaussian", seeds=m.seeds)
    s = span(m.record.s_interval(m.seeds, gaussian))
    return f"{start} {m.verdict()}; against the gaussian null ({gaussian:.3f}) S = {s}."


def null_rows(m: BaselineEnsemble) -> list[dict]:
    """The ensemble against each of its nulls."""
    rows = [null_row(m, kind) for kind in m.data["nulls"]]
    adjusted = holm([row["p_value"] for row in rows])
    return [{**row, "p_holm": float(p)} for row, p in zip(rows, adjusted, strict=True)]


def null_row(m: BaselineEnsemble, kind: str) -> dict:
    """The ensemble against one null."""
    trained, chance = m.record.matrix("pwmcc", m.seeds), m.record.null_matrix(kind, m.seeds)
    pairs, effect, plateau = upper(chance), None, None
    if min(len(trained), len(chance)) > 2:
        effect = cohens_d(pseudo_values(trained), pseudo_values(chance))
    if m.plateau is not None:
        plateau = "reached" if m.plateau <= PLATEAU_BAR else "not reached"
    mean, least, most = map(float, (pairs.mean(), pairs.min(), pairs.max()))
    return {
        "subject": m.subject,
        "null": kind,
        "null_pwmcc": Metric(mean, least, most, len(pairs), "mean, min, max over pairs"),
        "trained_pwmcc": interval(trained),
        "S": m.record.s_interval(m.seeds, mean),
        "delta": jackknife_difference(trained, chance),
        "p_value": difference_pvalue(trained, chance),
        "cohens_d": effect,
        "cos_to_init": m.per_seed("cos_to_init"),
        "plateau": plateau,
    }


def cycle3_evidence(m: BaselineEnsemble, config: dict[str, Any]) -> dict:
    """Evidence that the ``cycle3`` policy reads: trained minus gaussian null with the pair
    bootstrap, exactly as the original did it.
    """
    trained = bootstrap_percentile(m.record.pairs("pwmcc_all", m.seeds))
    random = bootstrap_percentile(upper(m.record.null_matrix("gaussian", m.seeds, "nulls_all")))
    delta = Metric(
        trained.value - random.value,
        trained.lcb - random.ucb,
        trained.ucb - random.lcb,
        trained.n,
        "pair bootstrap (undercovers)",
    )
    metrics = {"trained_random_delta": delta, "trained_pwmcc": trained, "random_pwmcc": random}
    return new_record(
        "baseline",
        m.subject,
        m.data["recipe"],
        m.data["recipe_hash"],
        metrics,
        inputs=[m.record.path],
        config=config,
        seeds=m.seeds,
    )

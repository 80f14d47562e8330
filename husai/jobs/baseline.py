"""Baseline summary: does a trained ensemble agree more than every null, and by how much? One
ensemble per subject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from husai import provenance
from husai.errors import RecipeFailed
from husai.evidence import Evidence, Metric, new_record
from husai.report.summary import write_summary
from husai.stability.record import (
    StabilityRecord,
    condition_row,
    failed_records,
    interval,
    read_records,
    upper,
)
from husai.statistics import (
    assessable,
    bootstrap_percentile,
    cohens_d,
    difference_pvalue,
    holm,
    jackknife_difference,
    pseudo_values,
)

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
PLATEAU_BAR = 0.005
OVERLAP = "subspace_overlap_r"


class Measured:
    """The baseline ensemble of one subject: its stability record seen through the baseline's
    seeds.
    """

    def __init__(self, record: StabilityRecord, seeds: Sequence[int]):
        self.record, self.seeds, self.data = record, list(seeds), record.data
        self.subject = record.data["subject"]
        self.worst = record.worst_null(seeds=seeds)
        self.null = record.null(self.worst, seeds=seeds)
        self.s = record.s_interval(seeds, self.null)
        self.final = [f for f in record.data.get("final", []) if f["seed"] in set(seeds)]

    def per_seed(self, name: str) -> Metric:
        """Mean of one value per seed, with its interval."""
        return interval(self.record.per_seed(name, self.seeds))

    @property
    def plateau(self) -> float | None:
        """Largest relative gain in explained variance over the last fifth of training; None when it
        was not followed.
        """
        return max((f["plateau_gain"] for f in self.final), default=None)

    def verdict(self) -> str:
        """The result in words."""
        if set(self.seeds) == set(self.record.seeds):
            return self.data.get("verdict", "")
        from husai.stability import NullResult, verdict

        shared = interval(self.record.matrix("shared", self.seeds))
        return verdict(self.s, shared, NullResult(self.null, 0.0, (self.null,), self.worst))


def baseline_job(spec: dict, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/baseline/summary.*`` and ``evidence.json`` (what the ``cycle3`` policy reads,
    of the first subject).

    One row per subject and null: the trained ensemble's PWMCC, the null's, the chance-corrected
    value against that null with its jackknife-t interval, the difference with its interval and
    one-sided p-value (Holm over the nulls of a subject), Cohen's d, movement from the start and
    plateau. Everywhere the seeds are the units, not the pairs."""
    failed = [f"{name}: failed: {reason}" for name, reason in failed_records(inputs).items()]
    if failed:
        raise RecipeFailed(f"baseline: {'; '.join(failed)}; change the training of this subject")
    found = [Measured(record, spec["baseline"]["seeds"]) for record in read_records(inputs)]
    subjects = {
        Path(p).parts[-3]: provenance.read_json(Path(p).with_name("metrics.json"))
        for p in inputs
        if Path(p).name == "manifest.json"
    }
    planted = provenance.read_json(next(p for p in inputs if Path(p).name == "planted.json"))
    told = [f"On {m.subject}: {note}" for m in found for note in notes(m, subjects[m.subject])]
    figures = [
        {
            "kind": "errorbar",
            "x": "null",
            "y": "S",
            "group": "subject",
            "title": "Chance-corrected stability against each null",
        }
    ]
    summary = write_summary(
        "baseline",
        out,
        [row for m in found for row in null_rows(m)],
        columns=COLUMNS,
        headline=" ".join(headline(m) for m in found),
        notes=[*told, planted_note(planted), COHENS_D_NOTE],
        figures=[*figures, *(trajectory_figure(m) for m in found if trajectory_of(m))],
        inputs=inputs,
        config=spec,
        conditions={m.subject: condition_row(m.record, m.seeds) for m in found},
        metrics={m.subject: m.data["metrics"] for m in found},
        subject_metrics=subjects,
        trajectory={m.subject: trajectory_of(m) for m in found},
        training=[{"subject": m.subject, **final} for m in found for final in m.final],
        planted=planted["metrics"],
    )
    write_cycle3_evidence(found[0], out.with_name("evidence.json"), spec)
    return summary


def headline(m: Measured) -> str:
    """One subject's result in words; against the worst null, and where that one is not assessable,
    also against the gaussian.
    """
    start = (
        f"TopK k = {m.record.recipe.k}, d_sae = {m.record.recipe.d_sae} on {m.subject}, "
        f"{len(m.seeds)} seeds:"
    )
    if assessable(m.null):
        return (
            f"{start} S = {_span(m.s)} against the worst null ({m.worst}, {m.null:.3f}): "
            f"{m.verdict()}."
        )
    gaussian = m.record.null("gaussian", seeds=m.seeds)
    return (
        f"{start} {m.verdict()}; against the gaussian null ({gaussian:.3f}) S = "
        f"{_span(m.record.s_interval(m.seeds, gaussian))}."
    )


def _span(found: Metric) -> str:
    return f"{found.value:.3f} [{found.lcb:.3f}, {found.ucb:.3f}]"


def null_rows(m: Measured) -> list[dict]:
    """The ensemble against each of its nulls."""
    rows = [null_row(m, kind) for kind in m.data["nulls"]]
    adjusted = holm([row["p_value"] for row in rows])
    return [{**row, "p_holm": float(p)} for row, p in zip(rows, adjusted, strict=True)]


def null_row(m: Measured, kind: str) -> dict:
    """The ensemble against one null."""
    trained, chance = m.record.matrix("pwmcc", m.seeds), m.record.null_matrix(kind, m.seeds)
    pairs, effect = upper(chance), None
    if min(len(trained), len(chance)) > 2:
        effect = cohens_d(pseudo_values(trained), pseudo_values(chance))
    return {
        "subject": m.subject,
        "null": kind,
        "null_pwmcc": Metric(
            float(pairs.mean()),
            float(pairs.min()),
            float(pairs.max()),
            len(pairs),
            "mean, min, max over pairs",
        ),
        "trained_pwmcc": interval(trained),
        "S": m.record.s_interval(m.seeds, float(pairs.mean())),
        "delta": jackknife_difference(trained, chance),
        "p_value": difference_pvalue(trained, chance),
        "cohens_d": effect,
        "cos_to_init": m.per_seed("cos_to_init"),
        "plateau": None
        if m.plateau is None
        else "reached"
        if m.plateau <= PLATEAU_BAR
        else "not reached",
    }


def notes(m: Measured, subject: dict) -> list[str]:
    """What the table does not show: the subject, quality, movement, plateau, effective rank."""
    leak, out = subject.get("leak_probe", {}), []
    if "accuracy" in subject:
        out.append(
            f"held-out accuracy {subject['accuracy']:.4f}, loss "
            f"{subject.get('loss', float('nan')):.3f} nats."
        )
    if leak:
        word = (
            "at chance"
            if leak.get("at_chance")
            else "ABOVE CHANCE: the answer leaks into the input"
        )
        out.append(
            f"leak probe: accuracy {leak['accuracy']:.4f}, chance {leak['chance']:.4f} ({word})."
        )
    variance, l0, dead, cosine = (
        m.per_seed(name).value
        for name in ("explained_variance", "l0", "dead_fraction", "cos_to_init")
    )
    out.append(f"held-out explained variance {variance:.4f}, L0 {l0:.2f}, dead {dead:.2%}.")
    if math.isfinite(cosine):
        out.append(
            f"movement: median cosine of a decoder row to its own start {cosine:.3f} (1 means it "
            "never moved)."
        )
    if m.plateau is not None:
        word = "reached" if m.plateau <= PLATEAU_BAR else "NOT reached"
        out.append(
            f"plateau {word}: explained variance gained {m.plateau:.3%} over the last fifth of "
            f"training (bar {PLATEAU_BAR:.1%})."
        )
    if trajectory_of(m):
        steps, values = trajectory_of(m)
        out.append(
            f"PWMCC of all latents went from {values[0]:.3f} at step {steps[0]:.0f} to "
            f"{values[-1]:.3f} at step {steps[-1]:.0f}."
        )
    return [*out, *rank_notes(m)]


def rank_notes(m: Measured) -> list[str]:
    """How many directions the activations use, what that does to the covariance null, and how far
    the decoders' subspaces overlap.
    """
    rank, d_in = m.record.value("effective_rank"), m.data["d_in"]
    out = [
        f"effective rank of the activations {rank:.1f} of {d_in}, participation ratio "
        f"{m.record.value('participation_ratio'):.1f}."
    ]
    crowded = m.data.get("null_at_effective_rank")
    if crowded and m.worst == "covariance":
        end = (
            ""
            if assessable(m.null)
            else "; agreement above it could not be told from crowding, so S against it is not "
            "assessed"
        )
        out.append(
            f"the covariance null is {m.null:.3f} because its directions lie where the "
            "activations vary: in about "
            f"{crowded['dimensions']} dimensions even {m.record.recipe.d_sae} isotropic "
            f"directions score {crowded['pwmcc']:.3f}{end}."
        )
    ranks = sorted(
        int(name.removeprefix(OVERLAP)) for name in m.data["pairwise"] if name.startswith(OVERLAP)
    )
    overlaps = {r: interval(m.record.matrix(f"{OVERLAP}{r}", m.seeds)).value for r in ranks}
    told = ", ".join(f"r={r}: {value:.3f} (chance {r / d_in:.3f})" for r, value in overlaps.items())
    return [*out, f"subspace overlap of the decoders: {told}."]


def trajectory_of(m: Measured) -> tuple[list[float], list[float]] | None:
    """Steps of training, and the PWMCC of all latents after each, averaged over seeds; None when it
    was not followed.
    """
    curves = m.data.get("trajectory") or {}
    return (curves["step"], curves["pwmcc"]) if curves.get("pwmcc") else None


def trajectory_figure(m: Measured) -> dict:
    """Stability over training as a figure of the report."""
    steps, values = trajectory_of(m)
    title = f"PWMCC of all latents during training, {m.subject}"
    return {
        "kind": "line",
        "x": steps,
        "y": values,
        "x_label": "step",
        "y_label": "pwmcc",
        "title": title,
    }


def planted_note(record: dict) -> str:
    """Recovery of a known dictionary, beside the stability of the SAEs that found it."""
    found, spec = Evidence.read(record).metrics, record["spec"]
    recovery = found["recovery"]
    return (
        f"Planted features ({spec['n_features']} in {spec['d_in']} dimensions, L0 {spec['l0']}): "
        "SAEs recover "
        f"{recovery.value:.3f} [{recovery.lcb:.3f}, {recovery.ucb:.3f}] "
        f"of them beyond chance, with S = {found['S'].value:.3f}."
    )


def write_cycle3_evidence(m: Measured, out: Path, spec: dict) -> None:
    """Trained minus gaussian null with the pair bootstrap, exactly as the original policy read
    it.
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
    metrics = {
        "trained_random_delta": delta,
        "trained_pwmcc": trained,
        "random_pwmcc": random,
    }
    evidence = new_record(
        "baseline",
        m.subject,
        m.data["recipe"],
        m.data["recipe_hash"],
        metrics,
        inputs=[m.record.path],
        config=spec,
        seeds=m.seeds,
    )
    provenance.write_json(out, evidence)

"""The baseline in sentences: what its table does not show of the subject, of training and of the
nulls.
"""

from __future__ import annotations

import math

from husai.evidence import Evidence
from husai.stability.record import interval
from husai.statistics import assessable
from husai.summaries.ensembles import PLATEAU_BAR, BaselineEnsemble, span

OVERLAP = "subspace_overlap_r"


def notes(m: BaselineEnsemble, subject: dict) -> list[str]:
    """What the table does not show: the subject, quality, movement, plateau, effective rank."""
    leak, out = subject.get("leak_probe", {}), []
    if "accuracy" in subject:
        loss = subject.get("loss", math.nan)
        out.append(f"held-out accuracy {subject['accuracy']:.4f}, loss {loss:.3f} nats.")
    if "accuracy" in leak:
        leaks = "ABOVE CHANCE: the answer leaks into the input"
        word = "at chance" if leak.get("at_chance") else leaks
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
            f"training at the full learning rate (bar {PLATEAU_BAR:.1%})."
        )
    if trajectory_of(m):
        steps, values = trajectory_of(m)
        out.append(
            f"PWMCC of all latents went from {values[0]:.3f} at step {steps[0]:.0f} to "
            f"{values[-1]:.3f} at step {steps[-1]:.0f}."
        )
    return [*out, *rank_notes(m)]


def rank_notes(m: BaselineEnsemble) -> list[str]:
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
        told = (
            f"the covariance null is {m.null:.3f} because its directions lie where the activations "
            f"vary: in about {crowded['dimensions']} dimensions even {m.record.recipe.d_sae} "
            f"isotropic directions score {crowded['pwmcc']:.3f}"
        )
        if not assessable(m.null):
            told += "; agreement above it could not be told from crowding, so S against it is not "
            told += "assessed"
        out.append(f"{told}.")
    ranks = sorted(
        int(name.removeprefix(OVERLAP)) for name in m.data["pairwise"] if name.startswith(OVERLAP)
    )
    overlaps = {r: interval(m.record.matrix(f"{OVERLAP}{r}", m.seeds)).value for r in ranks}
    told = ", ".join(f"r={r}: {value:.3f} (chance {r / d_in:.3f})" for r, value in overlaps.items())
    return [*out, f"subspace overlap of the decoders: {told}."]


def trajectory_of(m: BaselineEnsemble) -> tuple[list[float], list[float]] | None:
    """Steps of training, and the PWMCC of all latents after each, averaged over seeds; None when it
    was not followed.
    """
    curves = m.data.get("trajectory") or {}
    return (curves["step"], curves["pwmcc"]) if curves.get("pwmcc") else None


def trajectory_figure(m: BaselineEnsemble) -> dict:
    """Stability over training as a figure of the report."""
    steps, values = trajectory_of(m)
    title = f"PWMCC of all latents during training, {m.subject}"
    labels = {"x_label": "step", "y_label": "pwmcc"}
    return {"kind": "line", "x": steps, "y": values, **labels, "title": title}


def planted_note(record: dict) -> str:
    """Recovery of a known dictionary, beside the stability of the SAEs that found it."""
    found, spec = Evidence.read(record).metrics, record["spec"]
    return (
        f"Planted features ({spec['n_features']} in {spec['d_in']} dimensions, L0 {spec['l0']}): "
        f"SAEs recover {span(found['recovery'])} of them beyond chance, with S = "
        f"{found['S'].value:.3f}."
    )

"""The candidate again: its roles trained on fresh seeds, and the evidence records the gate reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from husai import provenance
from husai.errors import HusaiError
from husai.recipe import FIXED_K, Recipe
from husai.stages.frontier import probe_table
from husai.stages.records import StabilityRecord
from husai.statistics import crossed_interval

ROLES = ("candidate", "frozen", "random_model", "transcoder")
RANDOM = "-random"


def role_recipe(role: str, candidate: Recipe, resolved: Recipe, spec: dict) -> Recipe:
    """The recipe trained for a role.

    ``candidate``: as selected. ``frozen``: TopK with a frozen decoder at its width and L0. ``random_model``: the same recipe on the
    randomised subject. ``transcoder``: TopK from MLP input to MLP output at its width and L0.
    """
    if role not in ROLES:
        raise HusaiError(f"confirm: role '{role}' is not one of {', '.join(ROLES)}")
    if role == "candidate":
        return candidate
    l0 = round(resolved.k if resolved.architecture in FIXED_K else resolved.l0_target)
    if role == "frozen":
        return replace(resolved, architecture="topk", k=l0, l0_target=None, sparsity_coefficient=None, frozen_decoder=True)
    if role == "random_model":
        return replace(resolved, subject=resolved.subject + RANDOM)
    stress = spec["stress"]
    return Recipe(
        subject=stress["transcoder_subject"],
        hook_name=stress["transcoder_hooks"][0],
        target_hook_name=stress["transcoder_hooks"][1],
        architecture="transcoder",
        d_sae=resolved.d_sae,
        k=l0,
        n_rows=resolved.n_rows,
        **spec["training"][stress["transcoder_subject"]],
    )


def read_candidate(path: str | Path) -> tuple[Recipe, Recipe, dict]:
    """Recipe of a ``selected_candidate.json`` as configured and with calibrated values filled in, and the file's content."""
    data = provenance.read_json(path)
    if not isinstance(data.get("recipe"), dict):
        raise HusaiError(f"{path}: holds no recipe to train again; select from results of this pipeline's frontier or scaling")
    recipe = Recipe.from_dict(data["recipe"])
    return recipe, Recipe.from_dict(data.get("resolved") or data["recipe"]), data


def train_role_job(role: str, candidate: Path, spec: dict, out: Path, *, calibration: Path | None, device: str, dtype: str) -> None:
    """Train one role on the confirmation seeds into ``results/confirmation/{role}``; the candidate's attempt goes into the ledger."""
    from husai.stages.training import train_job

    configured, resolved, _ = read_candidate(candidate)
    if resolved.needs_calibration:
        resolved = resolved.resolve(calibrated_k(calibration, resolved))
    recipe = role_recipe(role, configured, resolved, spec)
    if role == "candidate":
        from husai.gate.ledger import begin_confirmation

        begin_confirmation(
            recipe.hash,
            seeds=spec["seeds"],
            data=spec.get("datasets"),
            selection_seeds=spec.get("selection_seeds", []),
            force=spec["force"],
        )
    stores = Path("results/subjects") / recipe.subject / "activations"
    target = stores / recipe.target_hook_name if recipe.target_hook_name else None
    seeds = spec["seeds"] if role in ("candidate", "frozen") else spec["stress"]["seeds"]
    train_job(
        {"recipe": recipe.to_dict(), "seeds": seeds}, seeds, stores / recipe.hook_name, out, target_store=target,
        calibration=calibration, device=device, dtype=dtype,
    )  # fmt: skip


def calibrated_k(calibration: Path | None, recipe: Recipe) -> int:
    """The chosen k that a recipe waits for."""
    if calibration is None:
        raise HusaiError(f"{recipe.id}: needs the calibrated k; give --calibration results/calibration/selected.json")
    selected = provenance.read_json(calibration)
    return int((selected.get(recipe.subject.removesuffix(RANDOM)) or selected["default"])["k"])


def confirmation_job(spec: dict, inputs: Sequence[str], out: Path) -> None:
    """Write the evidence of the candidate: integrity, stability, saebench, cebench (``phase: confirmation``)."""
    from husai.gate.ledger import confirmation_status, finish_confirmation
    from husai.stages.cebench import recipe_job

    folder, given = out.parent, {Path(p).name: Path(p) for p in inputs}
    configured, _, _ = read_candidate(given["selected_candidate.json"])
    common = {"phase": "confirmation"}
    stability = StabilityRecord(folder / "stability/candidate.json")
    provenance.write_json(folder / "stability.json", {**stability.data, **common})
    write_integrity(spec, configured, stability, folder, out, common)
    write_saebench(spec, configured, folder, common)
    seeds = spec["seeds"]
    ce = recipe_job(
        [seed_record(folder, "candidate", s, "cebench") for s in seeds],
        [seed_record(folder, "frozen", s, "cebench") for s in seeds],
        folder / "cebench.json",
        spec,
    )
    provenance.write_json(folder / "cebench.json", {**ce, **common})
    status = confirmation_status(configured.hash)
    if status["finished"] < status["attempts"]:
        finish_confirmation(
            configured.hash,
            status["attempts"],
            evidence=[str(folder / f"{n}.json") for n in ("integrity", "stability", "saebench", "cebench")],
        )


def seed_record(folder: Path, role: str, seed: int, bench: str) -> Path:
    """External record of one confirmation SAE."""
    return folder / "external" / role / f"seed{seed}" / f"{bench}.json"


def write_integrity(spec: dict, recipe: Recipe, stability: StabilityRecord, folder: Path, out: Path, common: dict) -> None:
    """What must be true before any other number counts: leak probe, plateau, movement, dead latents, disjoint text, independent starts."""
    subject = Path("results/subjects") / recipe.subject
    leak = provenance.read_json(subject / "model/metrics.json")["leak_probe"]
    probes = provenance.read_json(subject / "probes/manifest.json")
    final = provenance.read_json(folder / "candidate/recipe.json")["final"]
    n = len(final)

    def largest(name: str) -> dict:
        return provenance.metric(float(max(f[name] for f in final)), n=n, method="largest over seeds")

    metrics = {
        "leak_excess": provenance.metric(leak["excess"], leak["excess_lcb"], None, n=leak["n"], method="leak probe accuracy minus chance"),
        "plateau_gain": largest("plateau_gain"),
        "cos_to_init": largest("cos_to_init"),
        "dead_fraction": largest("dead_fraction"),
        "text_overlap_rows": provenance.metric(probes["text_overlap_rows"], n=n, method="test rows found in the training text, by hash"),
        "shared_init_pairs": {**stability.metric("shared_init_pairs"), "n": n},
    }
    inputs = [subject / "model/metrics.json", subject / "probes/manifest.json", folder / "candidate/recipe.json", stability.path]
    record = provenance.evidence("integrity", recipe.subject, recipe.id, recipe.hash, metrics, inputs, spec, spec["seeds"], **common)
    provenance.write_json(out, record)


def write_saebench(spec: dict, recipe: Recipe, folder: Path, common: dict) -> None:
    """Paired deltas on the confirmation data sets at the fixed k, crossed over seeds and families."""
    k, seeds = spec["gate_k"], spec["seeds"]
    paths = {role: [seed_record(folder, role, s, "saebench") for s in seeds] for role in ("candidate", "frozen")}
    records = {role: [provenance.read_json(p) for p in found] for role, found in paths.items()}
    metrics, tables = {}, {}
    for name, against in (("frozen", records["frozen"]), ("dense", "dense_auc"), ("neurons", "neurons_auc"), ("pca", "pca_auc")):
        table, families = probe_table(records["candidate"], k, against)
        metrics[f"delta_vs_{name}"] = crossed_interval(table, families).metric()
        tables[f"delta_vs_{name}"] = table.tolist()
    datasets = sorted({row["dataset"] for row in records["candidate"][0]["per_dataset"]})
    mean = np.array([[row["auc"] for row in r["per_dataset"] if row["k"] == k] for r in records["candidate"]]).mean()
    metrics["auc"] = provenance.metric(float(mean), n=len(seeds), method="mean over seeds and data sets")
    record = provenance.evidence(
        "saebench", recipe.subject, recipe.id, recipe.hash, metrics, [*paths["candidate"], *paths["frozen"]], spec, seeds,
        k=k, datasets=datasets, families=families, tables=tables, engine=records["candidate"][0].get("engine"), **common,
    )  # fmt: skip
    provenance.write_json(folder / "saebench.json", record)

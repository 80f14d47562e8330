"""The candidate again: its roles trained on fresh seeds, and the evidence records the gate
reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import Metric, new_record, read_metric
from husai.jobs.frontier import probe_table
from husai.recipe import FIXED_K, RANDOM, Recipe
from husai.stability.record import StabilityRecord
from husai.statistics import crossed_metric

ROLES = ("candidate", "frozen", "random_model", "transcoder")


def role_recipe(role: str, candidate: Recipe, resolved: Recipe, spec: dict) -> Recipe:
    """The recipe trained for a role.

    ``candidate``: as selected. ``frozen``: TopK with a frozen decoder at its width and L0.
    ``random_model``: the same recipe on the randomised subject (of a brought candidate: its
    architecture trained here at its width and L0). ``transcoder``: TopK from MLP input to MLP
    output at its width and L0."""
    if role not in ROLES:
        raise HusaiError(f"confirm: role '{role}' is not one of {', '.join(ROLES)}")
    if role == "candidate":
        return candidate
    l0 = round(resolved.matched_l0)
    if resolved.brought:
        sparsity = (
            {"k": l0, "l0_target": None}
            if resolved.architecture in FIXED_K
            else {"l0_target": float(l0)}
        )
        resolved = replace(resolved, brought="", content="", **sparsity)
    if role == "frozen":
        return replace(
            resolved,
            architecture="topk",
            k=l0,
            l0_target=None,
            sparsity_coefficient=None,
            frozen_decoder=True,
        )
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
    """Recipe of a ``selected_candidate.json`` as configured and with calibrated values filled in,
    and the file's content.
    """
    data = provenance.read_json(path)
    if not isinstance(data.get("recipe"), dict):
        raise HusaiError(
            f"{path}: holds no recipe to train again; select from results of this pipeline's "
            "frontier or scaling"
        )
    recipe = Recipe.from_dict(data["recipe"])
    return recipe, Recipe.from_dict(data.get("resolved") or data["recipe"]), data


def train_role_job(
    role: str,
    candidate: Path,
    spec: dict,
    out: Path,
    *,
    calibration: Path | None,
    device: str,
    dtype: str,
) -> None:
    """Train one role on the confirmation seeds into ``results/confirmation/{role}``; the
    candidate's attempt goes into the ledger.

    A brought candidate is not trained: its members kept for the confirmation take its place.
    """
    from husai.jobs.bring import confirm_brought
    from husai.jobs.training import train_job

    configured, resolved, _ = read_candidate(candidate)
    if resolved.needs_calibration:
        resolved = resolved.resolve(calibrated_k(calibration, resolved))
    recipe = role_recipe(role, configured, resolved, spec)
    if recipe.brought:
        confirm_brought(recipe, spec, out, device=device)
        return
    if role == "candidate":
        from husai.gate.ledger import begin_confirmation

        begin_confirmation(
            recipe.hash,
            seeds=spec["seeds"],
            data=spec.get("datasets"),
            selection_seeds=spec.get("selection_seeds", []),
            force=spec["force"],
            subject=recipe.subject,
        )
    stores = Path("results/subjects") / recipe.subject / "activations"
    target = stores / recipe.target_hook_name if recipe.target_hook_name else None
    seeds = spec["seeds"] if role in ("candidate", "frozen") else spec["stress"]["seeds"]
    train_job(
        {"recipe": recipe.to_dict(), "seeds": seeds},
        seeds,
        stores / recipe.hook_name,
        out,
        target_store=target,
        calibration=calibration,
        device=device,
        dtype=dtype,
    )


def calibrated_k(calibration: Path | None, recipe: Recipe) -> int:
    """The chosen k that a recipe waits for."""
    if calibration is None:
        raise HusaiError(
            f"{recipe.id}: needs the calibrated k; give --calibration "
            "results/calibration/selected.json"
        )
    selected = provenance.read_json(calibration)
    return int((selected.get(recipe.subject.removesuffix(RANDOM)) or selected["default"])["k"])


def confirmation_job(spec: dict, inputs: Sequence[str], out: Path) -> None:
    """Write the evidence of the candidate: integrity, stability, saebench, cebench (``phase:
    confirmation``).
    """
    from husai.gate.ledger import confirmation_status, finish_confirmation
    from husai.jobs.cebench import recipe_job

    folder, given = out.parent, {Path(p).name: Path(p) for p in inputs}
    configured, _, _ = read_candidate(given["selected_candidate.json"])
    candidate = provenance.read_json(folder / "candidate/recipe.json")
    records = {
        (role, bench): [folder / "external" / role / f"seed{s}" / f"{bench}.json" for s in seeds]
        for role, seeds in (
            ("candidate", candidate["seeds"]),
            ("frozen", provenance.read_json(folder / "frozen/recipe.json")["seeds"]),
        )
        for bench in ("saebench", "cebench")
    }
    common = {"phase": "confirmation"}
    stability = StabilityRecord(folder / "stability/candidate.json")
    provenance.write_json(folder / "stability.json", {**stability.data, **common})
    write_integrity(spec, configured, candidate, stability, folder, out, common)
    write_saebench(
        spec,
        configured,
        records["candidate", "saebench"],
        records["frozen", "saebench"],
        folder,
        common,
    )
    ce = recipe_job(
        records["candidate", "cebench"], records["frozen", "cebench"], folder / "cebench.json", spec
    )
    provenance.write_json(folder / "cebench.json", {**ce, **common})
    status = confirmation_status(configured.hash)
    if status["finished"] < status["attempts"] and not candidate.get("not_fresh"):
        finish_confirmation(
            configured.hash,
            status["attempts"],
            evidence=[
                str(folder / f"{n}.json") for n in ("integrity", "stability", "saebench", "cebench")
            ],
        )


def write_integrity(
    spec: dict,
    recipe: Recipe,
    candidate: dict,
    stability: StabilityRecord,
    folder: Path,
    out: Path,
    common: dict,
) -> None:
    """What must be true before any other number counts: leak probe, plateau, movement, dead
    latents, disjoint text, independent starts.

    Of a brought candidate only what its metadata declare is known of its training; the rest is
    missing. ``candidate`` is its ``recipe.json``; one without fresh seeds makes the whole record a
    failed one."""
    subject = Path("results/subjects") / recipe.subject
    leak = provenance.read_json(subject / "model/metrics.json")["leak_probe"]
    probes = provenance.read_json(subject / "probes/manifest.json")
    final, n = candidate["final"], len(candidate["final"])
    declared = " (declared by the brought SAEs)" if recipe.brought else ""

    def largest(name: str, of: str = "") -> Metric:
        values = [f.get(name) for f in final]
        if None in values:
            return Metric(
                None,
                n=n,
                method="not known of SAEs that were not trained here: their metadata give no "
                f"{name}",
            )
        return Metric(float(max(values)), n=n, method=f"largest over seeds{of}")

    overlap = Metric(
        probes["text_overlap_rows"], n=n, method="test rows found in the training text, by hash"
    )
    starts = stability.metric("shared_init_pairs") or Metric(
        None, method="how the brought SAEs were initialised is not known"
    )
    metrics = {
        "leak_excess": read_metric(
            {
                "value": leak["excess"],
                "lcb": leak["excess_lcb"],
                "n": leak["n"],
                "method": "leak probe accuracy minus chance",
            }
        ),
        "plateau_gain": largest("plateau_gain", declared),
        "cos_to_init": largest("cos_to_init", declared),
        "dead_fraction": largest("dead_fraction"),
        "text_overlap_rows": largest("text_overlap_rows", declared) if recipe.brought else overlap,
        "shared_init_pairs": replace(starts, n=n),
    }
    inputs = [
        subject / "model/metrics.json",
        subject / "probes/manifest.json",
        folder / "candidate/recipe.json",
        stability.path,
    ]
    failed = (
        {"status": "failed", "reason": candidate["not_fresh"]} if candidate.get("not_fresh") else {}
    )
    seeds = candidate["seeds"]
    record = new_record(
        "integrity",
        recipe.subject,
        recipe.id,
        recipe.hash,
        metrics,
        inputs,
        spec,
        seeds,
        **failed,
        **common,
    )
    provenance.write_json(out, record)


def write_saebench(
    spec: dict,
    recipe: Recipe,
    candidate: Sequence[Path],
    frozen: Sequence[Path],
    folder: Path,
    common: dict,
) -> None:
    """Paired deltas on the confirmation data sets at the fixed k, crossed over seeds and
    families.
    """
    k = spec["gate_k"]
    records, controls = ([provenance.read_json(p) for p in paths] for paths in (candidate, frozen))
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
    datasets = sorted({row["dataset"] for row in records[0]["per_dataset"]})
    mean = np.array(
        [[row["auc"] for row in r["per_dataset"] if row["k"] == k] for r in records]
    ).mean()
    metrics["auc"] = Metric(float(mean), n=len(seeds), method="mean over seeds and data sets")
    record = new_record(
        "saebench",
        recipe.subject,
        recipe.id,
        recipe.hash,
        metrics,
        [*candidate, *frozen],
        spec,
        seeds,
        k=k,
        datasets=datasets,
        families=families,
        tables=tables,
        engine=records[0].get("engine"),
        **common,
    )
    provenance.write_json(folder / "saebench.json", record)

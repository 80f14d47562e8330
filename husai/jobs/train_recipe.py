"""Training one recipe: its seeds as one computation, saved in SAELens format with curves."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError, RecipeFailed
from husai.progress import Progress, log
from husai.provenance import folder
from husai.recipe import MATCHED, RANDOM, Recipe

RESUME = ".resume"


def train_job(
    spec,
    store: str | Path,
    out: str | Path,
    *,
    reference: str | Path | None = None,
    calibration: str | Path | None = None,
    coefficient: float | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> dict:
    """Train ``spec.recipe`` for all ``spec.seeds`` and write ``recipe.json`` (which is returned),
    ``training.parquet`` and ``seed{n}/`` beside the manifest ``out``.

    Without ``spec.may_fail`` an L0 out of reach is logged and the nearest one kept. A killed job
    goes on from ``.resume/`` when it is started again with the same recipe, and ends with the same
    weights on a CPU.

    Parameters
    ----------
    store : path
        Activations of the recipe's hook, or their manifest: the splits ``train`` and ``held_out``.
        What a transcoder reconstructs, its ``target_hook_name``, lies beside it.
    reference : path, optional
        Trained plain twin of a consistency recipe.
    calibration : path, optional
        ``results/calibration/selected.json``, for a recipe whose k or L0 is ``calibrated``.
    coefficient : float, optional
        Sparsity coefficient that gave the recipe's L0 before; searched unless given.
    """
    from husai.compute import resolve_device
    from husai.passport import train_consensus
    from husai.sae import train_ensemble

    configured, seeds, store, out = spec.recipe, spec.seeds, folder(store), folder(out)
    resolved = resolve(configured, calibration)
    if coefficient is not None:
        resolved = replace(resolved, sparsity_coefficient=coefficient)
    rows, target = _stores(resolved, store)
    decoder = _reference_decoder(resolved, reference)
    of = rows["train"].n_rows
    about = {"store": str(rows["train"].path), "rows": min(resolved.n_rows or of, of), "of": of}
    with provenance.job(
        out / "manifest.json", config=spec.values(), seeds=seeds, data_slice=about
    ) as work:
        work.reads(*(s.path / "store.json" for s in (*rows.values(), *target.values())))
        twin = reference and folder(reference) / "manifest.json"
        work.reads(*filter(None, (calibration, twin)))
        progress = Progress(resolved.steps, f"{resolved.id}, {len(seeds)} seeds: steps")
        try:
            train = train_consensus if resolved.consensus_members else train_ensemble
            result = train(
                resolved,
                list(seeds),
                rows["train"],
                held_out=rows["held_out"],
                target=target.get("train"),
                held_out_target=target.get("held_out"),
                reference=decoder,
                device=resolve_device(device),
                dtype=dtype,
                checkpoint_dir=out / RESUME,
                progress=progress.update,
                l0_required=spec.may_fail,
            )
            _check_result(configured, result)
        except RecipeFailed as error:
            if not spec.may_fail:
                raise
            described = _fail(out, configured.describe(resolved, seeds), str(error), work)
        else:
            described = _save(out, configured, result, seeds, work)
    shutil.rmtree(out / RESUME, ignore_errors=True)
    return described


def resolve(recipe: Recipe, calibration: str | Path | None) -> Recipe:
    """The recipe with the calibrated k or L0, or the width and L0 of a brought SAE, filled in.

    Raises
    ------
    HusaiError
        The recipe waits for a calibration and none is given, or it holds no k for the subject.
    """
    if not recipe.needs_calibration:
        return recipe
    if calibration is None:
        raise HusaiError(
            f"{recipe.id}: waits for the calibrated L0; give --calibration "
            "results/calibration/selected.json"
        )
    selected = provenance.read_json(calibration)
    chosen = selected.get(recipe.subject.removesuffix(RANDOM)) or selected.get("default") or {}
    asked = ("k", "d_sae") if recipe.d_sae == MATCHED else ("k",)
    if not all(isinstance(chosen.get(name), int) for name in asked):
        raise HusaiError(
            f"{calibration}: holds no {' and '.join(asked)} for subject {recipe.subject}; run the "
            "calibration stage again"
        )
    if recipe.d_sae == MATCHED:
        return recipe.resolve(chosen["k"], chosen["d_sae"])
    return recipe.resolve(min(chosen["k"], recipe.d_sae))


def _stores(recipe: Recipe, folder: Path) -> tuple[dict, dict]:
    """Activations by split that the recipe reads, and those that a transcoder reconstructs."""
    from husai.activations import ActivationStore

    splits, target = ("train", "held_out"), {}
    rows = {split: ActivationStore.open(folder / split) for split in splits}
    if rows["train"].d < 2:
        raise HusaiError(
            f"{folder}: activations have width {rows['train'].d}; an SAE needs at least 2"
        )
    for split in rows.values():
        split.check_origin(recipe.subject, recipe.hook_name)
    if recipe.target_hook_name is not None:
        beside = folder.parent / recipe.target_hook_name
        target = {split: ActivationStore.open(beside / split) for split in splits}
    return rows, target


def _reference_decoder(recipe: Recipe, reference: str | Path | None):
    """Decoder ``(d_sae, d_in)`` of the reference seed, or None for a plain recipe."""
    if not recipe.consistency_weight:
        return None
    if reference is None:
        raise HusaiError(
            f"{recipe.id}: aligns to a reference; give --reference with the folder of "
            f"{recipe.plain_twin().id}"
        )
    from husai.sae import load_sae

    return load_sae(folder(reference) / f"seed{recipe.reference_seed}").W_dec


def _check_result(recipe: Recipe, result) -> None:
    """Refuse SAEs that do nothing on held-out rows."""
    for row in result.final:
        if not math.isfinite(row["explained_variance"]):
            raise RecipeFailed(
                f"{recipe.id}: seed {row['seed']} ends with a held-out reconstruction that is not "
                "finite; lower learning_rate"
            )
        if row["dead_fraction"] >= 1.0:
            raise RecipeFailed(
                f"{recipe.id}: no latent of seed {row['seed']} fires on the held-out rows; train "
                "longer or denser"
            )


def _save(
    out: Path, configured: Recipe, result, seeds: Sequence[int], work: provenance.Job
) -> dict:
    """Write ``seed{n}/``, the curves and ``recipe.json``, which is returned; other seeds go."""
    from husai.report.summary import write_parquet

    known = [{k: final[k] for k in ("plateau_gain", "cos_to_init")} for final in result.final]
    work.writes(*save_saes(out, configured, seeds, result.saes, known))
    first = result.saes[0]
    shape = {"d_in": first.d_in, "d_out": first.d_out}
    described = configured.describe(result.resolved, seeds) | shape | {"final": result.final}
    write_parquet(out / "training.parquet", result.curves)
    provenance.write_json(out / "recipe.json", described)
    work.writes(out / "training.parquet", out / "recipe.json")
    return described


def save_saes(
    out: Path, recipe: Recipe, seeds: Sequence[int], saes: Sequence, notes: Sequence[dict]
) -> list[Path]:
    """Write ``seed{n}/`` in SAELens format, with ``notes`` of each SAE among its metadata, and
    return the files written; SAEs of other seeds go."""
    from husai.sae import save_sae

    for stale in out.glob("seed*"):
        shutil.rmtree(stale)
    of = {"subject": recipe.subject, "hook_name": recipe.hook_name}
    of |= {"recipe_id": recipe.id, "recipe_hash": recipe.hash}
    written = []
    for seed, sae, more in zip(seeds, saes, notes, strict=True):
        sae.cfg.update(**of, seed=int(seed), **more)
        save_sae(sae, out / f"seed{seed}")
        written += sorted(p for p in (out / f"seed{seed}").iterdir() if p.is_file())
    return written


def _fail(out: Path, described: dict, reason: str, work: provenance.Job) -> dict:
    """Leave ``recipe.json`` and a manifest that say so, and no SAE of an earlier training."""
    for stale in (*out.glob("seed*"), *out.glob("training.parquet")):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    why = {"status": "failed", "reason": reason}
    described |= why
    provenance.write_json(out / "recipe.json", described)
    work.writes(out / "recipe.json")
    work.notes(**why)
    subject = described["recipe"]["subject"]
    log(f"FAILED: {described['id']} on {subject}: {reason}; its row in the tables says so")
    return described

"""Training one recipe: all its seeds as one computation, saved in SAELens format with curves and a
manifest.
"""

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
    """Train ``spec.recipe`` for all ``spec.seeds`` and write ``results/saes/{subject}/{recipe}``.

    Parameters
    ----------
    spec : TrainSpec
    store : path
        ``results/subjects/{subject}/activations/{hook}`` or its manifest: the splits ``train`` and
        ``held_out``. What a transcoder reconstructs, its ``target_hook_name``, lies beside it.
    out : path
        Manifest to write, or its folder: ``recipe.json``, ``training.parquet`` and ``seed{n}/`` go
        beside it.
    reference : path, optional
        Trained plain twin of a consistency recipe.
    calibration : path, optional
        ``results/calibration/selected.json``, for a recipe whose k or L0 is ``calibrated``.
    coefficient : float, optional
        Sparsity coefficient that gave the recipe's L0 before; searched unless given.

    Returns
    -------
    dict
        What ``recipe.json`` holds: the recipe as configured and as resolved, and the final figures
        per seed.

    Notes
    -----
    Without ``spec.may_fail`` an L0 out of reach is logged and the nearest one kept. A killed job
    goes on from ``.resume/`` when it is started again with the same recipe, and ends with the same
    weights on a CPU.
    """
    from husai.compute import resolve_device
    from husai.passport import train_consensus
    from husai.sae import train_ensemble

    configured, seeds, store, out = spec.recipe, spec.seeds, folder(store), folder(out)
    resolved = resolve(configured, calibration)
    if coefficient is not None:
        resolved = replace(resolved, sparsity_coefficient=coefficient)
    rows, target = _stores(resolved, store)
    for split in rows.values():
        split.check_origin(resolved.subject, resolved.hook_name)
    decoder = _reference_decoder(resolved, reference)
    with provenance.job(
        out / "manifest.json",
        config=spec.values(),
        seeds=seeds,
        data_slice=_data_slice(resolved, rows["train"]),
    ) as work:
        work.reads(*(s.path / "store.json" for s in (*rows.values(), *target.values())))
        work.reads(
            *(p for p in (calibration, reference and folder(reference) / "manifest.json") if p)
        )
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
            described = _fail(out, configured, resolved, seeds, str(error), work)
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
            f"{calibration}: holds no {' and '.join(asked)} for subject {recipe.subject}; run the calibration stage "
            "again"
        )
    if recipe.d_sae == MATCHED:
        return recipe.resolve(chosen["k"], chosen["d_sae"])
    return recipe.resolve(min(chosen["k"], recipe.d_sae))


def _stores(recipe: Recipe, folder: Path) -> tuple[dict, dict]:
    """Activations by split that the recipe reads, and those that a transcoder reconstructs; an
    empty or one-dimensional space is refused before any time is spent on it.
    """
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


def _data_slice(recipe: Recipe, store) -> dict:
    """Which rows were trained on."""
    rows = min(recipe.n_rows or store.n_rows, store.n_rows)
    return {"store": str(store.path), "rows": rows, "of": store.n_rows}


def _check_result(recipe: Recipe, result) -> None:
    """Refuse SAEs that do nothing: a reconstruction that is not finite, or no latent that fires on
    held-out rows.
    """
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
    """Write ``seed{n}/`` in SAELens format, the curves and ``recipe.json``, whose content is
    returned; SAEs of other seeds go.
    """
    from husai.report.summary import write_parquet
    from husai.sae import save_sae

    for stale in out.glob("seed*"):
        shutil.rmtree(stale)
    for seed, sae, final in zip(seeds, result.saes, result.final, strict=True):
        sae.cfg.update(
            subject=configured.subject,
            hook_name=configured.hook_name,
            recipe_id=configured.id,
            recipe_hash=configured.hash,
            seed=int(seed),
            **{name: final[name] for name in ("plateau_gain", "cos_to_init")},
        )
        save_sae(sae, out / f"seed{seed}")
        work.writes(*sorted(p for p in (out / f"seed{seed}").iterdir() if p.is_file()))
    first = result.saes[0]
    shape = {"d_in": first.d_in, "d_out": first.d_out}
    described = _describe(configured, result.resolved, seeds) | shape | {"final": result.final}
    write_parquet(out / "training.parquet", result.curves)
    provenance.write_json(out / "recipe.json", described)
    work.writes(out / "training.parquet", out / "recipe.json")
    return described


def _describe(configured: Recipe, resolved: Recipe, seeds: Sequence[int]) -> dict:
    """What ``recipe.json`` says of every recipe, trained or failed."""
    return {
        "schema": "husai.recipe/1",
        "id": configured.id,
        "hash": configured.hash,
        "recipe": configured.to_dict(),
        "resolved": resolved.to_dict(),
        "seeds": [int(s) for s in seeds],
    }


def _fail(
    out: Path,
    configured: Recipe,
    resolved: Recipe,
    seeds: Sequence[int],
    reason: str,
    work: provenance.Job,
) -> dict:
    """Leave ``recipe.json`` and a manifest that say the recipe failed, and no SAE of an earlier
    training beside them.
    """
    for stale in (*out.glob("seed*"), *out.glob("training.parquet")):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    why = {"status": "failed", "reason": reason}
    described = _describe(configured, resolved, seeds) | why
    provenance.write_json(out / "recipe.json", described)
    work.writes(out / "recipe.json")
    work.notes(**why)
    log(f"FAILED: {configured.id} on {configured.subject}: {reason}; its row in the tables says so")
    return described

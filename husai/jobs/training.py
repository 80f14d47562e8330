"""The train job: one recipe, all its seeds as one computation, saved in SAELens format with curves
and a manifest.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError, RecipeFailed
from husai.jobs.failed import fail_recipe
from husai.jobs.stability import folder
from husai.progress import Progress
from husai.recipe import MATCHED, RANDOM, Recipe
from husai.report.summary import write_parquet

RESUME = ".resume"


def train_job(
    spec: dict,
    seeds: Sequence[int],
    store: str | Path,
    out: str | Path,
    *,
    target_store: str | Path | None = None,
    reference: str | Path | None = None,
    calibration: str | Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> dict:
    """Train ``spec["recipe"]`` for all ``seeds`` and write ``results/saes/{subject}/{recipe}``.

    Parameters
    ----------
    spec : dict
        ``recipe``: the fields of :class:`husai.recipe.Recipe`, as configured. With ``may_fail`` a
        recipe that cannot be trained as defined (it diverges, its L0 is out of reach) leaves a
        manifest with ``status: failed`` and the reason, and no SAE.
    store : path
        ``results/subjects/{subject}/activations/{hook}`` or its manifest: the splits ``train`` and
        ``held_out``.
    out : path
        Manifest to write, or its folder: ``recipe.json``, ``training.parquet`` and ``seed{n}/`` go
        beside it.
    target_store : path, optional
        Activations a transcoder reconstructs; by default those of its ``target_hook_name`` beside
        ``store``.
    reference : path, optional
        Trained plain twin of a consistency recipe.
    calibration : path, optional
        ``results/calibration/selected.json``, for a recipe whose k or L0 is ``calibrated``.

    Returns
    -------
    dict
        What ``recipe.json`` holds: the recipe as configured and as resolved, and the final figures
        per seed.

    Notes
    -----
    Without ``may_fail`` an L0 out of reach is logged and the nearest one kept. A killed
    job goes on from ``.resume/`` when it is started again with the same recipe, and ends with the
    same weights on a CPU."""
    from husai.activations import ActivationStore
    from husai.compute import resolve_device
    from husai.sae import train_ensemble

    configured, store, out = Recipe.from_dict(spec["recipe"]), folder(store), folder(out)
    resolved = resolve(configured, calibration)
    rows = {split: ActivationStore.open(store / split) for split in ("train", "held_out")}
    check_width(resolved, rows["train"].d, store)
    for split in rows.values():
        split.check_origin(resolved.subject, resolved.hook_name)
    target, decoder = {}, reference_decoder(resolved, reference)
    if resolved.target_hook_name is not None:
        beside = folder(target_store) if target_store else store.parent / resolved.target_hook_name
        target = {split: ActivationStore.open(beside / split) for split in rows}
    with provenance.job(
        out / "manifest.json",
        config=spec,
        seeds=seeds,
        data_slice=data_slice(resolved, rows["train"]),
    ) as work:
        work.reads(*(s.path / "store.json" for s in (*rows.values(), *target.values())))
        work.reads(
            *(p for p in (calibration, reference and folder(reference) / "manifest.json") if p)
        )
        progress = Progress(resolved.steps, f"{resolved.id}, {len(seeds)} seeds: steps")
        may_fail = bool(spec.get("may_fail"))
        try:
            result = train_ensemble(
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
                l0_required=may_fail,
            )
            check_result(configured, result)
        except RecipeFailed as error:
            if not may_fail:
                raise
            described = fail_recipe(out, configured, resolved, seeds, str(error), work)
        else:
            described = describe(configured, result, rows["train"].d, seeds)
            work.writes(*save_result(configured, result, seeds, out))
            write_parquet(out / "training.parquet", result.curves)
            provenance.write_json(out / "recipe.json", described)
            work.writes(out / "training.parquet", out / "recipe.json")
    shutil.rmtree(out / RESUME, ignore_errors=True)
    return described


def check_result(recipe: Recipe, result) -> None:
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


def save_result(configured: Recipe, result, seeds: Sequence[int], out: Path) -> list[Path]:
    """Write ``seed{n}/`` in SAELens format and return the files written; those of other seeds
    go.
    """
    from husai.sae import save_sae

    for stale in out.glob("seed*"):
        shutil.rmtree(stale)
    written = []
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
        written += sorted(p for p in (out / f"seed{seed}").iterdir() if p.is_file())
    return written


def resolve(recipe: Recipe, calibration: str | Path | None) -> Recipe:
    """The recipe with the calibrated k or L0, or the width and L0 of a brought SAE, filled in."""
    if not recipe.needs_calibration:
        return recipe
    if calibration is None:
        raise HusaiError(
            f"{recipe.id}: waits for the calibrated L0; give --calibration "
            "results/calibration/selected.json"
        )
    selected = provenance.read_json(calibration)
    chosen = selected.get(recipe.subject.removesuffix(RANDOM)) or selected.get("default") or {}
    if not isinstance(chosen.get("k"), int):
        raise HusaiError(
            f"{calibration}: holds no k for subject {recipe.subject}; run the calibration stage "
            "again"
        )
    if recipe.d_sae == MATCHED:
        return recipe.resolve(chosen["k"], chosen.get("d_sae"))
    return recipe.resolve(min(chosen["k"], recipe.d_sae))


def check_width(recipe: Recipe, d: int, store: Path) -> None:
    """Refuse an empty or one-dimensional space before any time is spent on it."""
    if d < 2:
        raise HusaiError(f"{store}: activations have width {d}; an SAE needs at least 2")


def reference_decoder(recipe: Recipe, reference: str | Path | None):
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


def data_slice(recipe: Recipe, store) -> dict:
    """Which rows were trained on."""
    return {
        "store": str(store.path),
        "rows": min(recipe.n_rows or store.n_rows, store.n_rows),
        "of": store.n_rows,
    }


def describe(configured: Recipe, result, d_in: int, seeds: Sequence[int]) -> dict:
    """Content of ``recipe.json``."""
    return {
        "schema": "husai.recipe/1",
        "id": configured.id,
        "hash": configured.hash,
        "recipe": configured.to_dict(),
        "resolved": replace(result.resolved).to_dict(),
        "d_in": d_in,
        "d_out": result.saes[0].d_out,
        "seeds": [int(s) for s in seeds],
        "final": result.final,
    }

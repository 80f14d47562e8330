"""The stability job of one trained recipe: SAEs and held-out activations in, one evidence record
out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from husai import provenance
from husai.compute import resolve_device
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.jobs.compare import PathComparison, compare_paths, initial_of
from husai.jobs.failed import recipe_failure

__all__ = ["PathComparison", "compare_paths", "stability_job", "training_trajectory"]


def stability_job(
    recipe_dir: str | Path,
    store_dir: str | Path | None,
    out: str | Path,
    *,
    frozen_dir: str | Path | None = None,
    target_dir: str | Path | None = None,
    reference_dir: str | Path | None = None,
    split: str = "held_out",
    device: str | torch.device = "cpu",
    max_rows: int | None = None,
) -> dict[str, Any]:
    """Measure the stability of a trained recipe and write
    ``results/stability/{subject}/{recipe}.json``.

    Parameters
    ----------
    recipe_dir : path
        ``results/saes/{subject}/{recipe}`` or its ``manifest.json``: ``recipe.json``,
        ``training.parquet`` and ``seed{seed}/``.
    store_dir : path or None
        ``results/subjects/{subject}/activations/{hook}`` (or its ``manifest.json``, or a store
        itself). None: where the recipe's subject and hook point to.
    frozen_dir : path or None
        The recipe's frozen-decoder control, for the fourth null.
    target_dir : path or None
        Activations a transcoder reconstructs; by default those of its ``target_hook_name`` beside
        ``store_dir``.
    reference_dir : path or None
        SAE of the reference seed of a consistency recipe: stability is then also given with the
        reference as one more seed, and each seed's PWMCC with it. The metrics themselves never
        include it.
    split : str
        Which rows decide about dead latents and activation agreement: ``held_out`` or
        ``confirmation``.
    max_rows : int or None
        Use only the first rows of the split.

    Returns
    -------
    dict
        The evidence record as written.

    Raises
    ------
    HusaiError
        Fewer than two seeds, a file missing, widths that differ, an SAE with every latent dead.
    """
    from husai.sae import Recipe, load_sae
    from husai.stability import measure_stability, pairwise

    recipe_dir, device = folder(recipe_dir), resolve_device(str(device))
    described = provenance.read_json(recipe_dir / "recipe.json")
    recipe = Recipe.from_dict(described.get("resolved") or described["recipe"])
    seeds, directories = seed_directories(recipe_dir)
    saes = [load_sae(d, device) for d in directories]
    rows, store = _rows(
        store_dir or _activations(recipe.subject, recipe.hook_name), split, max_rows
    )
    target, target_store = None, None
    if recipe.target_hook_name is not None:
        beside = (
            folder(store_dir).parent / recipe.target_hook_name
            if store_dir
            else _activations(recipe.subject, recipe.target_hook_name)
        )
        target, target_store = _rows(target_dir or beside, split, max_rows)
    frozen, frozen_inputs, missing = _frozen(frozen_dir, device)
    initial = _starts(recipe, seeds, saes, device)
    missing |= {} if initial else {"init": "how brought SAEs were initialised is not known"}
    report = measure_stability(
        saes,
        rows,
        seeds=seeds,
        initial_decoders=initial,
        frozen=frozen,
        target=target,
        device=device,
    )
    details = report.details() | {"split": split, "rows": len(rows), "nulls_missing": missing}
    if reference_dir is not None:
        decoders = [load_sae(folder(reference_dir), device).W_dec, *(s.W_dec for s in saes)]
        details["reference"] = _with_reference(pairwise(decoders, device=device), report)
    details |= {
        "recipe_fields": described["recipe"],
        "resolved": described.get("resolved"),
        "final": described.get("final", []),
    }
    trajectory = recipe_dir / "training.parquet"
    if trajectory.is_file():
        details["trajectory"] = training_trajectory(trajectory)
    inputs = (
        [d / "sae_weights.safetensors" for d in directories]
        + frozen_inputs
        + [recipe_dir / "recipe.json"]
    )
    inputs += [s.path / "store.json" for s in (store, target_store) if s is not None]
    config = {"recipe": recipe.to_dict(), "split": split, "max_rows": max_rows}
    record = new_record(
        "stability",
        recipe.subject,
        described["id"],
        described["hash"],
        report.metrics(),
        inputs,
        config,
        seeds,
        **details,
    )
    provenance.write_json(out, record)
    return record


def folder(path: str | Path) -> Path:
    """A directory, given as itself or as the ``manifest.json`` inside it."""
    path = Path(path)
    return path.parent if path.name == "manifest.json" else path


def seed_directories(recipe_dir: Path) -> tuple[list[int], list[Path]]:
    """Seeds of a trained recipe in ascending order, with their SAE directories."""
    found = sorted(
        (int(p.name.removeprefix("seed")), p)
        for p in recipe_dir.glob("seed*")
        if p.name.removeprefix("seed").isdigit()
    )
    if not found:
        raise HusaiError(f"{recipe_dir}: holds no seed*/ directories; train the recipe first")
    return [s for s, _ in found], [p for _, p in found]


def _activations(subject: str, hook: str) -> Path:
    return Path("results/subjects") / subject / "activations" / hook


def _rows(directory: str | Path, split: str, max_rows: int | None):
    """The rows of one split, read once into memory when they fit in 2 GB, and the store they come
    from.
    """
    from husai.activations import ActivationStore

    directory = folder(directory)
    store = ActivationStore.open(
        directory if (directory / "store.json").is_file() else directory / split
    )
    count = store.n_rows if max_rows is None else min(max_rows, store.n_rows)
    small = count * store.d * 4 <= 2 * 2**30
    if not small and max_rows is not None and count < store.n_rows:
        raise HusaiError(
            f"{store.path}: max_rows = {max_rows} is over 2 GB; leave it out to stream all "
            f"{store.n_rows} rows"
        )
    return (store.tensor(count) if small else store), store


def _starts(recipe, seeds: list[int], saes: list, device) -> list[torch.Tensor] | None:
    """Untrained decoders of the same seeds; None for brought SAEs whose metadata do not say how
    they were initialised.
    """
    from husai.sae import initial_decoder

    known = [
        initial_of(a) if recipe.brought else initial_decoder(recipe, s, a.d_in, a.d_out)
        for s, a in zip(seeds, saes, strict=True)
    ]
    return None if any(start is None for start in known) else [start.to(device) for start in known]


def _frozen(
    frozen_dir: str | Path | None, device
) -> tuple[list | None, list[Path], dict[str, str]]:
    """The SAEs of the frozen control, their weight files, and why they are missing when they
    are.
    """
    from husai.sae import load_sae

    if not frozen_dir:
        return None, [], {"frozen": "no frozen-decoder control was given"}
    reason = recipe_failure(folder(frozen_dir))
    if reason:
        return None, [], {"frozen": f"the frozen-decoder control failed: {reason}"}
    _, directories = seed_directories(folder(frozen_dir))
    if len(directories) < 2:
        return None, [], {"frozen": f"{frozen_dir} has one seed; a null needs two"}
    return (
        [load_sae(d, device) for d in directories],
        [d / "sae_weights.safetensors" for d in directories],
        {},
    )


def _with_reference(matrix: torch.Tensor, report) -> dict[str, Any]:
    """Scores with the reference as one more seed (row 0): inflated, because every seed was pulled
    towards it.
    """
    from husai.stability import chance_corrected
    from husai.statistics import jackknife_t

    null = max(report.nulls_all.values(), key=lambda r: r.mean)
    return {
        "pwmcc_to_reference": matrix[0, 1:].tolist(),
        "pwmcc_with_reference": jackknife_t(matrix.numpy()),
        "pwmcc_without_reference": jackknife_t(matrix[1:, 1:].numpy()),
        "S_with_reference": jackknife_t(chance_corrected(matrix, null).numpy()),
        "S_without_reference": jackknife_t(chance_corrected(matrix[1:, 1:], null).numpy()),
    }


def training_trajectory(path: str | Path) -> dict[str, list]:
    """Curves of ``training.parquet`` averaged over seeds: ``{"step": [...], "explained_variance":
    [...], ...}``, one entry per step.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise HusaiError(
            f"{path}: not readable as parquet ({' '.join(str(error).split())[:120]}); train the "
            "recipe again"
        ) from None
    missing = {"seed", "step"} - set(table.columns)
    if missing:
        raise HusaiError(f"{path}: column {sorted(missing)[0]} is missing; train the recipe again")
    curves = table.select_dtypes("number").drop(columns=["seed", "member"], errors="ignore")
    mean = curves.groupby("step", sort=True).mean().reset_index()
    return {str(name): column.tolist() for name, column in mean.items()}

"""Verb ``stability``: how far SAEs agree, of a recipe (``--recipe``, evidence) or any (a table)."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.jobs.arguments import add_compute, add_path, describe, optional_path
from husai.jobs.measured import measured_or_failed, seed_directories
from husai.provenance import failure, folder

IN_MEMORY = 2 * 2**30
"""Bytes of rows read at once into memory; more are streamed from disk, which is slower and leaves
room for the SAEs on a small machine."""


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="a trained recipe (--recipe), or any SAE checkpoints (PATH PATH ...)",
        writes="evidence (--out), or a table on standard output",
        costs="all pairs of decoders",
    )
    command.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="SAE checkpoints from any trainer"
    )
    command.add_argument(
        "--null",
        choices=["worst", "gaussian", "init", "covariance", "crowding"],
        default="worst",
        help="null of the table (default %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_path(command, "--recipe", "trained recipe folder or its manifest")
    optional_path(
        command,
        "--activations",
        "activation folder, store, or .npy, .safetensors or .pt file of rows: which latents are "
        "alive, functional agreement",
    )
    optional_path(command, "--frozen", "trained frozen-decoder control: the fourth null")
    command.add_argument(
        "--drop-zero-rows",
        action="store_true",
        help="leave out decoder rows of length zero instead of refusing them",
    )
    command.add_argument(
        "--split",
        choices=["held_out", "confirmation"],
        default="held_out",
        help="rows of --recipe (default %(default)s)",
    )
    command.add_argument(
        "--phase",
        nargs="?",
        choices=["selection", "confirmation"],
        help="what the record is evidence of (with --recipe): the gate never counts the selection's",
    )
    add_path(command, "--out", "evidence file to write (with --recipe)")
    add_compute(command)


def run(args: Namespace) -> None:
    """Measure a recipe, or print the table of any SAEs."""
    from husai.compute import resolve_device

    device = resolve_device(args.device)
    if args.recipe is None:
        from husai.brought.comparison import compare_paths

        options = {"rows": args.activations, "drop_zero_rows": args.drop_zero_rows}
        found = compare_paths(args.paths, args.null, **options, device=device)
        print(json.dumps(found.record, indent=1) if args.json else found.table)
        return
    if args.out is None or args.paths:
        raise HusaiError(
            "--recipe needs --out and no PATHs; give PATHs alone to compare checkpoints"
        )
    recipe_dir = folder(args.recipe)

    options = {"frozen_dir": args.frozen, "split": args.split, "phase": args.phase}
    measure = partial(
        stability_job, recipe_dir, args.activations, args.out, **options, device=device
    )
    measured_or_failed("stability", recipe_dir, None, args.out, measure)


def stability_job(
    recipe_dir: str | Path,
    store_dir: str | Path | None,
    out: str | Path,
    *,
    frozen_dir: str | Path | None = None,
    split: str = "held_out",
    phase: str | None = None,
    device: Any = "cpu",
) -> dict[str, Any]:
    """Measure the stability of a trained recipe and write its evidence, which is returned, to
    ``results/stability/{subject}/{recipe}.json``.

    Parameters
    ----------
    store_dir : path or None
        ``results/subjects/{subject}/activations/{hook}`` (or its ``manifest.json``, or a store
        itself); what a transcoder reconstructs lies beside it. None: where the recipe's subject and
        hook point to.
    frozen_dir : path or None
        The recipe's frozen-decoder control, for the fourth null.
    split : str
        Which rows decide about dead latents and activation agreement.
    phase : str or None
        ``selection`` or ``confirmation``, where the record is evidence of one of them.

    Raises
    ------
    HusaiError
        Fewer than two seeds, a file missing, widths that differ, an SAE with every latent dead.
    """
    from husai.compute import resolve_device
    from husai.recipe import Recipe
    from husai.sae import load_sae
    from husai.stability import measure_stability

    recipe_dir, device = folder(recipe_dir), resolve_device(str(device))
    described = provenance.read_json(recipe_dir / "recipe.json")
    recipe = Recipe.from_dict(described.get("resolved") or described["recipe"])
    seeds, directories = seed_directories(recipe_dir)
    saes = [load_sae(d, device) for d in directories]
    beside = Path("results/subjects") / recipe.subject / "activations"
    store_dir = folder(store_dir) if store_dir else beside / recipe.hook_name
    rows, store = _rows(store_dir, split)
    target, target_store = None, None
    if recipe.target_hook_name is not None:
        target, target_store = _rows(store_dir.parent / recipe.target_hook_name, split)
    frozen, frozen_inputs, missing = _frozen(frozen_dir, device)
    initial = _starts(recipe, seeds, saes, device)
    missing |= {} if initial else {"init": "how brought SAEs were initialised is not known"}
    beside_them = {"initial_decoders": initial, "frozen": frozen, "target": target}
    report = measure_stability(saes, rows, seeds=seeds, **beside_them, device=device)
    details = report.details() | {"split": split, "rows": len(rows), "nulls_missing": missing}
    details |= {
        "recipe_fields": described["recipe"],
        "resolved": described.get("resolved"),
        "final": described.get("final", []),
    }
    curves = recipe_dir / "training.parquet"
    if curves.is_file():
        details["trajectory"] = training_trajectory(curves)
    if phase:
        details["phase"] = phase
    inputs = [d / "sae_weights.safetensors" for d in directories] + frozen_inputs
    inputs.append(recipe_dir / "recipe.json")
    inputs += [s.path / "store.json" for s in (store, target_store) if s is not None]
    record = new_record(
        "stability",
        recipe.subject,
        described["id"],
        described["hash"],
        report.metrics(),
        inputs,
        {"recipe": recipe.to_dict(), "split": split},
        seeds,
        **details,
    )
    provenance.write_json(out, record)
    return record


def _rows(directory: Path, split: str):
    """The rows of one split, read once into memory when they fit, and the store they come from."""
    from husai.activations import ActivationStore

    store = ActivationStore.open(
        directory if (directory / "store.json").is_file() else directory / split
    )
    small = store.n_rows * store.d * 4 <= IN_MEMORY
    return (store.tensor(store.n_rows) if small else store), store


def _starts(recipe, seeds: list[int], saes: list, device) -> list | None:
    """Untrained decoders of the same seeds; None where the metadata of brought SAEs do not say."""
    from husai.brought.members import initial_of
    from husai.sae import initial_decoder

    known = [
        initial_of(a) if recipe.brought else initial_decoder(recipe, s, a.d_in, a.d_out)
        for s, a in zip(seeds, saes, strict=True)
    ]
    return None if any(start is None for start in known) else [start.to(device) for start in known]


def _frozen(
    frozen_dir: str | Path | None, device
) -> tuple[list | None, list[Path], dict[str, str]]:
    """The SAEs of the frozen control, their weight files, or why they are missing."""
    from husai.sae import load_sae

    if not frozen_dir:
        return None, [], {"frozen": "no frozen-decoder control was given"}
    reason = failure(provenance.read_json(folder(frozen_dir) / "recipe.json"))
    if reason:
        return None, [], {"frozen": f"the frozen-decoder control failed: {reason}"}
    _, directories = seed_directories(folder(frozen_dir))
    if len(directories) < 2:
        return None, [], {"frozen": f"{frozen_dir} has one seed; a null needs two"}
    saes = [load_sae(d, device) for d in directories]
    return saes, [d / "sae_weights.safetensors" for d in directories], {}


def training_trajectory(path: str | Path) -> dict[str, list]:
    """Curves of ``training.parquet`` averaged over seeds:
    ``{"step": [...], "explained_variance": [...], ...}``, one entry per step.

    Raises
    ------
    HusaiError
        The file cannot be read as parquet, or has no column ``seed`` or ``step``.
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

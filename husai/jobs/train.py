"""Verb ``train``: the ensemble of a recipe, a role of the confirmation (``--role``), or SAEs on
planted features (``--planted``).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import HusaiError
from husai.jobs.arguments import add_compute, add_spec, describe, optional_path


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
    describe(
        command,
        reads="activation stores",
        writes="seed{n}/ in SAELens format, recipe.json, training.parquet, manifest.json",
        costs="steps x seeds; resumes when killed",
    )
    add_spec(command)
    optional_path(
        command, "--activations", "activation folder of the recipe's hook, or its manifest"
    )
    optional_path(command, "--reference", "trained plain recipe a consistency recipe aligns to")
    optional_path(
        command,
        "--calibration",
        "results/calibration/selected.json, or matched.json of a brought SAE, for recipes that "
        "wait for it",
    )
    command.add_argument(
        "--role",
        help="train this role of the confirmation instead of a recipe: candidate, frozen, "
        "random_model, transcoder",
    )
    command.add_argument(
        "--planted",
        action="store_true",
        help="train on planted features instead, and write what was found of them",
    )
    command.add_argument("--candidate", type=Path, help="selected_candidate.json (with --role)")
    command.add_argument("--out", type=Path, required=True, help="manifest to write")
    add_compute(command)


def run(args: Namespace) -> None:
    """Train a recipe, a role of the confirmation, or SAEs on planted features."""
    from husai.compute import use_threads

    use_threads(args.threads)
    if args.planted:
        from husai.jobs import planted

        return planted.run(args)
    if args.role:
        from husai.jobs import confirm_train

        return confirm_train.run(args)
    from husai.jobs.train_recipe import train_job
    from husai.planning.specs import TrainSpec, read_spec

    spec = read_spec(TrainSpec, args.spec)
    if args.activations is None:
        raise HusaiError(
            "--activations is missing; give the activation folder of the recipe's hook"
        )
    train_job(
        spec,
        args.activations,
        args.out,
        reference=args.reference,
        calibration=args.calibration,
        device=args.device,
        dtype=args.dtype,
    )
    return None

"""Verb ``train``: a recipe, a role of the confirmation (``--role``), or ``--planted`` SAEs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from husai.errors import HusaiError
from husai.jobs.arguments import add_compute, add_path, add_spec, describe, optional_path


def add_arguments(command: ArgumentParser) -> None:
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
    add_path(command, "--candidate", "selected_candidate.json (with --role)")
    add_path(command, "--out", "manifest to write", required=True)
    add_compute(command)


def run(args: Namespace) -> None:
    """Train a recipe, a role of the confirmation, or SAEs on planted features."""
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
    names = ("reference", "calibration", "device", "dtype")
    train_job(spec, args.activations, args.out, **{name: getattr(args, name) for name in names})
    return None

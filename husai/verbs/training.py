"""Verbs ``train``, ``bring`` and ``stability``."""

from __future__ import annotations

import json
from pathlib import Path

from husai.verbs import add_compute, add_spec, optional_path, verb


def add_to(verbs) -> None:
    """Register the verbs of this module."""
    command = verb(
        verbs,
        "train",
        run_train,
        summary="Train the ensemble of a recipe: all its seeds as one computation.",
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
    command = verb(
        verbs,
        "bring",
        run_bring,
        summary="Import SAEs that another trainer wrote, as the members of one ensemble.",
        reads="SAE checkpoints, the activation store of their hook",
        writes="seed{n}/ in SAELens format, recipe.json, matched.json (what a control must "
        "match), manifest.json",
        costs="seconds",
    )
    add_spec(command)
    command.add_argument(
        "--activations",
        type=Path,
        required=True,
        help="activation folder of the hook they read, or its manifest",
    )
    command.add_argument("--out", type=Path, required=True, help="manifest to write")
    add_compute(command)
    command = verb(
        verbs,
        "stability",
        run_stability,
        summary="Measure how far SAEs of different seeds agree, against honest nulls.",
        reads="a trained recipe (--recipe), or any SAE checkpoints (PATH PATH ...)",
        writes="evidence (--out), or a table on standard output",
        costs="all pairs of decoders",
    )
    command.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="SAE checkpoints from any trainer"
    )
    command.add_argument(
        "--null",
        choices=["worst", "gaussian", "init", "covariance"],
        default="worst",
        help="null of the table (default %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--recipe", type=Path, help="trained recipe folder or its manifest")
    optional_path(
        command,
        "--activations",
        "activation folder or store: which latents are alive, functional agreement",
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
    command.add_argument("--out", type=Path, help="evidence file to write (with --recipe)")
    add_compute(command)


def run_train(args) -> None:
    """Train a recipe, or a role of the confirmation."""
    from husai.compute import use_threads
    from husai.errors import HusaiError

    use_threads(args.threads)
    if args.planted:
        from husai.jobs.planted import planted_job

        planted_job(args.spec, args.out, device=args.device, dtype=args.dtype)
        return
    if args.role:
        from husai.jobs.confirmation import train_role_job

        if args.candidate is None:
            raise HusaiError(
                "--role needs --candidate; give results/selection/selected_candidate.json"
            )
        train_role_job(
            args.role,
            args.candidate,
            args.spec,
            args.out,
            calibration=args.calibration,
            device=args.device,
            dtype=args.dtype,
        )
        return
    from husai.jobs.training import train_job

    for key in ("recipe", "seeds"):
        if key not in args.spec:
            raise HusaiError(f"--spec has no '{key}'; it must hold a recipe and its seeds")
    if args.activations is None:
        raise HusaiError(
            "--activations is missing; give the activation folder of the recipe's hook"
        )
    train_job(
        args.spec,
        args.spec["seeds"],
        args.activations,
        args.out,
        reference=args.reference,
        calibration=args.calibration,
        device=args.device,
        dtype=args.dtype,
    )


def run_bring(args) -> None:
    """Import the members of a brought ensemble."""
    from husai.compute import use_threads
    from husai.errors import HusaiError
    from husai.jobs.bring import bring_job

    use_threads(args.threads)
    for key in ("name", "subject", "hook_name", "members", "seeds", "training"):
        if key not in args.spec:
            raise HusaiError(
                f"--spec has no '{key}'; it must say which checkpoints are brought, and as what"
            )
    bring_job(args.spec, args.activations, args.out, device=args.device)


def run_stability(args) -> None:
    """Measure a recipe, or print the table of any SAEs."""
    from husai.compute import resolve_device, use_threads
    from husai.errors import HusaiError

    use_threads(args.threads)
    device = resolve_device(args.device)
    if args.recipe is not None:
        from husai.jobs.failed import measured_or_failed
        from husai.jobs.stability import folder, stability_job

        if args.out is None or args.paths:
            raise HusaiError(
                "--recipe needs --out and no PATHs; give PATHs alone to compare checkpoints"
            )
        measured_or_failed(
            "stability",
            folder(args.recipe),
            None,
            args.out,
            lambda: stability_job(
                args.recipe,
                args.activations,
                args.out,
                frozen_dir=args.frozen,
                split=args.split,
                device=device,
            ),
        )
        return
    from husai.jobs.compare import compare_paths

    found = compare_paths(
        args.paths,
        args.null,
        rows=args.activations,
        device=device,
        drop_zero_rows=args.drop_zero_rows,
    )
    text = json.dumps(found.record, indent=1) if args.json else found.table
    print(text)

"""Verbs ``subject`` and ``activations``."""

from __future__ import annotations

from pathlib import Path

from husai.verbs import add_compute, add_spec, verb


def add_to(verbs) -> None:
    """Register the verbs of this module."""
    command = verb(
        verbs,
        "subject",
        run_subject,
        summary="Train or load the model under study.",
        reads="the probing data sets' training text, or the model hub",
        writes="model/ with weights, metrics and leak probe",
        costs="minutes on two CPU cores",
    )
    add_spec(command)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="manifest to write, results/subjects/{subject}/model/manifest.json",
    )
    add_compute(command)
    command = verb(
        verbs,
        "activations",
        run_activations,
        summary="Store activations of a subject at a hook.",
        reads="a subject's model/",
        writes="activation stores, probe activations (--probes) or story pairs (--pairs)",
        costs="one forward pass over the rows",
    )
    add_spec(command)
    command.add_argument(
        "--model", type=Path, required=True, help="the subject's model/ folder or its manifest"
    )
    command.add_argument("--hook", help="hook point (without --probes and --pairs)")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument(
        "--probes",
        action="store_true",
        help="last-token activations of the probing data sets, all hooks of the spec",
    )
    kind.add_argument(
        "--pairs", action="store_true", help="all tokens of the contrastive story pairs, all hooks"
    )
    command.add_argument("--out", type=Path, required=True, help="manifest to write")
    add_compute(command)


def run_subject(args) -> None:
    """Make a subject."""
    from husai.jobs.subjects import subject_job

    subject_job(args.spec, args.out, device=args.device, threads=args.threads)


def run_activations(args) -> None:
    """Store activations."""
    from husai.compute import use_threads
    from husai.errors import HusaiError

    use_threads(args.threads)
    if args.pairs:
        from husai.jobs.cebench import pair_activations_job

        pair_activations_job(
            args.spec, args.model, args.spec.get("hooks"), args.out, device=args.device
        )
        return
    from husai.jobs.subjects import activations_job, probe_activations_job

    if args.probes:
        probe_activations_job(
            args.spec, args.model, None, args.out, device=args.device, threads=args.threads
        )
    elif args.hook is None:
        raise HusaiError("--hook is missing; name the hook point, or give --probes or --pairs")
    else:
        activations_job(
            args.spec, args.model, args.hook, args.out, device=args.device, threads=args.threads
        )

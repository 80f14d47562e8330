"""Verb ``official``: preflight, and run, SAEBench's or CE-Bench's own program."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import HusaiError
from husai.jobs.arguments import add_compute, add_path, describe

OPTIONS = ("program", "command", "python", "ours")


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="the installed program",
        writes="preflight, log, results compared with ours, manifest",
        costs="what the program costs",
    )
    command.add_argument(
        "--program", choices=["saebench", "cebench"], help="default: a preflight of both"
    )
    command.add_argument("--command", help="the program's command line; no shell operators")
    command.add_argument("--python", help="interpreter of the environment it is installed in")
    add_path(command, "--config", "YAML file with these options")
    add_path(command, "--ours", "our record of the same SAE, to compare with")
    command.add_argument(
        "--saes",
        type=Path,
        help="trained recipe (folder or manifest): makes command, activation cache and our figures "
        "for one of its seeds (saebench)",
    )
    command.add_argument("--seed", type=int, help="which of its seeds")
    command.add_argument(
        "--datasets",
        nargs="+",
        action="extend",
        default=[],
        help="data sets (with --saes); default: those whose activations the subject has stored",
    )
    add_path(command, "--model", "the subject's model folder (with --saes)")
    command.add_argument(
        "--execute", action="store_true", help="run it; without this, say only whether it could run"
    )
    add_path(command, "--out", "folder (default %(default)s)", default=Path("results/official"))
    add_compute(command)


def run(args: Namespace) -> None:
    """Preflight or run an official program."""
    from husai.official.preflight import PROGRAMS
    from husai.official.run import load_options, official_job

    options = load_options(args.config) if args.config else {}
    options |= {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.saes is not None:
        options |= _made_for_sae(args, options)
    if options.get("program") is None and args.execute:
        raise HusaiError(f"--execute needs --program; give one of {', '.join(PROGRAMS)}")
    one = options.get("program")
    wanted = {one: args.out} if one else {name: args.out / name for name in PROGRAMS}
    found = [
        official_job({**options, "program": name}, folder, execute_program=args.execute)
        for name, folder in wanted.items()
    ]
    print(json.dumps(found if len(found) > 1 else found[0], indent=1, default=str))
    missing = [
        f"{one['program']} cannot run here: {one['problems'][0]}"
        for one in found
        if not args.execute and not one["ready"]
    ]
    if missing:
        raise HusaiError(*missing)


def _made_for_sae(args: Namespace, options: dict) -> dict:
    """The options that ``--saes`` stands for; the cache is filled in any case."""
    if args.seed is None or options.get("program") != "saebench":
        raise HusaiError("--saes needs --program saebench and --seed; CE-Bench names SAEs itself")
    given = [name for name in ("command", "ours") if name in options]
    if given:
        raise HusaiError(f"--saes makes {' and '.join(given)} itself; leave one of them out")
    from husai.jobs.official_inputs import saebench_inputs

    options = {"names": args.datasets, "model_dir": args.model, "device": args.device}
    return saebench_inputs(args.saes, args.seed, args.out, **options)

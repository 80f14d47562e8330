"""Verbs ``saebench``, ``cebench``, ``ood`` and ``official``."""

from __future__ import annotations

from pathlib import Path

from husai.verbs import add_compute, add_spec, verb


def add_to(verbs) -> None:
    """Register the verbs of this module."""
    command = verb(
        verbs,
        "saebench",
        run_saebench,
        summary="Sparse probing of an SAE on the probing data sets.",
        reads="an SAE, probe activations, baselines",
        writes="saebench.json",
        costs="seconds (fast engine), minutes (official engine)",
    )
    _sae_options(command)
    command.add_argument(
        "--probes", type=Path, required=True, help="probe activations: folder or manifest"
    )
    command.add_argument(
        "--baselines",
        type=Path,
        nargs="+",
        default=[],
        help="baseline records; the one of the SAE's hook is used",
    )
    command.add_argument(
        "--baselines-only",
        action="store_true",
        help="measure the baselines of --hook instead of an SAE",
    )
    command.add_argument("--hook", help="hook point (with --baselines-only)")
    command.add_argument(
        "--saebench-json",
        type=Path,
        help="write the result as SAEBench publishes its own, too (with --seed)",
    )
    command = verb(
        verbs,
        "cebench",
        run_cebench,
        summary="CE-Bench scores of an SAE on contrastive story pairs.",
        reads="an SAE, pair activations",
        writes="cebench.json",
        costs="seconds",
    )
    _sae_options(command)
    command.add_argument(
        "--pairs", type=Path, required=True, help="pair activations: folder or manifest"
    )
    command = verb(
        verbs,
        "ood",
        run_ood,
        summary="Probes trained in domain, tested out of domain: the SAE's drop against the "
        "model's.",
        reads="SAEs of a recipe, probe activations",
        writes="evidence",
        costs="seconds per SAE",
    )
    _sae_options(command)
    command.add_argument(
        "--probes", type=Path, required=True, help="probe activations: folder or manifest"
    )
    command = verb(
        verbs,
        "official",
        run_official,
        summary="Preflight, and with --execute run, SAEBench's or CE-Bench's own program.",
        reads="the installed program",
        writes="preflight, log, results compared with ours, manifest",
        costs="what the program costs",
    )
    command.add_argument(
        "--program",
        choices=["saebench", "cebench"],
        default=None,
        help="default: a preflight of both",
    )
    command.add_argument("--command", help="the program's command line; no shell operators")
    command.add_argument("--python", help="interpreter of the environment it is installed in")
    command.add_argument("--config", type=Path, help="YAML file with these options")
    command.add_argument("--ours", type=Path, help="our record of the same SAE, to compare with")
    command.add_argument(
        "--execute", action="store_true", help="run it; without this, say only whether it could run"
    )
    command.add_argument(
        "--out", type=Path, default=Path("results/official"), help="folder (default %(default)s)"
    )


def _sae_options(command) -> None:
    add_spec(command)
    command.add_argument("--saes", type=Path, help="trained recipe: folder or manifest")
    command.add_argument("--seed", type=int, help="which of its seeds")
    command.add_argument(
        "--all-seeds",
        action="store_true",
        help="every seed; records go to seed{n}/ beside --out, --out lists them",
    )
    command.add_argument("--out", type=Path, required=True, help="JSON file to write")
    add_compute(command)


def _work_list(args, bench: str) -> list[tuple[Path, Path]]:
    """``(SAE folder, record)`` of the seeds asked for."""
    from husai.errors import HusaiError
    from husai.jobs.stability import seed_directories

    seeds, directories = seed_directories(_recipe_dir(args))
    if args.all_seeds:
        return [
            (d, args.out.parent / f"seed{s}" / f"{bench}.json")
            for s, d in zip(seeds, directories, strict=True)
        ]
    if args.seed not in seeds:
        raise HusaiError(f"--seed: {args.seed} is not among the seeds {seeds} of {args.saes}")
    return [(directories[seeds.index(args.seed)], args.out)]


def _measure(args, bench: str, measure) -> None:
    """Measure; of one seed (``--seed``: recipes compared in a table) a recipe that failed is a
    record with the reason.
    """
    from husai.jobs.failed import measured_or_failed

    if args.all_seeds:
        measure()
    else:
        measured_or_failed(bench, _recipe_dir(args), args.seed, args.out, measure)


def _recipe_dir(args) -> Path:
    """Folder of the trained recipe."""
    from husai.errors import HusaiError
    from husai.jobs.stability import folder

    if args.saes is None:
        raise HusaiError("--saes is missing; give the folder or manifest of a trained recipe")
    return folder(args.saes)


def _write_list(args, work: list[tuple[Path, Path]], bench: str) -> None:
    """With ``--all-seeds``: a file that names and hashes the records of all seeds."""
    from husai import provenance

    if args.all_seeds:
        inputs = provenance.file_records([out for _, out in work])
        provenance.write_json(
            args.out,
            {
                "schema": "husai.records/1",
                "kind": bench,
                "records": inputs,
                "provenance": provenance.provenance(args.spec),
            },
        )


def run_saebench(args) -> None:
    """Probe an SAE, or measure the baselines."""
    from husai.errors import HusaiError
    from husai.jobs.external import baselines_job, saebench_job

    if args.baselines_only:
        if args.hook is None:
            raise HusaiError("--baselines-only needs --hook; name the hook point")
        baselines_job(args.spec, args.probes, args.hook, args.out, threads=args.threads)
        return

    if args.saebench_json and args.all_seeds:
        raise HusaiError(
            "--saebench-json: SAEBench's file holds one SAE; give --seed instead of --all-seeds"
        )

    def measure() -> None:
        work = _work_list(args, "saebench")
        baselines = _baselines_of(args.baselines, work[0][0])
        for sae_dir, out in work:
            saebench_job(
                args.spec,
                sae_dir,
                args.probes,
                baselines,
                out,
                device=args.device,
                threads=args.threads,
            )
        _write_list(args, work, "saebench")
        if args.saebench_json:
            _write_as_saebench(work[0][1], baselines, args.saebench_json)

    _measure(args, "saebench", measure)


def _write_as_saebench(record: Path, baselines: Path, out: Path) -> None:
    from husai import provenance
    from husai.official.results import to_saebench_schema

    dense = {
        name: found["dense"] for name, found in provenance.read_json(baselines)["datasets"].items()
    }
    provenance.write_json(out, to_saebench_schema(provenance.read_json(record), dense))


def _baselines_of(paths: list[Path], sae_dir: Path) -> Path:
    """The baseline record of the SAE's hook, among those given."""
    from husai.errors import HusaiError
    from husai.provenance import read_json

    hook = read_json(sae_dir.parent / "recipe.json")["recipe"]["hook_name"]
    found = [p for p in paths if p.stem == hook]
    if not found:
        raise HusaiError(
            f"--baselines: none of {', '.join(map(str, paths)) or 'nothing'} is of hook {hook}; "
            "measure it with --baselines-only"
        )
    return found[0]


def run_cebench(args) -> None:
    """Score an SAE."""
    from husai.compute import use_threads
    from husai.jobs.cebench import cebench_jobs

    use_threads(args.threads)

    def measure() -> None:
        work = _work_list(args, "cebench")
        spec = {**args.spec, "split": "confirmation" if args.all_seeds else "selection"}
        cebench_jobs(spec, work, args.pairs, device=args.device)
        _write_list(args, work, "cebench")

    _measure(args, "cebench", measure)


def run_ood(args) -> None:
    """Out-of-domain evidence of a recipe."""
    from husai.jobs.ood import ood_job

    args.all_seeds = True
    ood_job(
        args.spec,
        [d for d, _ in _work_list(args, "ood")],
        args.probes,
        args.out,
        device=args.device,
        threads=args.threads,
    )


def run_official(args) -> None:
    """Preflight or run an official program."""
    import json

    from husai.errors import HusaiError
    from husai.official.preflight import PROGRAMS
    from husai.official.run import load_options, official_job

    options = load_options(args.config) if args.config else {}
    options |= {
        name: getattr(args, name)
        for name in ("program", "command", "python", "ours")
        if getattr(args, name) is not None
    }
    if options.get("program") is None and args.execute:
        raise HusaiError(f"--execute needs --program; give one of {', '.join(PROGRAMS)}")
    found = [
        official_job({**options, "program": name}, folder, execute_program=args.execute)
        for name, folder in (
            [(options["program"], args.out)]
            if options.get("program")
            else [(name, args.out / name) for name in PROGRAMS]
        )
    ]
    print(json.dumps(found if len(found) > 1 else found[0], indent=1, default=str))
    missing = [
        f"{one['program']} cannot run here: {one['problems'][0]}"
        for one in found
        if not args.execute and not one["ready"]
    ]
    if missing:
        raise HusaiError("\n".join(missing))

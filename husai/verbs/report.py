"""Verbs ``report``, ``log``, ``verify``, ``dag`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path

from husai.verbs import verb


def add_to(verbs) -> None:
    """Register the verbs of this module."""
    command = verb(
        verbs,
        "report",
        run_report,
        summary="Write the gate report.",
        reads="JSON, parquet and Markdown under results/; no checkpoints",
        writes="gate_report.html, gate_report.md, evidence/ with checksums and RO-Crate",
        costs="seconds",
    )
    command.add_argument(
        "--results", type=Path, default=Path("results"), help="default %(default)s"
    )
    command.add_argument("--out", type=Path, default=Path("reports"), help="default %(default)s")
    command = verb(
        verbs,
        "log",
        run_log,
        summary="Write the experiment log, or note an event of a run.",
        reads="results/runs.jsonl and manifests",
        writes="experiment_log.md",
        costs="seconds",
    )
    command.add_argument(
        "--results", type=Path, default=Path("results"), help="default %(default)s"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("reports"),
        help="folder of experiment_log.md (default %(default)s)",
    )
    command.add_argument(
        "--event", choices=["start", "success", "error"], help="what the workflow's handlers report"
    )
    command.add_argument("--run-command", help="the command of the run (with --event start)")
    command.add_argument(
        "--config-hash", help="hash of the whole configuration (with --event start)"
    )
    command.add_argument(
        "--config-file",
        nargs="*",
        default=[],
        help="configuration files of the run (with --event start)",
    )
    command = verb(
        verbs,
        "verify",
        run_verify,
        summary="Check every artifact and every number of the reports.",
        reads="everything under ROOT",
        writes="nothing; one line per mismatch, exit 1 on any",
        costs="one read of all files",
    )
    command.add_argument(
        "root",
        type=Path,
        nargs="?",
        default=Path(),
        help="folder with results/ and reports/ (default: here)",
    )
    command = verb(
        verbs,
        "dag",
        run_dag,
        summary="Draw the workflow.",
        reads="the Snakefile and the configuration",
        writes="dag.svg (rules) and dag_jobs.svg (all jobs), or .mmd",
        costs="seconds",
    )
    command.add_argument(
        "--format", choices=["svg", "mermaid"], default="svg", help="default %(default)s"
    )
    command.add_argument(
        "--out", type=Path, default=Path("reports"), help="folder (default %(default)s)"
    )
    command.add_argument("--snakefile", type=Path, default=None, help="default: Snakefile")
    command.add_argument(
        "--configfile", nargs="*", default=[], help="configuration files laid over the default"
    )
    command.add_argument("targets", nargs="*", help="files or rules (default: all)")
    command = verb(
        verbs,
        "doctor",
        run_doctor,
        summary="Can this machine run the profile?",
        reads="the machine",
        writes="nothing; exit 1 when it cannot",
        costs="seconds",
    )
    command.add_argument("--profile", default="local", help="default %(default)s")
    command.add_argument("--hub", action="store_true", help="the model hub must be reachable")


def run_report(args) -> None:
    """Write the report."""
    from husai.jobs.report import report_job

    for path in report_job(args.results, args.out):
        print(path)


def run_log(args) -> None:
    """Write the log or note an event."""
    from husai.jobs.report import log_job

    out = args.out.parent if args.out.suffix == ".md" else args.out
    path = log_job(
        args.results, out, args.event, args.run_command, args.config_hash, args.config_file
    )
    if args.event is None:
        print(path)


def run_verify(args) -> None:
    """Verify a run."""
    from husai.jobs.report import verify_job

    verify_job(args.root)


def run_dag(args) -> None:
    """Draw the workflow."""
    from husai.jobs.report import dag_job

    options = ["--configfile", *args.configfile] if args.configfile else []
    out = args.out.parent if args.out.suffix == ".svg" else args.out
    dag_job(out, args.format, args.targets, args.snakefile, options)


def run_doctor(args) -> None:
    """Check the machine."""
    from husai.jobs.report import doctor_job

    doctor_job(Path(), args.profile, args.hub)

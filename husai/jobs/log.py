"""Verb ``log``: the experiment log, and events of a run."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from husai.jobs.arguments import add_path, describe
from husai.shown import printable


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="results/runs.jsonl and manifests",
        writes="experiment_log.md",
        costs="seconds",
    )
    add_path(command, "--results", "default %(default)s", default=Path("results"))
    command.add_argument(
        "--out",
        type=Path,
        default=Path("reports"),
        help="folder of experiment_log.md (default %(default)s)",
    )
    command.add_argument(
        "--mlflow",
        type=Path,
        metavar="DIR",
        help="also add ensembles and decisions to the MLflow database in this folder",
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
        action="extend",
        default=[],
        help="configuration files of the run (with --event start)",
    )


def run(args: Namespace) -> None:
    """Write the log or note an event."""
    out = args.out.parent if args.out.suffix == ".md" else args.out
    path = log_job(
        args.results, out, args.event, args.run_command, args.config_hash, args.config_file
    )
    if args.event is None:
        print(printable(path))
    if args.mlflow:
        from husai.jobs.mlflow_runs import write_runs

        added = write_runs(args.results, args.mlflow)
        print(f"{printable(args.mlflow)}: {added} runs added")


def log_job(
    results_dir: str | Path = "results",
    out_dir: str | Path = "reports",
    event: str | None = None,
    command: str | None = None,
    config_hash: str | None = None,
    config_files: Sequence[str] = (),
) -> Path:
    """Without ``event`` (the rule): rebuild ``experiment_log.md``. With one (Snakemake's handlers):
    record it first.

    ``start`` opens an entry, ``success`` and ``error`` close it, write the index of all artifacts
    (``checksums.json``) and print the strict decision, a line for each gate, and the closing
    paragraph."""
    from husai.report.closing import closing_paragraph, strict_lines
    from husai.report.events import end_run, start_run
    from husai.report.log import write_log
    from husai.verify.checksums import write_index

    if event is None:
        return write_log(results_dir, out_dir)
    if event == "start":
        start_run(
            results_dir,
            out_dir,
            command=command or " ".join(sys.argv),
            config_hash=config_hash,
            config_files=list(config_files),
        )
        return write_log(results_dir, out_dir, keep_time=True)
    ending = [*strict_lines(results_dir), closing_paragraph(results_dir, out_dir, event)]
    end_run(results_dir, out_dir, event)
    path = write_log(results_dir, out_dir, keep_time=True)
    root = Path(results_dir).parent
    if Path(results_dir).name == "results" and Path(out_dir) == root / "reports":
        write_index(root)
    for line in ending:
        print(printable(line))
    return path

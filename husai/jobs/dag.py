"""Verb ``dag``: pictures of the workflow."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from husai.jobs.arguments import describe
from husai.shown import printable


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
    describe(
        command,
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
        "--configfile",
        nargs="*",
        action="extend",
        default=[],
        help="configuration files laid over the default",
    )
    command.add_argument("targets", nargs="*", help="files or rules (default: all)")


def run(args: Namespace) -> None:
    """Draw the workflow."""
    options = ["--configfile", *args.configfile] if args.configfile else []
    out = args.out.parent if args.out.suffix == ".svg" else args.out
    dag_job(out, args.format, args.targets, args.snakefile, options)


def dag_job(
    out_dir: str | Path = "reports",
    format: str = "svg",
    targets: Sequence[str] = (),
    snakefile: str | Path | None = None,
    options: Sequence[str] = (),
) -> list[Path]:
    """Write the rule graph (``dag.svg``) and the full job graph (``dag_jobs.svg``), or both as
    Mermaid text (``.mmd``).
    """
    from husai.report.dag.write import write_graphs

    paths = write_graphs(out_dir, format, targets, snakefile, options)
    for path in paths:
        print(printable(path))
    return paths

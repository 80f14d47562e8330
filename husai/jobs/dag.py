"""Verb ``dag``: pictures of the workflow."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.jobs.arguments import add_path, describe
from husai.shown import printable


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="the Snakefile and the configuration",
        writes="dag.svg (rules) and dag_jobs.svg (all jobs), or .mmd",
        costs="seconds",
    )
    command.add_argument(
        "--format", choices=["svg", "mermaid"], default="svg", help="default %(default)s"
    )
    add_path(command, "--out", "folder (default %(default)s)", default=Path("reports"))
    add_path(command, "--snakefile", "default: Snakefile")
    command.add_argument(
        "--configfile",
        nargs="*",
        action="extend",
        default=[],
        help="configuration files laid over the default",
    )
    command.add_argument("targets", nargs="*", help="files or rules (default: all)")


def run(args: Namespace) -> None:
    """Write the rule graph and the full job graph."""
    from husai.report.dag.write import write_graphs

    options = ["--configfile", *args.configfile] if args.configfile else []
    out = args.out.parent if args.out.suffix == ".svg" else args.out
    for path in write_graphs(out, args.format, args.targets, args.snakefile, options):
        print(printable(path))

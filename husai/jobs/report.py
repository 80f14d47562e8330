"""Verb ``report``: the gate report with its evidence."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import reading
from husai.jobs.arguments import add_path, describe
from husai.provenance import job
from husai.shown import printable


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="JSON, parquet and Markdown under results/; no checkpoints",
        writes="gate_report.html, gate_report.md, evidence/ with checksums and RO-Crate",
        costs="seconds",
    )
    add_path(command, "--results", "default %(default)s", default=Path("results"))
    add_path(command, "--out", "default %(default)s", default=Path("reports"))


def run(args: Namespace) -> None:
    """Write the report."""
    for path in report_job(args.results, args.out):
        print(printable(path))


def report_job(results_dir: str | Path = "results", out_dir: str | Path = "reports") -> list[Path]:
    """Mirror the evidence, then render ``gate_report.html``, ``gate_report.md`` and
    ``numbers.json`` from the mirror alone.

    Reads JSON, Markdown, parquet and policy files; no checkpoints. Missing files become sentences
    in the report."""
    from husai.report.mirror import CRATE, SUMS, mirror
    from husai.report.render import write_report

    out = Path(out_dir)
    with job(out / "manifest.json") as work:
        copied = mirror(results_dir, out)
        with reading(out / "evidence"):
            write_report(out)
        pages = ("gate_report.html", "gate_report.md", "numbers.json")
        written = [out / name for name in (*pages, f"evidence/{SUMS}", f"evidence/{CRATE}")]
        work.reads(*(_relative(p) for p in copied if p.is_relative_to(Path(results_dir).resolve())))
        work.writes(*written)
    return written


def _relative(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path

"""Jobs of the report room: gate report with its evidence, experiment log, verification, rule graph,
machine check.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.provenance import job


def report_job(
    results_dir: str | Path = "results", out_dir: str | Path = "reports", config: Any = None
) -> list[Path]:
    """Mirror the evidence, then render ``gate_report.html``, ``gate_report.md`` and
    ``numbers.json`` from the mirror alone.

    Reads JSON, Markdown, parquet and policy files; no checkpoints. Missing files become sentences
    in the report."""
    from husai.report.mirror import CRATE, SUMS, mirror
    from husai.report.render import write_report

    out = Path(out_dir)
    with job(out / "manifest.json", config=config) as work:
        copied = mirror(results_dir, out)
        write_report(out)
        written = [
            out / name
            for name in (
                "gate_report.html",
                "gate_report.md",
                "numbers.json",
                f"evidence/{SUMS}",
                f"evidence/{CRATE}",
            )
        ]
        work.reads(*(_relative(p) for p in copied if p.is_relative_to(Path(results_dir).resolve())))
        work.writes(*written)
    return written


def _relative(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def log_job(
    results_dir: str | Path = "results",
    out_dir: str | Path = "reports",
    event: str | None = None,
    command: str | None = None,
    config_hash: str | None = None,
    config_files: Sequence[str] = (),
    error: str | None = None,
    closing: bool = True,
) -> Path:
    """Without ``event`` (the rule): rebuild ``experiment_log.md``. With one (Snakemake's handlers):
    record it first.

    ``start`` opens an entry, ``success`` and ``error`` close it, write the index of all artifacts
    (``checksums.json``) and print the strict decision, a line for each gate, and the closing
    paragraph."""
    from husai.report.closing import closing_paragraph, strict_lines
    from husai.report.events import (
        end_run,
        start_run,
    )
    from husai.report.log import (
        write_log,
    )
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
    ending = (
        [*strict_lines(results_dir), closing_paragraph(results_dir, out_dir, event)]
        if closing
        else []
    )
    end_run(results_dir, out_dir, event, **({"error": error} if error else {}))
    path = write_log(results_dir, out_dir, keep_time=True)
    root = Path(results_dir).parent
    if Path(results_dir).name == "results" and Path(out_dir) == root / "reports":
        write_index(root)
    for line in ending:
        print(line)
    return path


def verify_job(root: str | Path = ".") -> None:
    """Print one line per mismatch and a summary.

    Raises
    ------
    HusaiError
        When anything does not agree.
    """
    from husai.verify.run import verify

    found = verify(root)
    for line in found.notes:
        print(f"note: {line}")
    for line in found.mismatches:
        print(f"mismatch: {line}")
    checked = ", ".join(f"{n} {what}" for what, n in found.counts.items()) or "nothing"
    if found.mismatches:
        raise HusaiError(
            f"{len(found.mismatches)} mismatch(es) below {root}, listed above; checked {checked}"
        )
    print(f"verified: {checked}; no mismatch")


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
        print(path)
    return paths


def doctor_job(root: str | Path = ".", profile: str = "local", hub_needed: bool = False) -> None:
    """Print the table of checks.

    Raises
    ------
    HusaiError
        When a check says that the run cannot work here.
    """
    from husai.report.doctor import FAIL, examine, table

    checks = examine(root, profile, hub_needed)
    print(table(checks))
    failed = [c.what for c in checks if c.state == FAIL]
    if failed:
        raise HusaiError(
            f"this machine cannot run profile '{profile}' ({', '.join(failed)}); see the lines "
            "marked fail"
        )

"""Verb ``summarize``: a stage's measurements become its table, or evidence of the candidate."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from husai.jobs.arguments import add_path, add_spec, describe

TABLES = ("baseline", "ablations", "calibration", "consistency", "frontier", "scaling")
STRESS = ("random_model", "transcoder")
STAGES = (*TABLES, "calibration-select", "confirmation", *STRESS)


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="evidence and external records",
        writes="summary.json, .parquet, .md, or evidence records",
        costs="seconds",
    )
    command.add_argument("stage", choices=STAGES)
    add_spec(command)
    command.add_argument(
        "--inputs", nargs="+", action="extend", required=True, help="files the stage reads"
    )
    add_path(command, "--out", "JSON file to write; the others go beside it", required=True)


def run(args: Namespace) -> None:
    """Summarise one stage."""
    summarize_job(args.stage, args.spec, args.inputs, args.out)


def summarize_job(stage: str, values: dict, inputs: Sequence[str], out: Path) -> dict | None:
    """Write what a stage found to ``out`` and return it, with ``.parquet``, ``.md`` and a manifest
    beside; of the confirmation, which writes four records, nothing is returned.

    ``values`` are the stage's spec as JSON values, ``inputs`` what ``table`` of its module in
    :mod:`husai.summaries` reads.
    """
    from husai.planning import specs

    inputs = [str(p) for p in inputs]
    if stage in STRESS:
        from husai.jobs.stress import stress_job

        return stress_job(stage, inputs, out)
    if stage == "confirmation":
        from husai.jobs.confirmation import confirmation_job

        return confirmation_job(specs.read_spec(specs.ConfirmationSpec, values), inputs, out)
    if stage == "calibration-select":
        return _select_k(specs.read_spec(specs.CalibrationSpec, values), inputs, out)
    spec = specs.read_spec(getattr(specs, f"{stage.capitalize()}Spec"), values)
    return table_job(stage, spec, inputs, out)


def _select_k(spec, inputs: Sequence[str], out: Path) -> dict:
    """Choose k by the stability of every candidate: ``{subject: {"k": ...}}`` and why."""
    from husai.provenance import job, write_json
    from husai.summaries.calibration import selected

    record, manifest = selected(spec, inputs), out.with_suffix(".manifest.json")
    with job(manifest, config=spec.values(), seeds=spec.calibration.seeds) as work:
        work.reads(*inputs)
        write_json(out, record)
        work.writes(out)
    return record


def table_job(stage: str, spec, inputs: Sequence[str], out: Path) -> dict:
    """Write a stage's table; of the baseline also the first subject's evidence, for ``cycle3``."""
    from husai.provenance import write_json
    from husai.report.summary import write_summary

    if stage in ("frontier", "scaling"):
        from husai.summaries import external

        found = external.table(stage, spec, inputs)
    else:
        found = import_module(f"husai.summaries.{stage}").table(spec, inputs)
    record = write_summary(stage, out, found, inputs, spec.values())
    if stage == "baseline":
        from husai.summaries.baseline import cycle3_evidence, ensembles

        first = ensembles(spec, inputs)[0]
        write_json(out.with_name("evidence.json"), cycle3_evidence(first, spec.values()))
    return record

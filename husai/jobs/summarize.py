"""Verb ``summarize``: a stage's measurements become its table, or evidence of the candidate."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from husai.jobs.arguments import add_spec, describe

TABLES = ("baseline", "ablations", "calibration", "consistency", "frontier", "scaling")
STRESS = ("random_model", "transcoder")
STAGES = (*TABLES, "calibration-select", "confirmation", *STRESS)


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
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
    command.add_argument(
        "--out", type=Path, required=True, help="JSON file to write; the others go beside it"
    )


def run(args: Namespace) -> None:
    """Summarise one stage."""
    summarize_job(args.stage, args.spec, args.inputs, args.out)


def summarize_job(stage: str, values: dict, inputs: Sequence[str], out: Path) -> dict | None:
    """Write what a stage found.

    Parameters
    ----------
    stage : str
        One of :data:`STAGES`.
    values : dict
        The stage's spec as JSON values.
    inputs : sequence of path
        See ``table`` of the stage's module in :mod:`husai.summaries`.
    out : path
        JSON file; ``.parquet``, ``.md`` and a manifest go beside it.

    Returns
    -------
    dict or None
        What was written; of the confirmation, which writes four records, nothing.
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
        from husai.jobs.calibration_select import calibration_select_job

        spec = specs.read_spec(specs.CalibrationSpec, values)
        return calibration_select_job(spec, inputs, out)
    spec = specs.read_spec(getattr(specs, f"{stage.capitalize()}Spec"), values)
    return table_job(stage, spec, inputs, out)


def table_job(stage: str, spec, inputs: Sequence[str], out: Path) -> dict:
    """Write the table of a stage; of the baseline also the evidence that ``cycle3`` reads, of the
    first subject.
    """
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

"""Verb ``summarize``: tables and evidence out of measurements."""

from __future__ import annotations

from pathlib import Path

from husai.verbs import add_spec, verb

STAGES = (
    "baseline",
    "ablations",
    "calibration-select",
    "calibration",
    "consistency",
    "frontier",
    "scaling",
    "confirmation",
    "random_model",
    "transcoder",
)


def add_to(verbs) -> None:
    """Register the verb."""
    command = verb(
        verbs,
        "summarize",
        run,
        summary="Turn a stage's measurements into its summary or evidence.",
        reads="evidence and external records",
        writes="summary.json, .parquet, .md, or evidence records",
        costs="seconds",
    )
    command.add_argument("stage", choices=STAGES)
    add_spec(command)
    command.add_argument("--inputs", nargs="+", required=True, help="files the stage reads")
    command.add_argument(
        "--out", type=Path, required=True, help="JSON file to write; the others go beside it"
    )


def run(args) -> None:
    """Summarise one stage."""
    job(args.stage)(args.spec, args.inputs, args.out)


def job(stage: str):
    """The function ``(spec, inputs, out)`` of a stage."""
    if stage in ("frontier", "scaling"):
        from husai.jobs.frontier import table_job

        return lambda spec, inputs, out: table_job(stage, spec, inputs, out)
    if stage in ("random_model", "transcoder"):
        from husai.jobs.stress import stress_job

        return lambda spec, inputs, out: stress_job(stage, inputs, out)
    if stage.startswith("calibration"):
        from husai.jobs import calibration

        return (
            calibration.select_job if stage == "calibration-select" else calibration.calibration_job
        )
    from importlib import import_module

    return getattr(import_module(f"husai.jobs.{stage}"), f"{stage}_job")

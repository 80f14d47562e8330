"""The calibration's choice of k (``husai summarize calibration-select``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from husai import provenance


def calibration_select_job(spec, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/calibration/selected.json``: ``{subject: {"k": ...}}`` and why.

    Parameters
    ----------
    spec : CalibrationSpec
    inputs : sequence of path
        Stability evidence of every candidate k.
    """
    from husai.summaries.calibration import selected

    record = selected(spec, inputs)
    with provenance.job(
        out.with_suffix(".manifest.json"), config=spec.values(), seeds=spec.calibration.seeds
    ) as work:
        work.reads(*inputs)
        provenance.write_json(out, record)
        work.writes(out)
    return record

"""Stress evidence on the candidate: against a randomised subject and against a transcoder, each by
its own null (``husai summarize random_model|transcoder``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from husai import provenance
from husai.evidence import new_record


def stress_job(kind: str, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/stress/{random_model,transcoder}.json``: S of the candidate minus S of the
    other ensemble; see :func:`husai.stress.stress_metrics`.

    Parameters
    ----------
    inputs : sequence of path
        Stability evidence of the candidate and of the other ensemble.
    """
    from husai.stability.record import StabilityRecord
    from husai.stress import stress_metrics

    candidate, other = (StabilityRecord(p) for p in inputs[:2])
    data = candidate.data
    record = new_record(
        kind,
        data["subject"],
        data["recipe"],
        data["recipe_hash"],
        stress_metrics(kind, data, other.data),
        inputs[:2],
        {"stress": kind},
        other.seeds,
        phase="confirmation",
        compared_with=other.data["recipe"],
    )
    provenance.write_json(out, record)
    return record

"""Stress evidence on the candidate: against a randomised subject and against a transcoder, each by
its own null (``husai summarize random_model|transcoder``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from husai import provenance
from husai.evidence import new_record


def stress_job(kind: str, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/stress/{random_model,transcoder}.json``: S of the candidate minus S of the
    other ensemble (:func:`husai.stress.stress_metrics`) and, where probing was measured, AUC of the
    candidate's probes minus that of the other's (:func:`husai.stress.probing_difference`).

    ``inputs`` are the stability evidence of the candidate and of the other ensemble; then, or
    nothing, the lists of their probing records, as ``husai saebench --all-seeds`` writes them.
    """
    from husai.stability.record import StabilityRecord
    from husai.stress import stress_metrics

    candidate, other = (StabilityRecord(p) for p in inputs[:2])
    data = candidate.data
    listed = [[r["path"] for r in provenance.read_json(p)["records"]] for p in inputs[2:4]]
    probed, about = _probed(*listed) if listed else ({}, {})
    record = new_record(
        kind,
        data["subject"],
        data["recipe"],
        data["recipe_hash"],
        stress_metrics(kind, data, other.data) | probed,
        [*inputs[:2], *(path for paths in listed for path in paths)],
        {"stress": kind},
        other.seeds,
        phase="confirmation",
        compared_with=other.data["recipe"],
        **about,
    )
    provenance.write_json(out, record)
    return record


def _probed(ours: Sequence[str], theirs: Sequence[str]) -> tuple[dict, dict[str, Any]]:
    """The metric of the probes, and the values that it follows from."""
    from husai.probing.tables import NONE_INFORMATIVE
    from husai.stress import paired_probes, probing_difference

    records = [[provenance.read_json(path) for path in paths] for paths in (ours, theirs)]
    rows = paired_probes(*records)
    if not rows:
        return {}, {"reason": NONE_INFORMATIVE}
    return {"delta_probing": probing_difference(rows)}, {"probing": rows}

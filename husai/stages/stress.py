"""Stress evidence on the candidate: against a randomised subject and against a transcoder, each by its own null."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from husai import provenance
from husai.stages.records import StabilityRecord, interval
from husai.stress import stability_difference


def stress_job(kind: str, inputs: Sequence[str], out: Path) -> dict:
    """Write ``results/stress/{random_model,transcoder}.json``: S of the candidate minus S of the other ensemble.

    Each is corrected by the worst null measured for *both* kinds of ensemble in its own space (a null only one of them has is left
    out of the comparison). ``transcoder`` also records the raw difference that the ``cycle3`` policy reads.
    """
    candidate, other = (StabilityRecord(p) for p in inputs[:2])
    shared = [n for n in candidate.data["nulls"] if n in other.data["nulls"]]
    nulls = {role: max(r.null(n) for n in shared) for role, r in (("candidate", candidate), ("other", other))}
    ours, theirs = candidate.s_matrix(null=nulls["candidate"]), other.s_matrix(null=nulls["other"])
    metrics = {
        "delta_S": stability_difference(ours, theirs).metric(),
        "S_candidate": interval(ours).metric(),
        f"S_{kind}": interval(theirs).metric(),
        "null_candidate": provenance.metric(nulls["candidate"], method=f"worst of {', '.join(shared)}"),
        f"null_{kind}": provenance.metric(nulls["other"], method=f"worst of {', '.join(shared)}"),
        f"explained_variance_{kind}": other.metric("explained_variance"),
    }
    if kind == "transcoder":
        raw = stability_difference(other.matrix("pwmcc_all"), candidate.matrix("pwmcc_all"))
        metrics["transcoder_delta"] = raw.metric()
    data = candidate.data
    record = provenance.evidence(
        kind, data["subject"], data["recipe"], data["recipe_hash"], metrics, inputs[:2], {"stress": kind}, other.seeds,
        phase="confirmation", compared_with=other.data["recipe"],
    )  # fmt: skip
    provenance.write_json(out, record)
    return record

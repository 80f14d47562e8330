"""Turns what the original study left, and evidence judged as it judged, into ordinary evidence.

The original took numbers as they came: from any recipe, from the data that chose the candidate,
unchecked, a bound apart from its value. The records made here carry the candidate's hash, no phase
and no problems, and every bound is a metric of its own, so that the gate needs no second way to
read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from husai.cycle3.artifacts import (
    ExternalMetrics,
    external_metrics,
    ood_drop,
    phase4a_delta,
    read_artifact,
    transcoder_delta,
)
from husai.evidence import SCHEMA, Evidence, Metric, is_number, read_metric
from husai.provenance import file_records

ORIGINAL = "original"
"""Recipe hash of a candidate that names none."""
BOUNDS = {
    "trained_random_delta": "trained_random_delta_lcb",
    "saebench_delta": "saebench_delta_ci95_low",
    "cebench_interp_delta_vs_baseline": "cebench_interp_delta_vs_baseline_ci95_low",
}
"""Metrics whose lower bound the ``cycle3`` policy judges, and its name there."""


def as_the_original(items: Iterable[Evidence], recipe_hash: str) -> list[Evidence]:
    """Evidence as the original would have read it, all of one candidate.

    Records of a kind that are about another recipe count where there are none of the candidate. A
    null is no number and goes; NaN stays, and fails."""
    items = list(items)
    own = {e.kind for e in items if e.recipe_hash == recipe_hash}
    sound = {"recipe_hash": recipe_hash, "phase": "", "problems": ()}
    return [
        replace(item, metrics=_apart(item.record.get("metrics")), **sound) if item.kind else item
        for item in items
        if item.recipe_hash == recipe_hash or item.kind not in own
    ]


def _apart(metrics: Any) -> dict[str, Metric]:
    """Values and their lower bounds as separate metrics, only those that are there."""
    found: dict[str, Metric] = {}
    for name, entry in metrics.items() if isinstance(metrics, Mapping) else ():
        entry = entry.to_json() if isinstance(entry, Metric) else entry
        if not isinstance(entry, Mapping):
            found[name] = read_metric(entry)
            continue
        known = read_metric(entry)
        sound = known.value is not None and not known.problem and known.value <= known.high
        found[name] = known if sound else _alone(entry, "value")
        low = entry.get("lcb")
        if name in BOUNDS and not (is_number(low) and math.isinf(low)):
            found[BOUNDS[name]] = _alone(entry, "lcb")
    return {n: m for n, m in found.items() if m.value is not None or m.problem}


def _alone(entry: Mapping[str, Any], key: str) -> Metric:
    """One number of an entry as a metric without bounds; a ``max`` that it exceeds is dropped."""
    number, most = entry.get(key), entry.get("max")
    kept = {k: entry[k] for k in ("n", "method") if k in entry}
    if is_number(most) and not (is_number(number) and number > most):
        kept |= {"max": most, "limit": entry.get("limit")}
    return read_metric({**kept, "value": number})


def cycle3_evidence(
    phase4a: str | Path | None = None,
    transcoder: str | Path | None = None,
    ood: str | Path | None = None,
    external: str | Path | None = None,
) -> list[Evidence]:
    """Evidence from the original's artifacts.

    ``external`` is a benchmark summary or a selected candidate. An artifact that is not given gives
    no record."""
    found = []
    if phase4a is not None:
        delta, lcb = phase4a_delta(read_artifact(phase4a), str(phase4a))
        metrics = {"trained_random_delta": _metric(delta, lcb, "conservative pair bootstrap")}
        found.append(_record("baseline", phase4a, metrics))
    if transcoder is not None:
        value = transcoder_delta(read_artifact(transcoder), str(transcoder))
        found.append(_record("transcoder", transcoder, {"transcoder_delta": _metric(value)}))
    if ood is not None:
        value = ood_drop(read_artifact(ood), str(ood))
        found.append(_record("ood", ood, {"ood_drop": _metric(value)}))
    if external is not None:
        metrics = selection_metrics(external_metrics(read_artifact(external), str(external)))
        found.append(_record("selection", external, metrics))
    return found


def selection_metrics(found: ExternalMetrics) -> dict[str, Metric]:
    """The three metrics of ``selection`` evidence."""
    cebench = _metric(found.cebench_delta, found.cebench_delta_ci95_low)
    if found.cebench_max is not None and math.isfinite(found.cebench_max):
        why = "the CE-Bench bound of the candidate's width, less the baseline's score,"
        cebench = replace(cebench, high=found.cebench_max, limit=why)
    return {
        "external_delta": _metric(found.external_delta),
        "saebench_delta": _metric(found.saebench_delta, found.saebench_delta_ci95_low),
        "cebench_interp_delta_vs_baseline": cebench,
    }


def _metric(
    value: float | None, lcb: float | None = None, method: str = "original artifact"
) -> Metric:
    return Metric(value, -math.inf if lcb is None else lcb, method=method)


def _record(kind: str, path: str | Path, metrics: Mapping[str, Metric]) -> Evidence:
    return Evidence.read(
        {
            "schema": SCHEMA,
            "kind": kind,
            "subject": ORIGINAL,
            "recipe": ORIGINAL,
            "recipe_hash": ORIGINAL,
            "metrics": dict(metrics),
            "inputs": file_records([path]),
            "provenance": {"code_hash": ORIGINAL, "config_hash": ORIGINAL, "seeds": []},
        }
    )

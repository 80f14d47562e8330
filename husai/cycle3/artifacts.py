"""Reads the JSON artifacts of the original HUSAI as they are.

Keys are tried in the original's order; the first that holds a number wins. An exact 0.0 is a
number, text and true/false are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from husai.cebench.bound import score_bound
from husai.errors import HusaiError
from husai.evidence import is_number
from husai.provenance import read_json

INTERPRETABILITY = "interpretability_score_mean_max"
LEGACY_CEBENCH = (INTERPRETABILITY, "contrastive_score_mean_max", "independent_score_mean_max")


class ExternalMetrics(NamedTuple):
    """External metrics of one artifact; ``cebench_max`` is the most the CE-Bench delta could be."""

    saebench_delta: float | None = None
    saebench_delta_ci95_low: float | None = None
    cebench_delta: float | None = None
    cebench_delta_ci95_low: float | None = None
    external_delta: float | None = None
    cebench_max: float | None = None


def read_artifact(path: str | Path) -> dict[str, Any]:
    """Read a JSON artifact.

    Raises
    ------
    HusaiError
        The file is missing, broken or holds no object; one line.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise HusaiError(
            f"{path}: holds a JSON {type(data).__name__}, expected an object; is it the right file?"
        )
    return data


def selected_in(data: dict[str, Any]) -> dict[str, Any]:
    """The candidate that a selection summary holds, or the object itself."""
    chosen = data.get("selected_candidate")
    return chosen if isinstance(chosen, Mapping) else data


def section(data: Mapping[str, Any], key: str, where: str = "artifact") -> Mapping[str, Any]:
    """The object under ``key``, empty when it is absent or null.

    Raises
    ------
    HusaiError
        Anything else is there; the error names the key.
    """
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise HusaiError(
            f"{where}: '{key}' is {value!r}, expected an object; the file is malformed"
        )
    return value


def first_number(values: Iterable[Any]) -> float | None:
    """First value that is a number (NaN included: it is then judged, and fails), or None."""
    return next((float(v) for v in values if is_number(v)), None)


def phase4a_delta(
    data: Mapping[str, Any], where: str = "phase4a results"
) -> tuple[float | None, float | None]:
    """Trained minus random PWMCC, and its bound ``trained.ci95_low - random.ci95_high``."""
    low = first_number([section(data, "trained", where).get("ci95_low")])
    high = first_number([section(data, "random", where).get("ci95_high")])
    difference = first_number([section(data, "comparison", where).get("difference")])
    return difference, None if low is None or high is None else low - high


def transcoder_delta(data: Mapping[str, Any], where: str = "transcoder results") -> float | None:
    """Transcoder minus SAE PWMCC: ``delta``, ``transcoder_delta``, the same under ``metrics``."""
    return _first_of(data, ("delta", "transcoder_delta"), where)


def ood_drop(data: Mapping[str, Any], where: str = "OOD results") -> float | None:
    """Drop out of domain: ``ood_drop``, ``relative_drop``, ``drop``, then those of ``metrics``."""
    return _first_of(data, ("ood_drop", "relative_drop", "drop"), where)


def _first_of(data: Mapping[str, Any], keys: Sequence[str], where: str) -> float | None:
    inner = section(data, "metrics", where)
    return first_number([*(data.get(k) for k in keys), *(inner.get(k) for k in keys)])


def external_metrics(data: Mapping[str, Any], where: str = "external summary") -> ExternalMetrics:
    """Deltas and bounds from a SAEBench, CE-Bench or selection summary, or a selected candidate."""
    data = selected_in(data)
    inner = _object(data, "metrics")
    summary = section(data, "summary", where)
    versus = section(data, "delta_vs_matched_baseline", where)
    sae = [
        inner.get("saebench_delta"),
        data.get("saebench_delta"),
        data.get("best_minus_llm_auc"),
        summary.get("best_minus_llm_auc"),
    ]
    name = "cebench_interp_delta_vs_baseline"
    ce = [
        inner.get(name),
        inner.get("cebench_delta"),
        data.get(name),
        data.get("cebench_delta"),
        versus.get(INTERPRETABILITY),
    ]
    saebench, cebench = first_number(sae), first_number(ce)
    legacy = first_number(
        [
            summary.get("best_minus_llm_auc"),
            data.get("best_minus_llm_auc"),
            *(versus.get(k) for k in LEGACY_CEBENCH),
            data.get("external_delta"),
        ]
    )
    if legacy is None:
        legacy = saebench if saebench is not None else cebench
    return ExternalMetrics(
        saebench,
        first_number([inner.get("saebench_delta_ci95_low"), data.get("saebench_delta_ci95_low")]),
        cebench,
        first_number([inner.get(f"{name}_ci95_low"), data.get(f"{name}_ci95_low")]),
        legacy,
        cebench_attainable(data),
    )


def cebench_attainable(data: Mapping[str, Any]) -> float | None:
    """Largest possible CE-Bench delta of a candidate: its own bound ``(n-1)/sqrt(n)`` minus the
    baseline's score, when both are known, else what its metrics say it is.
    """
    cebench = data["cebench"] if isinstance(data.get("cebench"), Mapping) else data
    d_sae = first_number([_object(cebench, "sae_meta").get("d_sae")])
    score = first_number([_object(cebench, "matched_baseline_metrics").get(INTERPRETABILITY)])
    if d_sae is None or score is None or not d_sae >= 2:
        return first_number([_object(data, "metrics").get("cebench_attainable_max")])
    return score_bound(int(d_sae)) - score


def _object(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under ``key``, empty when anything else is there."""
    found = data.get(key)
    return found if isinstance(found, Mapping) else {}

"""Reads the JSON artifacts of the original HUSAI as they are.

Keys are tried in the original's order; the first that holds a number wins. An exact 0.0 is a
number, text and true/false are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from husai.cebench.bound import score_bound
from husai.errors import HusaiError
from husai.evidence import is_number
from husai.provenance import read_json

INTERPRETABILITY = "interpretability_score_mean_max"
LEGACY_CEBENCH = (INTERPRETABILITY, "contrastive_score_mean_max", "independent_score_mean_max")


class External(NamedTuple):
    """External metrics of one artifact; None where it does not hold them. ``cebench_max`` is the
    most the delta could be.
    """

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
    """Trained minus random PWMCC and its conservative bound ``trained.ci95_low -
    random.ci95_high``.
    """
    low = first_number([section(data, "trained", where).get("ci95_low")])
    high = first_number([section(data, "random", where).get("ci95_high")])
    return first_number(
        [section(data, "comparison", where).get("difference")]
    ), None if low is None or high is None else low - high


def transcoder_delta(data: Mapping[str, Any], where: str = "transcoder results") -> float | None:
    """Transcoder minus SAE PWMCC: ``delta``, ``transcoder_delta``, then the same under
    ``metrics``.
    """
    inner = section(data, "metrics", where)
    return first_number(
        [
            data.get("delta"),
            data.get("transcoder_delta"),
            inner.get("delta"),
            inner.get("transcoder_delta"),
        ]
    )


def ood_drop(data: Mapping[str, Any], where: str = "OOD results") -> float | None:
    """In-domain minus out-of-domain: ``ood_drop``, ``relative_drop``, ``drop``, then the same under
    ``metrics``.
    """
    inner = section(data, "metrics", where)
    keys = ("ood_drop", "relative_drop", "drop")
    return first_number([*(data.get(k) for k in keys), *(inner.get(k) for k in keys)])


def external_metrics(data: Mapping[str, Any], where: str = "external summary") -> External:
    """Deltas and lower bounds from a SAEBench or CE-Bench summary, a selected candidate, or a
    selection summary holding one.
    """
    if isinstance(data.get("selected_candidate"), Mapping):
        data = data["selected_candidate"]
    inner = data["metrics"] if isinstance(data.get("metrics"), Mapping) else {}
    summary, versus = (
        section(data, "summary", where),
        section(data, "delta_vs_matched_baseline", where),
    )
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
    return External(
        saebench,
        first_number([inner.get("saebench_delta_ci95_low"), data.get("saebench_delta_ci95_low")]),
        cebench,
        first_number([inner.get(f"{name}_ci95_low"), data.get(f"{name}_ci95_low")]),
        legacy,
        cebench_attainable(data),
    )


def cebench_attainable(data: Mapping[str, Any]) -> float | None:
    """Largest possible CE-Bench delta of a candidate: its own bound ``(n-1)/sqrt(n)`` minus the
    baseline's score, when both are known.
    """
    cebench = data.get("cebench") if isinstance(data.get("cebench"), Mapping) else data
    meta, baseline = cebench.get("sae_meta"), cebench.get("matched_baseline_metrics")
    d_sae = first_number([meta.get("d_sae")]) if isinstance(meta, Mapping) else None
    score = (
        first_number([baseline.get(INTERPRETABILITY)]) if isinstance(baseline, Mapping) else None
    )
    if d_sae is None or score is None or not d_sae >= 2:
        return (
            first_number([section(data, "metrics").get("cebench_attainable_max")])
            if isinstance(data.get("metrics"), Mapping)
            else None
        )
    return score_bound(int(d_sae)) - score

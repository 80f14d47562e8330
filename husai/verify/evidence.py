"""Holds evidence records against themselves: what they rest on is named, and their metrics follow
from the values stored beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.evidence import Evidence, Metric, read_metric, records_in
from husai.provenance import canonical_json, failure, finite, hash_json
from husai.statistics import ensemble_metrics
from husai.statistics.ensemble import SINGLE
from husai.stress import stress_metrics
from husai.verify.findings import Findings, alike


def check_evidence(found: Findings) -> None:
    """Every evidence record of the run; where the run is not here, every copy in
    ``reports/evidence``.
    """
    base = found.root if found.has_results else found.reports / "evidence"
    same: dict[str, Evidence] = {}
    for path in sorted((base / "results").rglob("*.json")):
        if path.name.startswith("."):
            continue
        for item in (Evidence.read(r, str(path)) for r in records_in(_read(path))):
            found.count("evidence records")
            inputs = [p for p in item.problems if "input" in p]
            for problem in [*item.unnamed_inputs(), *inputs, *_config(item)]:
                found.mismatch(path, f"{item.kind or None} evidence {problem}")
            if failure(item.record) is not None:
                continue
            for problem in _differences(item, base):
                found.mismatch(path, problem)
            if item.kind == "stability" and item.metrics:
                _check_twin(found, item, same)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _config(item: Evidence) -> list[str]:
    about = item.provenance
    if "config" not in about or about.get("config_hash") == hash_json(about["config"]):
        return []
    return ["has a config_hash that is not the hash of its config"]


def _differences(item: Evidence, base: Path) -> list[str]:
    """Metrics that do not follow from what is stored beside them, of the kinds for which that is
    enough.
    """
    if not isinstance(item.record.get("metrics"), Mapping):
        return ["has no metrics"]
    try:
        if item.kind == "stability":
            again = ensemble_metrics(item.record)
            return _compared(item.metrics, again, "pairwise values and nulls", SINGLE)
        if item.kind in ("random_model", "transcoder"):
            paths = [base / entry["path"] for entry in item.inputs[:2]]
            if not all(p.is_file() for p in paths):
                return []  # the check of hashes names it, or notes it
            behind = [
                b if isinstance(b, Mapping) and b.get("kind") == "stability" else {}
                for b in map(_read, paths)
            ]
            again = stress_metrics(item.kind, *behind)
            return _compared(item.metrics, again, "two stability records")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, HusaiError) as error:
        return [f"its metrics cannot be derived again ({type(error).__name__}: {error})"]
    return []


def _compared(
    metrics: Mapping[str, Metric],
    again: Mapping[str, Metric],
    source: str,
    single: tuple[str, ...] = (),
) -> list[str]:
    again = {
        name: None if value is None else read_metric(finite(value)) for name, value in again.items()
    }
    out = [
        f"metric {name} cannot be derived from its {source}"
        for name in metrics
        if name not in again and name not in single
    ]
    for name, value in again.items():
        if not _alike(metrics.get(name), value):
            out.append(
                f"metric {name} is {_shown(metrics.get(name))} but its {source} give "
                f"{_shown(value)}"
            )
    return out


def _alike(a: Metric | None, b: Metric | None) -> bool:
    if a is None or b is None:
        return a is b
    return not a.problem and all(
        alike(getattr(a, name), getattr(b, name)) for name in ("value", "lcb", "ucb", "n")
    )


def _shown(metric: Metric | None) -> str:
    if metric is None:
        return "missing"
    if metric.problem:
        return f"not a measured value: it {metric.problem}"
    return f"{metric.value} [{metric.lcb}, {metric.ucb}] (n = {metric.n})"


def _check_twin(found: Findings, item: Evidence, same: dict[str, Evidence]) -> None:
    """Two stability records of the same files say the same."""
    key = canonical_json(
        [item.record.get(name) for name in ("recipe_hash", "split", "rows", "inputs")]
    )
    first = same.setdefault(key, item)
    names = {**first.metrics, **item.metrics}
    apart = [n for n in names if not _alike(first.metrics.get(n), item.metrics.get(n))]
    if apart and first is not item:
        found.mismatch(
            item.path,
            f"{', '.join(apart)} differ from {found.name(first.path)}, which was measured on the "
            "same files",
        )

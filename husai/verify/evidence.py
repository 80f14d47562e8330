"""Holds evidence records against themselves: what they rest on is named, and their metrics follow
from the values stored beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from husai.errors import HusaiError
from husai.gate.evidence import shape_problems
from husai.gate.inputs import evidence_in, unnamed_inputs
from husai.provenance import canonical_json, finite, hash_json
from husai.statistics import ensemble_metrics
from husai.statistics.ensemble import SINGLE
from husai.stress import stress_metrics

if TYPE_CHECKING:
    from husai.verify.run import Findings

RELATIVE, ABSOLUTE = 1e-9, 1e-12


def check_evidence_records(found: Findings) -> None:
    """Every evidence record of the run; where the run is not here, every copy in
    ``reports/evidence``.
    """
    base = found.root if found.has_results else found.reports / "evidence"
    records = {
        path: evidence_in(_read(path))
        for path in sorted((base / "results").rglob("*.json"))
        if not path.name.startswith(".")
    }
    same: dict[str, tuple[Path, Any]] = {}
    for path, of in records.items():
        for record in of:
            found.count("evidence records")
            for problem in [
                *unnamed_inputs(record),
                *(p for p in shape_problems(record) if "input" in p),
                *_config(record),
            ]:
                found.mismatch(path, f"{record.get('kind')} evidence {problem}")
            if record.get("status") == "failed":
                continue
            for problem in _differences(record, base):
                found.mismatch(path, problem)
            if record.get("kind") == "stability" and isinstance(record.get("metrics"), Mapping):
                _check_twin(found, path, record, same)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _config(record: Mapping[str, Any]) -> list[str]:
    about = record.get("provenance")
    if (
        not isinstance(about, Mapping)
        or "config" not in about
        or about.get("config_hash") == hash_json(about["config"])
    ):
        return []
    return ["has a config_hash that is not the hash of its config"]


def _differences(record: Mapping[str, Any], base: Path) -> list[str]:
    """Metrics that do not follow from what is stored beside them, of the kinds for which that is
    enough.
    """
    metrics = record.get("metrics")
    if not isinstance(metrics, Mapping):
        return ["has no metrics"]
    try:
        if record.get("kind") == "stability":
            return _compared(metrics, ensemble_metrics(record), "pairwise values and nulls", SINGLE)
        if record.get("kind") in ("random_model", "transcoder"):
            paths = [base / entry["path"] for entry in record["inputs"][:2]]
            if not all(
                p.is_file() for p in paths
            ):  # which is named, or noted, by the check of hashes
                return []
            behind = [
                b if isinstance(b, Mapping) and b.get("kind") == "stability" else {}
                for b in map(_read, paths)
            ]
            return _compared(
                metrics, stress_metrics(record["kind"], *behind), "two stability records"
            )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, HusaiError) as error:
        return [f"its metrics cannot be derived again ({type(error).__name__}: {error})"]
    return []


def _compared(
    metrics: Mapping[str, Any], again: Mapping[str, Any], source: str, single: tuple[str, ...] = ()
) -> list[str]:
    again = finite(again)
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


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(_alike(a.get(key), b.get(key)) for key in ("value", "lcb", "ucb", "n"))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return a == b


def _shown(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return "missing" if entry is None else str(entry)
    return f"{entry.get('value')} [{entry.get('lcb')}, {entry.get('ucb')}] (n = {entry.get('n')})"


def _check_twin(
    found: Findings, path: Path, record: Mapping[str, Any], same: dict[str, tuple[Path, Any]]
) -> None:
    """Two stability records of the same files say the same."""
    key = canonical_json([record.get(name) for name in ("recipe_hash", "split", "rows", "inputs")])
    first, before = same.setdefault(key, (path, record["metrics"]))
    apart = [
        name
        for name in {**before, **record["metrics"]}
        if not _alike(before.get(name), record["metrics"].get(name))
    ]
    if apart:
        found.mismatch(
            path,
            f"{', '.join(apart)} differ from {found.name(first)}, which was measured on the same "
            "files",
        )

"""Evidence records against themselves: they name what they rest on, and their metrics follow."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from husai.artifacts import tree
from husai.errors import MALFORMED, HusaiError
from husai.evidence import Evidence, records_in
from husai.gate.checks.derived import RESTS_ON_RECORDS, differences, same_metric
from husai.gate.inputs import Inputs
from husai.provenance import canonical_json, failure, hash_json, read_json
from husai.verify.findings import Findings


def check_evidence(found: Findings) -> None:
    """Every evidence record of the run, or where it is not here every copy of one."""
    base = found.root if found.has_results else found.reports / "evidence"
    same: dict[str, Evidence] = {}
    inputs_there = Inputs(base, hashing=False)
    for path in tree(base / "results").files:
        if path.name.startswith(".") or path.suffix != ".json":
            continue
        for record in records_in(_read(path)):
            found.count("evidence records")
            try:
                _check(found, Evidence.read(record, str(path)), base, inputs_there, same)
            except MALFORMED as error:
                found.mismatch(path, f"is malformed ({type(error).__name__}: {error})")


def _check(
    found: Findings, item: Evidence, base: Path, inputs_there: Inputs, same: dict[str, Evidence]
) -> None:
    inputs = [p for p in item.problems if "input" in p]
    for problem in [*item.unnamed_inputs(), *inputs, *_config(item)]:
        found.mismatch(item.path, f"{item.kind or None} evidence {problem}")
    if failure(item.record) is not None:
        return
    for problem in _differences(item, base, inputs_there):
        found.mismatch(item.path, problem)
    if item.kind == "stability" and item.metrics:
        _check_twin(found, item, same)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except HusaiError:
        return None


def _config(item: Evidence) -> list[str]:
    about = item.provenance
    if "config" not in about or about.get("config_hash") == hash_json(about["config"]):
        return []
    return ["has a config_hash that is not the hash of its config"]


def _differences(item: Evidence, base: Path, inputs: Inputs) -> list[str]:
    """Metrics that do not follow from the values stored in the record and behind it. Silent where a
    record behind it is not here: the check of hashes names that, or notes it.
    """
    if item.kind in RESTS_ON_RECORDS and "seed" not in item.record:
        names = [str(entry["path"]) for entry in item.inputs]
        if not all(os.path.isfile(base / name) for name in names if name.endswith(".json")):
            return []
        rests = inputs.of(item)
        item = replace(item, behind=tuple(rests.behind), beside=rests.beside)
    return differences(item)


def _check_twin(found: Findings, item: Evidence, same: dict[str, Evidence]) -> None:
    """Two stability records of the same files say the same."""
    key = canonical_json([item.record.get(name) for name in ("recipe_hash", "inputs")])
    first = same.setdefault(key, item)
    names = {**first.metrics, **item.metrics}
    apart = [n for n in names if not same_metric(first.metrics.get(n), item.metrics.get(n))]
    if apart and first is not item:
        found.mismatch(
            item.path,
            f"{', '.join(apart)} differ from {found.name(first.path)}, which was measured on the "
            "same files",
        )

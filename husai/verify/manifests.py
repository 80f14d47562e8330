"""Holds a run's files against its index, manifests, records, ledgers and evidence copies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from husai.artifacts import tree
from husai.errors import HusaiError
from husai.provenance import hash_json, read_json
from husai.report.events import chain_breaks
from husai.report.mirror import SUMS, read_sums
from husai.verify.checksums import APPEND_ONLY, INDEX, artifacts, digest, read_index
from husai.verify.findings import Findings


def check_index(found: Findings) -> None:
    """Every file of the index has the bytes it had when the run ended."""
    path = found.reports / INDEX
    if not path.is_file():
        found.mismatch(
            path,
            "not here, so nothing shows whether a file was changed, added or removed; it is written "
            "when a run ends",
        )
        return
    try:
        found.index = read_index(path)
    except HusaiError as error:
        found.mismatches.append(str(error))
        return
    away = 0
    for name, entry in found.index.items():
        if name.startswith("reports/"):
            _check_entry(found, found.reports / name.removeprefix("reports/"), entry)
        elif found.has_results:
            _check_entry(found, found.root / name, entry)
        else:
            away += 1
    if away:
        found.notes.append(
            f"results/ is not here: {away} artifacts of the run were not hashed again; their "
            "evidence copies were"
        )
    if found.has_results:
        found.notes += [
            f"{name}: written after the last run ended; the index does not cover it"
            for name in map(found.name, artifacts(found.root))
            if name not in found.index
        ]


def _check_entry(found: Findings, path: Path, entry: dict[str, Any]) -> None:
    found.count("files hashed")
    sha256 = found.sha256(path)
    if sha256 is None:
        found.mismatch(path, "missing; it was there when the run ended")
    elif sha256 != entry["sha256"] and not (
        path.suffix == APPEND_ONLY
        and digest(path, entry["bytes"]) == (entry["sha256"], entry["bytes"])
    ):
        found.mismatch(path, "does not have the SHA-256 it had when the run ended")


def read_records(found: Findings) -> dict[Path, dict[str, Any]]:
    """Every JSON object below results/; one that cannot be read is a mismatch."""
    records, report = {}, found.reports / "manifest.json"
    for path in artifacts(found.root):
        inside = path.is_relative_to(found.root / "results") or path == report
        if path.suffix != ".json" or not inside:
            continue
        try:
            record = read_json(path)
        except HusaiError:
            found.mismatch(path, "is not readable as JSON")
            continue
        if isinstance(record, dict):
            records[path] = record
    return records


def check_manifests(found: Findings, records: dict[Path, dict[str, Any]]) -> None:
    """Outputs and inputs of every manifest, inputs of every record, hashes of config slices."""
    for path, record in records.items():
        manifest = path.name.endswith("manifest.json")
        for entry in _entries(record, "outputs") if manifest else []:
            target = path.parent / entry["path"]
            _compare(found, Path(os.path.normpath(target)), entry["sha256"], path, "wrote")
        rerun = _target(found, path, record)
        for entry in _entries(record, "inputs"):
            _compare(found, found.locate(entry["path"]), entry["sha256"], path, "read", rerun)
        if (
            manifest
            and "config" in record
            and record.get("config_hash") != hash_json(record["config"])
        ):
            found.mismatch(path, "its config_hash is not the hash of its config")
        found.count("manifests" if manifest else "records")


def _entries(record: dict[str, Any], key: str) -> list[dict[str, str]]:
    entries = record.get(key)
    return [
        e
        for e in (entries if isinstance(entries, list) else [])
        if isinstance(e, dict) and all(isinstance(e.get(k), str) for k in ("path", "sha256"))
    ]


def _compare(
    found: Findings, path: Path, expected: str, record: Path, verb: str, rerun: str = ""
) -> None:
    found.count("hashes in manifests and records")
    sha256 = found.sha256(path)
    name = found.name(path)
    if sha256 is None:
        outside = not path.is_relative_to(found.root)
        gone = bool(found.index) and name not in found.index
        line = f"missing; {found.name(record)} {verb} it"
        if outside or (gone and verb == "read"):
            found.notes.append(f"{name}: {line}; not kept with the run")
        else:
            found.mismatch(path, line)
    elif sha256 != expected:
        again = f"; rerun {rerun}" if rerun else ""
        found.mismatch(path, f"differs from what {found.name(record)} {verb}{again}")


def check_versions(found: Findings, records: dict[Path, dict[str, Any]]) -> None:
    """List artifacts of a rarer code version, and recipes under two hashes, with what to rerun."""
    codes: dict[str, list[str]] = {}
    recipes: dict[tuple, dict[str, list[str]]] = {}
    for path, record in records.items():
        target = _target(found, path, record)
        made = record.get("provenance") if isinstance(record.get("provenance"), dict) else record
        if isinstance(made.get("code_hash"), str):
            codes.setdefault(made["code_hash"], []).append(target)
        recipe, recipe_hash = record.get("recipe"), record.get("recipe_hash") or record.get("hash")
        if isinstance(recipe, dict):
            recipe, subject = record.get("id"), recipe.get("subject")
        else:
            subject = record.get("subject")
        if isinstance(recipe, str) and isinstance(recipe_hash, str):
            recipes.setdefault((subject, recipe), {}).setdefault(recipe_hash, []).append(target)
    found.notes += _mixed("code versions", codes)
    for (subject, recipe), hashes in recipes.items():
        found.notes += _mixed(f"config hashes of {subject}/{recipe}", hashes)


def _target(found: Findings, path: Path, record: dict[str, Any]) -> str:
    """What to ask Snakemake for: the manifest where a rule writes it, else the first output."""
    outputs = _entries(record, "outputs")
    if path.name == "manifest.json" or not outputs:
        return found.name(path)
    return found.name(Path(os.path.normpath(path.parent / outputs[0]["path"])))


def _mixed(what: str, groups: dict[str, list[str]]) -> list[str]:
    if len(groups) < 2:
        return []
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    counts = ", ".join(f"{key} ({len(names)})" for key, names in ordered)
    rerun = sorted({name for _, names in ordered[1:] for name in names})
    return [f"mixed {what}: {counts}; rerun {' '.join(rerun)}"]


def check_ledgers(found: Findings) -> None:
    """Runs, attempts and claims: each line still names the hash of the line before it."""
    files = (p for folder in found.folders for p in tree(folder).files)
    for path in sorted(p for p in files if p.suffix == APPEND_ONLY):
        found.count("ledgers")
        for line in chain_breaks(path):
            found.mismatch(
                path, f"line {line} was changed after it was written, or the line before it was"
            )


def check_mirror(found: Findings) -> None:
    """Every file of ``reports/evidence`` agrees with SHA256SUMS and an original that is here."""
    folder = found.reports / "evidence"
    if not (folder / SUMS).is_file():
        found.notes.append(f"{found.name(folder / SUMS)}: not here; run husai report")
        return
    try:
        sums = read_sums(folder / SUMS)
    except HusaiError as error:
        found.mismatches.append(str(error))
        return
    for name, expected in sums.items():
        found.count("evidence files")
        path, original = folder / name, found.root / name
        sha256 = found.sha256(path)
        if sha256 != expected:
            apart = f"does not agree with evidence/{SUMS}"
            found.mismatch(path, "missing" if sha256 is None else apart)
        elif (
            found.has_results
            and name.startswith("results/")
            and path.suffix != APPEND_ONLY
            and found.sha256(original) != sha256
        ):
            found.mismatch(
                original,
                "differs from the copy that the report was made from; run husai report again",
            )
    listed = {*sums, SUMS}
    for path in (p for p in tree(folder).files if p.relative_to(folder).as_posix() not in listed):
        found.mismatch(path, f"is not listed in evidence/{SUMS}")

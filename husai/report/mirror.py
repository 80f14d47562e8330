"""Copies the small artifacts behind a report to ``reports/evidence/`` with checksums and an
RO-Crate, so that others can check it.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from husai.artifacts import NO_FILE
from husai.errors import HusaiError
from husai.gate.policy_files import shipped_policies
from husai.provenance import atomic_path, read_object, sha256_file, write_text

SUMS, CRATE = "SHA256SUMS", "ro-crate-metadata.json"
SMALL = 4 * 2**20
"""Bytes up to which a file is copied beside the report, which is to stay small enough to send."""
SUFFIXES = (".json", ".jsonl", ".md", ".parquet", ".yaml", ".yml")
REPORTED = (
    "subjects/*/model/metrics.json",
    "subjects/*/model/manifest.json",
    *(f"{stage}/*" for stage in ("baseline", "ablations", "calibration", "consistency")),
    "external/*",
    "selection/*",
    "selection/*/*",
    "confirmation/*",
    "confirmation/*/manifest.json",
    "confirmation/stability/*",
    "confirmation/external/*/*",
    "stress/*",
    "passport/passport.json",
    "gate/*",
    "gate/*/*",
)
ASSERTED = "asserted.json"
"""Written after the report, by the job that ends the run: a copy would be that of the run
before."""
CONFIGURED = "config/*.yaml"


def reported_files(results: Path) -> list[Path]:
    """Files of a run that the report reads or that the gate's decision is re-derived from.
    HusaiError where one is a pipe or a device, or a link that leads out of the run.
    """
    found = {p for pattern in REPORTED for p in results.glob(pattern)}
    base = results.resolve().parent
    for path in sorted(found):
        plain = path.is_file() or path.is_dir() or not path.exists()
        if not (plain and path.resolve().is_relative_to(base)):
            raise HusaiError(f"{path}: {NO_FILE}; remove it, it is not part of the run")
    return sorted(p for p in found if _wanted(p))


def _wanted(path: Path) -> bool:
    return (
        path.is_file()
        and path.suffix in SUFFIXES
        and not path.name.startswith(".")
        and path.name != ASSERTED
        and path.stat().st_size <= SMALL
    )


def behind(files: Iterable[Path], base: Path) -> list[Path]:
    """``files`` and, recursively, every small file below ``base`` that their ``inputs`` or their
    folder's manifests name.
    """
    found: dict[Path, None] = {}
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        manifests = [
            path.with_name(name) for name in ("manifest.json", f"{path.stem}.manifest.json")
        ]
        for record in [n for n in (path, *manifests) if n.suffix == ".json" and _wanted(n)]:
            near = [record, *(base / name for name in inputs_of(record))]
            waiting += [p for p in near if p not in found and _inside(p, base) and _wanted(p)]
    return sorted(found)


def _inside(path: Path, base: Path) -> bool:
    return path.is_relative_to(base) and path.resolve().is_relative_to(base)


def inputs_of(path: Path) -> list[str]:
    """Paths that a manifest or an evidence record lists as its inputs, or a decision as its
    sources; empty for any other file.
    """
    record = read_object(path)
    names = [e.get("path") for e in _listed(record, "inputs") if isinstance(e, dict)]
    return [*(n for n in names if isinstance(n, str)), *sources_of(record)]


def _listed(record: dict[str, Any], key: str) -> list[Any]:
    """What a record from a file lists under a key; nothing where that is no list."""
    return record[key] if isinstance(record.get(key), list) else []


def sources_of(decision: dict[str, Any]) -> list[str]:
    """Evidence files that a decision says it read."""
    of_rows = [r.get("source") for r in _listed(decision, "rows") if isinstance(r, dict)]
    named = [*_listed(decision, "sources"), *of_rows]
    return list(dict.fromkeys(n for n in named if isinstance(n, str) and n))


def mirror(results: str | Path, reports: str | Path) -> list[Path]:
    """Copy the evidence of ``results`` to ``<reports>/evidence/`` and return the originals copied.

    Names are kept (``results/...``, ``config/...``). Files of an earlier run that no longer belong
    are removed.

    Raises
    ------
    HusaiError
        ``results`` is no folder.
    """
    results, evidence = Path(results), Path(reports) / "evidence"
    if not results.is_dir():
        raise HusaiError(f"{results}: no such folder; run the pipeline first")
    base = results.resolve().parent
    originals = behind([p.resolve() for p in reported_files(results)], base)
    copies = {_mirrored_name(p, results, base): p for p in originals}
    home = base if (base / "config").is_dir() else shipped_policies().parents[2]
    configured = sorted(p for p in home.glob(CONFIGURED) if _wanted(p))
    copies |= {p.relative_to(home).as_posix(): p for p in configured}
    copies |= {f"policies/{p.name}": p for p in sorted(shipped_policies().glob("*.yaml"))}
    for name, original in copies.items():
        target = evidence / name
        if not (target.is_file() and filecmp.cmp(original, target, shallow=False)):
            with atomic_path(target) as temporary:
                shutil.copyfile(original, temporary)
    _remove_others(evidence, set(copies))
    write_crate(evidence, sorted(copies))
    write_sums(evidence, [*copies, CRATE])
    return sorted(copies.values())


def _mirrored_name(path: Path, results: Path, base: Path) -> str:
    home = results.resolve()
    inside = path.is_relative_to(home)
    named = Path("results") / path.relative_to(home) if inside else path.relative_to(base)
    return named.as_posix()


def _remove_others(folder: Path, keep: set[str]) -> None:
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(root) / name
            if path.relative_to(folder).as_posix() not in keep | {SUMS, CRATE}:
                path.unlink()
        if Path(root) != folder and not os.listdir(root):
            os.rmdir(root)


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write ``SHA256SUMS`` (checked by ``sha256sum -c``) over ``names`` below ``folder``."""
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in sorted(names)]
    write_text(folder / SUMS, "".join(lines))


def read_sums(path: Path) -> dict[str, str]:
    """``{name: sha256}`` of a ``SHA256SUMS`` file; HusaiError on a line that is not ``<64 hex
    digits>  <name>``.
    """
    sums = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        found = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if not found:
            raise HusaiError(
                f"{path}: line {number} is not '<sha256>  <name>'; run husai report again"
            )
        sums[found[2]] = found[1]
    return sums


def write_crate(folder: Path, names: list[str]) -> None:
    """Describe the mirrored files as an RO-Crate 1.1 (``ro-crate-metadata.json``), the same bytes
    for the same evidence.
    """
    from rocrate.rocrate import ROCrate

    decision = read_object(folder / "results/gate/strict/release_policy.json")
    made = decision.get("provenance") or {}
    crate = ROCrate()
    crate.name = "HUSAI gate evidence"
    crate.description = (
        "Measured values, decisions and manifests behind a HUSAI gate report; "
        "every file with its SHA-256."
    )
    crate.root_dataset["datePublished"] = str(made.get("time") or "1970-01-01T00:00:00+00:00")
    crate.root_dataset["license"] = "https://spdx.org/licenses/MIT"
    for name in names:
        entity = crate.add_file(dest_path=name, properties=_file_properties(folder / name, name))
        if name == "results/gate/strict/release_policy.json":
            crate.root_dataset["mentions"] = entity
    text = json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False)
    write_text(folder / CRATE, text + "\n")


def _file_properties(path: Path, name: str) -> dict[str, Any]:
    kinds = {
        ".json": "application/json",
        ".jsonl": "application/jsonl",
        ".md": "text/markdown",
        ".parquet": "application/vnd.apache.parquet",
    }
    properties: dict[str, Any] = {
        "name": name,
        "encodingFormat": kinds.get(path.suffix, "application/yaml"),
        "contentSize": str(path.stat().st_size),
        "sha256": sha256_file(path),
    }
    schema = read_object(path).get("schema") if path.suffix == ".json" else None
    return properties | ({"conformsTo": str(schema)} if schema else {})

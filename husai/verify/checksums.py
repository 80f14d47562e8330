"""The index of a finished run: the SHA-256 of every file below results/ and reports/, in
``reports/checksums.json``, itself covered.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from husai.artifacts import tree
from husai.errors import HusaiError
from husai.provenance import canonical_json, hash_json, parse_json, read_object, write_text

SCHEMA = "husai.checksums/1"
INDEX = "checksums.json"
APPEND_ONLY = ".jsonl"


class Digest(NamedTuple):
    """SHA-256 and size of a file; an append-only file is identified by its first ``bytes``
    bytes.
    """

    sha256: str
    bytes: int


def digest(path: Path, length: int | None = None) -> Digest:
    """Hash a file, or its first ``length`` bytes."""
    found, total = hashlib.sha256(), 0
    with open(path, "rb") as handle:
        while length is None or total < length:
            block = handle.read(2**20 if length is None else min(2**20, length - total))
            if not block:
                break
            found.update(block)
            total += len(block)
    return Digest(found.hexdigest(), total)


def digests(paths: Iterable[Path]) -> dict[Path, Digest]:
    """Hash many files on all cores (hashing releases the interpreter lock)."""
    paths = list(paths)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        return dict(zip(paths, pool.map(digest, paths), strict=True))


def artifacts(root: Path) -> list[Path]:
    """Files of a run below ``root`` that the index covers: all of results/ and reports/ but the
    index and unfinished temporary files.
    """
    found = [path for name in ("results", "reports") for path in tree(root / name).files]
    return sorted(p for p in found if p != root / "reports" / INDEX and not _temporary(p.name))


def _temporary(name: str) -> bool:
    return name.startswith(".") or name.endswith(".tmp")


def write_index(root: str | Path = ".") -> Path:
    """Hash everything a run left behind and write the index.

    A large file that its job has just hashed into a manifest (and that is not newer than the
    manifest) is not read a second time; should it have changed in between, it no longer agrees with
    that manifest, which :func:`husai.verify.run.verify` says."""
    root = Path(root)
    files = artifacts(root)
    known = _hashed_by_manifests(files)
    fresh = digests(p for p in files if p not in known)
    entries = {}
    for path in files:
        found = fresh.get(path) or known[path]
        entries[path.relative_to(root).as_posix()] = {"sha256": found.sha256, "bytes": found.bytes}
    target = root / "reports" / INDEX
    write_text(target, serialise(entries))
    return target


def _hashed_by_manifests(files: list[Path], large: int = 2**20) -> dict[Path, Digest]:
    known: dict[Path, Digest] = {}
    for manifest in (p for p in files if p.name.endswith("manifest.json")):
        try:
            outputs = read_object(manifest).get("outputs") or []
            written = manifest.stat().st_mtime_ns
            for record in outputs:
                path = Path(os.path.normpath(manifest.parent / record["path"]))
                state = path.stat()
                if (
                    state.st_size >= large
                    and state.st_mtime_ns <= written
                    and path.suffix != APPEND_ONLY
                ):
                    known[path] = Digest(record["sha256"], state.st_size)
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue
    return known


def serialise(entries: dict[str, Any]) -> str:
    """The one way an index is written: any other bytes are a change."""
    return (
        json.dumps(
            {"schema": SCHEMA, "sha256_of_files": hash_json(entries), "files": entries},
            indent=0,
            sort_keys=True,
        )
        + "\n"
    )


def read_index(path: Path) -> dict[str, dict[str, Any]]:
    """Entries of an index.

    Raises
    ------
    HusaiError
        When the index itself was changed after it was written.
    """
    raw = path.read_bytes()
    try:
        entries = parse_json(raw.decode())["files"]
        intact = serialise(entries).encode() == raw
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise HusaiError(
            f"{path}: changed after it was written; its own checksum "
            f"{canonical_json('sha256_of_files')} does not hold"
        )
    return entries

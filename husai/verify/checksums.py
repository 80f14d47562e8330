"""The index of a finished run: the SHA-256 of every file, itself covered."""

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
from husai.provenance import hash_json, parse_json, read_object, write_text

SCHEMA = "husai.checksums/1"
INDEX = "checksums.json"
APPEND_ONLY = ".jsonl"


class Digest(NamedTuple):
    """SHA-256 and size of a file; of an append-only one of its first ``bytes`` bytes."""

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
    """Files below results/ and reports/ that the index covers: not itself, not temporary ones."""
    found = [path for name in ("results", "reports") for path in tree(root / name).files]
    whole = (p for p in found if not p.name.startswith(".") and p.suffix != ".tmp")
    return sorted(p for p in whole if p != root / "reports" / INDEX)


def write_index(root: str | Path = ".") -> Path:
    """Hash everything a run left behind and write the index.

    A large file that its job has just hashed into a manifest (and that is not newer than the
    manifest) is not read a second time; should it have changed in between, it no longer agrees with
    that manifest, which :func:`husai.verify.run.verify` says."""
    root = Path(root)
    files = artifacts(root)
    known = _hashed_by_manifests(files)
    known |= digests(p for p in files if p not in known)
    entries = {path.relative_to(root).as_posix(): known[path]._asdict() for path in files}
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
                older = state.st_mtime_ns <= written and path.suffix != APPEND_ONLY
                if older and state.st_size >= large:
                    known[path] = Digest(record["sha256"], state.st_size)
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue
    return known


def serialise(entries: dict[str, Any]) -> str:
    """The one way an index is written: any other bytes are a change."""
    index = {"schema": SCHEMA, "sha256_of_files": hash_json(entries), "files": entries}
    return json.dumps(index, indent=0, sort_keys=True) + "\n"


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
            '"sha256_of_files" does not hold'
        )
    return entries

"""Hashes and manifests: what makes every artifact traceable. Standard library only.

Reading and writing, from :mod:`husai.artifacts`, are offered here too: whoever writes an artifact
needs both.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from husai.artifacts import (  # noqa: F401
    atomic_path,
    finite,
    folder,
    is_special,
    parse_json,
    read_json,
    read_object,
    read_text,
    write_json,
    write_text,
)
from husai.errors import HusaiError

MANIFEST_SCHEMA = "husai.manifest/1"
NOT_OPENED = "is special: nothing below /proc, /sys or /dev is opened"
RUN_ID = "HUSAI_RUN_ID"
"""Environment variable that the workflow sets: the id of the run that a job belongs to."""
LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "transformer-lens",
    "sae-lens",
    "sae-probes",
    "snakemake",
    "pandas",
    "pyarrow",
    "matplotlib",
)
"""Libraries whose versions go into every manifest: a result may depend on them."""


def utc_now() -> str:
    """Current time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def hash_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@functools.cache
def code_hash() -> str:
    """SHA-256 over the package's own source files (names and bytes): which code made an
    artifact."""
    digest, root = hashlib.sha256(), Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def git_commit() -> str | None:
    """Commit the package runs from, ``+dirty`` with local changes; None outside git."""
    options = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
    status = ["git", "status", "--porcelain", "--untracked-files=no"]
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, **options).stdout.strip()
        changed = subprocess.run(status, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+dirty" if changed else "")


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the installed libraries a result may depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """CPU count, machine type and, when torch is already loaded, the CUDA device."""
    found: dict[str, Any] = {"machine": platform.machine(), "cpus": os.cpu_count()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_device_name()
    return found


def file_records(paths: Iterable[str | Path]) -> list[dict[str, str]]:
    """``[{"path", "sha256"}]`` of existing files, in the order given.

    Raises
    ------
    HusaiError
        One of them is missing.
    """
    records = []
    for path in paths:
        if not Path(path).is_file():
            raise HusaiError(f"{path}: no such file; run the job that writes it first")
        records.append({"path": str(path), "sha256": sha256_file(path)})
    return records


def provenance(config: Any = None, seeds: Iterable[int] = ()) -> dict[str, Any]:
    """Who made this: command, commit, code hash, config slice hash, seeds, run, versions, time."""
    return {
        "command": sys.argv,
        "git_commit": git_commit(),
        "code_hash": code_hash(),
        "config_hash": hash_json(config),
        "seeds": list(seeds),
        "run_id": os.environ.get(RUN_ID),
        "versions": library_versions(),
        "hardware": hardware(),
        "time": utc_now(),
    }


def failure(record: Mapping[str, Any]) -> str | None:
    """Why a record says that it failed; None when it does not."""
    if record.get("status") != "failed":
        return None
    return str(record.get("reason") or "it does not say why")


class Job:
    """What a running job has read and written so far; see :func:`job`."""

    def __init__(self) -> None:
        self.inputs: list[Path] = []
        self.outputs: list[Path] = []
        self.extra: dict[str, Any] = {}

    def reads(self, *paths: str | Path) -> None:
        """Note input files (hashed into the manifest)."""
        self.inputs += [Path(p) for p in paths]

    def writes(self, *paths: str | Path) -> None:
        """Note output files (hashed into the manifest)."""
        self.outputs += [Path(p) for p in paths]

    def notes(self, **extra: Any) -> None:
        """Add fields to the manifest, for example ``data_slice``."""
        self.extra.update(extra)


@contextlib.contextmanager
def job(
    manifest: str | Path, config: Any = None, seeds: Iterable[int] = (), data_slice: Any = None
) -> Iterator[Job]:
    """Run a job and write its manifest at the end; the manifest is the last file written, so it
    marks a finished job.

    A failed job leaves ``<manifest>.failed.json`` with its error and no manifest.
    """
    manifest, start, work = Path(manifest), utc_now(), Job()
    failed = manifest.with_name(manifest.stem + ".failed.json")
    base = {"schema": MANIFEST_SCHEMA, "config": config, "data_slice": data_slice, "start": start}

    def write(path: Path, **ending: Any) -> None:
        about = base | provenance(config, seeds) | work.extra | {"end": utc_now()}
        write_json(path, about | ending)

    try:
        yield work
    except BaseException as error:
        with contextlib.suppress(Exception):
            write(failed, return_code=1, error=f"{type(error).__name__}: {error}")
        raise
    inputs, outputs = file_records(work.inputs), file_records(work.outputs)
    for record in outputs:
        record["path"] = os.path.relpath(record["path"], manifest.parent)
    write(manifest, inputs=inputs, outputs=outputs, return_code=0)
    failed.unlink(missing_ok=True)

"""Append-only ledgers: JSON lines, each naming the hash of the line before. What those of
confirmation attempts mean is in :mod:`husai.gate.attempts`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from husai.artifacts import NO_FILE
from husai.errors import HusaiError
from husai.progress import log
from husai.provenance import atomic_path, finite, git_commit, parse_json, read_text, utc_now

CONFIRMATION_LEDGER = Path("results/confirmation/ledger.jsonl")
CLAIM_LEDGER = Path("reports/claims.jsonl")


class GateFailed(HusaiError):
    """Refused because a gate failed; the command line exits 2."""

    exit_status = 2


def read_ledger(path: str | Path) -> list[dict[str, Any]]:
    """All entries, oldest first; empty when there is no ledger yet. A last line that was cut short,
    by a kill or a full disk, is left out with a warning.

    Raises
    ------
    HusaiError
        When a line is not JSON, or was edited, removed or inserted (the chain of hashes is broken).
    """
    return [parse_json(line) for line in _checked(Path(path))]


def ledger_head(path: str | Path) -> dict[str, Any]:
    """``{"entries", "sha256"}``: how many entries there are and the hash of the last, which covers
    all before it. Kept elsewhere it shows whether a ledger was cut, rewritten or begun anew.
    """
    return heads(path)[-1]


def heads(path: str | Path) -> list[dict[str, Any]]:
    """Every head that the ledger has had, from the empty one on."""
    lines = _checked(Path(path))
    known = [{"entries": n, "sha256": _line_hash(line)} for n, line in enumerate(lines, start=1)]
    return [{"entries": 0, "sha256": ""}, *known]


def cut_line(path: str | Path) -> str:
    """The last line of a ledger where it was cut short, which readers leave out; else empty."""
    path = Path(path)
    lines = read_text(path).splitlines() if path.exists() else []
    return lines[-1] if len(_checked(path)) < len(lines) else ""


def _checked(path: Path) -> list[str]:
    """Lines of a ledger, each found to follow the one before."""
    text = read_text(path) if path.exists() else ""
    found, before = [], ""
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entry = parse_json(line)
        except ValueError:
            if number == len(text.splitlines()) and not text.endswith("\n"):
                log(f"{path}: the last line was cut short while it was written; it is left out")
                break
            raise HusaiError(
                f"{path}: line {number} is not JSON; the ledger is append-only and must not be "
                "edited"
            ) from None
        if not isinstance(entry, dict) or entry.get("previous", "") != before:
            raise HusaiError(
                f"{path}: line {number} does not follow the line before; the ledger is "
                "append-only and must not be edited"
            )
        found.append(line)
        before = _line_hash(line)
    return found


def append(path: str | Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Add an entry with its time, commit and the hash of the line before; returns it as written."""
    path = Path(path)
    with locked(path):
        return append_locked(path, entry)


def append_locked(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """:func:`append` for whoever holds the lock. The whole file is written anew and moved into
    place, so that a full disk or a kill leaves the old one.
    """
    lines = _checked(path)
    entry = finite(
        {
            **entry,
            "time": utc_now(),
            "git_commit": git_commit(),
            "previous": _line_hash(lines[-1]) if lines else "",
        }
    )
    lines.append(json.dumps(entry, sort_keys=True, allow_nan=False))
    write_lines(path, lines)
    return entry


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file of lines whole, on the disk before it takes the place of the old one."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(f"{line}\n" for line in lines)
        handle.flush()
        os.fsync(handle.fileno())


def _line_hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of an append-only file; others wait.

    Raises
    ------
    HusaiError
        The lock beside it is no plain file, or an OSError came up in taking it or in the block.
    """
    beside = path.with_suffix(path.suffix + ".lock")
    if beside.exists() and not beside.is_file():
        raise HusaiError(f"{beside}: {NO_FILE}; remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise HusaiError(f"{path}: cannot be written ({error.strerror or error})") from error

"""Append-only ledgers (JSON lines, each naming the hash of the line before): confirmation attempts
and claims.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.provenance import canonical_json, finite, git_commit, utc_now

CONFIRMATION_LEDGER = Path("results/confirmation/ledger.jsonl")
CLAIM_LEDGER = Path("reports/claims.jsonl")


class GateFailed(HusaiError):
    """Refused because a gate failed; the command line exits 2."""

    exit_status = 2


def read_ledger(path: str | Path) -> list[dict[str, Any]]:
    """All entries, oldest first; empty when there is no ledger yet.

    Raises
    ------
    HusaiError
        When a line is not JSON, or was edited, removed or inserted (the chain of hashes is broken).
    """
    path = Path(path)
    entries, before = [], ""
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            raise HusaiError(
                f"{path}: line {number} is not JSON; the ledger is append-only and must not be "
                "edited"
            ) from None
        if not isinstance(entry, dict) or entry.get("previous", "") != before:
            raise HusaiError(
                f"{path}: line {number} does not follow the line before; the ledger is "
                "append-only and must not be edited"
            )
        entries.append(entry)
        before = _line_hash(line)
    return entries


def append(path: str | Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Add one entry with its time, commit and the hash of the line before; returns it as
    written.
    """
    path = Path(path)
    with _locked(path):
        return _append(path, entry)


def _append(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    read_ledger(path)
    text = path.read_text() if path.is_file() else ""
    lines = text.splitlines()
    entry = finite(
        {
            **entry,
            "time": utc_now(),
            "git_commit": git_commit(),
            "previous": _line_hash(lines[-1]) if lines else "",
        }
    )
    with open(path, "a") as handle:
        handle.write(
            ("" if text.endswith("\n") or not text else "\n")
            + json.dumps(entry, sort_keys=True, allow_nan=False)
            + "\n"
        )
        handle.flush()
        os.fsync(handle.fileno())
    return entry


def _line_hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(path.suffix + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise HusaiError(f"{path}: cannot be written ({error.strerror or error})") from error


def begin_confirmation(
    config_hash: str,
    *,
    seeds: list[int],
    data: Any,
    selection_seeds: list[int] = (),
    force: bool = False,
    at_least: int = 8,
    ledger: str | Path = CONFIRMATION_LEDGER,
    **extra: Any,
) -> dict[str, Any]:
    """Record the start of a confirmation attempt, or refuse it.

    Parameters
    ----------
    config_hash : str
        Hash of the candidate's configuration (its recipe hash). One attempt is allowed for each.
    seeds, selection_seeds : list of int
        Seeds of this attempt (at least 8, method.md section 4) and those the selection saw, which
        must not recur.
    data : JSON value
        The held-out data it uses; with the seeds it identifies the attempt.
    force : bool
        Allow a further attempt; it is marked ``forced`` and so is every report of it.
    at_least : int
        Fewest seeds; fewer than 8 where they were brought and no more exist (the gate then fails
        for want of seeds).

    Returns
    -------
    dict
        The entry: ``attempt`` (from 1), ``forced``, and ``resumed`` when an interrupted attempt
        with the same seeds and data goes on.

    Raises
    ------
    HusaiError
        A second attempt without ``force``, seeds that the selection has seen, or fewer than 8
        seeds.
    """
    _check_seeds(seeds, selection_seeds, at_least)
    path = Path(ledger)
    with _locked(path):
        mine = [e for e in read_ledger(path) if e.get("config_hash") == config_hash]
        started = [e for e in mine if e.get("event") == "started" and not e.get("resumed")]
        finished = {e.get("attempt") for e in mine if e.get("event") == "finished"}
        entry = {
            "event": "started",
            "config_hash": config_hash,
            "seeds": sorted(seeds),
            "data": data,
            **extra,
        }
        last = started[-1] if started else None
        if (
            last
            and last["attempt"] not in finished
            and (last["seeds"], last["data"]) == (finite(sorted(seeds)), finite(data))
        ):
            return _append(
                path,
                {**entry, "attempt": last["attempt"], "forced": last["forced"], "resumed": True},
            )
        if started and not force:
            state = (
                "finished" if last["attempt"] in finished else "started with other seeds or data"
            )
            raise HusaiError(
                f"confirm: {path} holds attempt {last['attempt']} for candidate {config_hash} "
                f"({state}, {last['time']}); "
                "one attempt per configuration. Force a further one only knowingly: it is marked "
                "in every report"
            )
        return _append(
            path, {**entry, "attempt": len(started) + 1, "forced": bool(started), "resumed": False}
        )


def _check_seeds(seeds: list[int], selection_seeds: list[int], at_least: int) -> None:
    seen = sorted(set(seeds) & set(selection_seeds))
    if seen:
        raise HusaiError(
            f"confirm: seeds {seen} were already used for the selection; confirmation needs fresh "
            "seeds"
        )
    if len(set(seeds)) < at_least:
        raise HusaiError(
            f"confirm: {len(set(seeds))} different seeds given, confirmation needs at least "
            f"{at_least}"
        )


def finish_confirmation(
    config_hash: str, attempt: int, ledger: str | Path = CONFIRMATION_LEDGER, **result: Any
) -> dict[str, Any]:
    """Record that an attempt has ended, with what it found; afterwards it can neither be resumed
    nor repeated unforced.
    """
    return append(
        ledger, {"event": "finished", "config_hash": config_hash, "attempt": attempt, **result}
    )


def confirmation_family(
    config_hash: str, ledger: str | Path = CONFIRMATION_LEDGER
) -> dict[str, int]:
    """How many tests of the same claim there were: ``{"order", "candidates"}``.

    ``order`` is the number of attempts, of any candidate, on the same subject and on data that
    overlap, up to and including this candidate's latest; it never changes afterwards.
    ``candidates`` is the number of different candidates among all of them so far. A candidate that
    the ledger does not know comes after all that it does."""
    started = [
        e for e in read_ledger(ledger) if e.get("event") == "started" and not e.get("resumed")
    ]
    own = [i for i, e in enumerate(started) if e.get("config_hash") == config_hash]
    if not own:
        return {
            "order": len(started) + 1,
            "candidates": len({e.get("config_hash") for e in started}) + 1,
        }
    same = [i for i, e in enumerate(started) if _same_claim(e, started[own[-1]])]
    candidates = {started[i].get("config_hash") for i in same}
    return {"order": sum(i <= own[-1] for i in same), "candidates": len(candidates)}


def _same_claim(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two attempts were on one subject and on data that overlap; what an entry does not say
    counts as the same.
    """
    subjects = [e.get("subject") for e in (a, b)]
    data = [
        e["data"].get("datasets") if isinstance(e.get("data"), dict) else e.get("data")
        for e in (a, b)
    ]
    apart = all(isinstance(d, list) for d in data) and not {canonical_json(x) for x in data[0]} & {
        canonical_json(x) for x in data[1]
    }
    return not apart and (None in subjects or subjects[0] == subjects[1])


def confirmation_status(
    config_hash: str, ledger: str | Path = CONFIRMATION_LEDGER
) -> dict[str, Any]:
    """``{"attempts", "forced", "finished"}`` of a candidate, for reports."""
    mine = [e for e in read_ledger(ledger) if e.get("config_hash") == config_hash]
    started = [e for e in mine if e.get("event") == "started" and not e.get("resumed")]
    finished = [e for e in mine if e.get("event") == "finished"]
    return {
        "attempts": len(started),
        "forced": any(e.get("forced") for e in started),
        "finished": len(finished),
    }

"""The record of runs: events in ``results/runs.jsonl``, from which the experiment log is rendered.

It only grows. Snakemake removes a rule's outputs before it runs the rule, so the Markdown is
always rebuilt from the events; a copy of the events in ``reports/runs.jsonl`` lets the log outlive
a deleted ``results/``. Each event carries the hash of the one before it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from husai.artifacts import NO_FILE, tree
from husai.errors import HusaiError, reading
from husai.gate.decision import check_decision
from husai.gate.ledger import locked, read_ledger, write_lines
from husai.gate.policy import is_shipped
from husai.provenance import (
    RUN_ID,
    canonical_json,
    code_hash,
    finite,
    git_commit,
    hardware,
    library_versions,
    parse_json,
    read_object,
    read_text,
    utc_now,
)
from husai.report.quotes import format_value, gate_names

EVENTS = ("start", "success", "error", "interrupted")


def runs_path(results: str | Path) -> Path:
    """The append-only file of run events."""
    return Path(results) / "runs.jsonl"


def read_events(*paths: Path) -> list[dict[str, Any]]:
    """Events of the files in order, each once; a last line cut short by a kill is dropped.

    Raises
    ------
    HusaiError
        When a line is not JSON of an event with ``run_id`` and ``time``. The last line may be
        broken JSON.
    """
    events: dict[str, dict[str, Any]] = {}
    for path in paths:
        lines = read_text(path, errors="replace").splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                record = parse_json(line)
                if not (isinstance(record, dict) and record.get("event") in EVENTS):
                    raise ValueError("no event")
                if not all(isinstance(record.get(key), str) for key in ("run_id", "time")):
                    raise ValueError("an event without run_id and time")
            except (ValueError, TypeError) as error:
                if number == len(lines) and isinstance(error, json.JSONDecodeError):
                    continue
                raise HusaiError(
                    f"{path}: line {number} is not JSON of an event of a run; restore the file from "
                    "reports/runs.jsonl"
                ) from None
            events.setdefault(" ".join(record[key] for key in ("run_id", "event", "time")), record)
    return list(events.values())


def recorded(results: str | Path, reports: str | Path) -> list[dict[str, Any]]:
    """Events of both copies of the record, see :func:`read_events`."""
    return read_events(Path(reports) / "runs.jsonl", runs_path(results))


def chain_breaks(path: Path) -> list[int]:
    """Line numbers whose ``previous`` is not the hash of the line before, or that are not JSON;
    empty when nothing was changed.
    """
    breaks, previous = [], ""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = parse_json(line.decode(errors="replace"))
        except ValueError:
            breaks.append(number)
        else:
            if not isinstance(record, dict) or record.get("previous") != previous:
                breaks.append(number)
        previous = hashlib.sha256(line).hexdigest()
    return breaks


def _complete_lines(path: Path) -> list[str]:
    lines = read_text(path, errors="replace").split("\n") if path.exists() else []
    return [line for line in lines[:-1] if line]


def append_events(results: str | Path, reports: str | Path, new: Iterable[dict[str, Any]]) -> None:
    """Add events to both copies of the record; lines already there stay as they are, and a lost
    copy is restored from the other.
    """
    paths = [Path(reports) / "runs.jsonl", runs_path(results)]
    with locked(paths[1]):
        copies = [_complete_lines(path) for path in paths]
        lines = [*copies[0], *(line for line in copies[1] if line not in set(copies[0]))]
        for event in new:
            previous = hashlib.sha256(lines[-1].encode()).hexdigest() if lines else ""
            lines.append(canonical_json({**finite(event), "previous": previous}))
        for path in paths:
            write_lines(path, lines)


def open_run(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The latest start without an end."""
    ended = {e["run_id"] for e in events if e["event"] != "start"}
    waiting = [e for e in events if e["event"] == "start" and e["run_id"] not in ended]
    return waiting[-1] if waiting else None


def new_run_id() -> str:
    """An id for a run that begins now."""
    return f"{utc_now()[:19].replace(':', '').replace('-', '')}-{secrets.token_hex(3)}"


def start_run(results: str | Path, reports: str | Path, **facts: Any) -> None:
    """Record that a run began; an earlier run without an end is recorded as interrupted.

    ``facts``: ``command``, ``config_hash``, ``config_files``, ``targets`` or anything else worth
    keeping."""
    run = open_run(recorded(results, reports))
    given = os.environ.get(RUN_ID)
    start = {
        "event": "start",
        "run_id": given or new_run_id(),
        "jobs_say_run": bool(given),
        "time": utc_now(),
        "git_commit": git_commit(),
        "code_hash": code_hash(),
        "versions": library_versions(),
        "hardware": hardware(),
        "artifact_root": str(Path(results).resolve()),
        "pid": os.getppid(),
        **facts,
    }
    append_events(results, reports, [*([_interrupted(run, results)] if run else []), start])


def _interrupted(run: dict[str, Any], results: str | Path) -> dict[str, Any]:
    facts = run_facts(results, run)
    return {
        "event": "interrupted",
        "run_id": run["run_id"],
        "time": facts.pop("last_end") or run["time"],
        "error": "stopped before it could say how it ended",
        **facts,
    }


def end_run(results: str | Path, reports: str | Path, event: str, **facts: Any) -> None:
    """Record how the open run ended (``success``, ``error`` or ``interrupted``) with what its jobs
    left behind and the state of the gates.

    Raises
    ------
    HusaiError
        ``event`` is none of these, or the record of runs is damaged.
    """
    if event not in EVENTS[1:]:
        raise HusaiError(f"log: event '{event}' is not one of {', '.join(EVENTS[1:])}")
    run = open_run(recorded(results, reports))
    found = run_facts(results, run)
    found.pop("last_end")
    end = {
        "event": event,
        "run_id": run["run_id"] if run else f"unannounced-{secrets.token_hex(3)}",
        "time": utc_now(),
        **found,
        "gates": gate_status(results, run["time"] if run else utc_now()),
        **facts,
    }
    append_events(results, reports, [end])


def gate_status(results: str | Path, since: str = "") -> dict[str, Any]:
    """``{policy: {"pass_all", "failed": [gate], "new"}}`` of the decisions on disk; ``new`` when
    decided at or after ``since``.
    """
    status = {}
    for path in sorted(Path(results).glob("gate/*/release_policy.json")):
        decision = check_decision(read_object(path), path)
        gates = decision.get("gates") or {}
        failed = [name for name in gate_names(gates) if gates[name] is not True]
        made = str((decision.get("provenance") or {}).get("time") or "")
        status[path.parent.name] = {
            "pass_all": gates.get("pass_all") is True,
            "verdict": decision.get("verdict"),
            "changed": not is_shipped(decision.get("policy"), decision.get("policy_sha256")),
            "failed": failed,
            "new": made >= since,
        }
    return status


def manifests(results: Path) -> list[Path]:
    """Manifests below ``results``, of jobs that ended and of jobs that failed; HusaiError where one
    is a link or no file at all.
    """
    home = results.resolve()
    found = tree(home)
    odd, files = (
        [p for p in paths if fnmatch(p.name, "*manifest*.json")]
        for paths in (found.odd, found.files)
    )
    if odd:
        raise HusaiError(f"{odd[0]}: {NO_FILE}; remove it, it is not part of the run")
    return [results / p.relative_to(home) for p in files]


def run_facts(results: str | Path, run: dict[str, Any] | None) -> dict[str, Any]:
    """What the jobs of a run left: how many, seeds, data slices, code hashes, failures. ``run`` is
    its start; without one there are none.

    A job says which run it belongs to. Where the jobs do not (the run began outside of the
    workflow, or under an earlier version) those count that began after it."""
    since = run["time"] if run else "9999"
    seeds: dict[str, set] = defaultdict(set)
    slices: dict[str, set] = defaultdict(set)
    jobs, failed, codes, last = 0, [], set(), ""
    for path in manifests(Path(results)):
        record = read_object(path)
        mine = (
            record.get("run_id") == run["run_id"]
            if run and run.get("jobs_say_run")
            else str(record.get("start") or "") >= since
        )
        if not mine:
            continue
        stage = path.relative_to(results).parts[0]
        if path.name.endswith(".failed.json"):
            error = format_value(record.get("error"))
            failed.append({"job": path.parent.as_posix(), "error": error})
            continue
        jobs += 1
        with reading(path):
            seeds[stage] |= {s for s in record.get("seeds") or [] if isinstance(s, int)}
            codes |= {str(record["code_hash"])} if record.get("code_hash") else set()
        if record.get("data_slice") is not None:
            slices[stage].add(canonical_json(record["data_slice"]))
        last = max(last, str(record.get("end") or ""))
    confirmed = [
        {key: e.get(key) for key in ("config_hash", "attempt", "forced", "resumed")}
        for e in read_ledger(Path(results) / "confirmation" / "ledger.jsonl")
        if str(e.get("time") or "") >= since and e.get("event") == "started"
    ]
    return {
        "jobs": jobs,
        "failed_jobs": failed,
        "seeds": {stage: sorted(found) for stage, found in seeds.items() if found},
        "data_slice": {
            stage: [json.loads(text) for text in sorted(found)[:8]]
            for stage, found in slices.items()
        },
        "code_hashes": sorted(codes),
        "confirmations": confirmed,
        "passports": passport_counts(results),
        "last_end": last,
    }


def passport_counts(results: str | Path) -> dict[str, Any] | None:
    """``{"sae", "certified", "living"}`` of the representative SAE; None without passports."""
    path = Path(results) / "passport/passport.json"
    record = read_object(path)
    with reading(path):
        for sae in record.get("saes") or []:
            if sae["name"] == record.get("representative"):
                return {"sae": sae["name"], **{key: sae[key] for key in ("certified", "living")}}
    return None

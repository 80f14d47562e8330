"""The experiment log, ``reports/experiment_log.md``: one entry per run, rendered from the record of
runs.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from husai.errors import reading
from husai.gate.policy import CHANGED
from husai.provenance import canonical_json, write_text
from husai.report.events import recorded, runs_path
from husai.report.quotes import format_value
from husai.shown import in_code, in_markdown

HEADER = (
    "# Experiment log\n\nOne entry per run, oldest first; entries are only ever added. "
    "Rebuilt from `results/runs.jsonl`.\n"
)
CODE = ("command", "artifact root")
"""Fields that are shown as code."""


def render_log(events: list[dict[str, Any]]) -> str:
    """The log as Markdown: an entry per run that ended or was interrupted; a longer event list only
    adds text at the end.
    """
    starts = {e["run_id"]: e for e in events if e["event"] == "start"}
    ends = [e for e in events if e["event"] != "start"]
    return "\n".join([HEADER, *(_entry(starts.get(end["run_id"], end), end) for end in ends)])


def _entry(start: dict[str, Any], end: dict[str, Any]) -> str:
    word = {"success": "finished", "error": "failed", "interrupted": "interrupted"}[end["event"]]
    codes = dict.fromkeys([start.get("code_hash") or "unknown", *end.get("code_hashes", [])])
    fields = [
        ("command", in_code(start.get("command") or "not recorded")),
        ("git commit", start.get("git_commit") or "not a git checkout"),
        ("code hash", ", ".join(codes)),
        ("config hash", start.get("config_hash") or "not recorded"),
        ("config files", format_value(start.get("config_files") or ["not recorded"])),
        ("seeds", _by_stage(end.get("seeds") or {}, "no job with seeds ended")),
        ("data slice", _by_stage(end.get("data_slice") or {}, "none recorded")),
        ("versions", ", ".join(f"{k} {v}" for k, v in (start.get("versions") or {}).items())),
        ("machine", format_value(start.get("hardware") or {})),
        ("artifact root", in_code(start.get("artifact_root") or "not recorded")),
        ("jobs finished", str(end.get("jobs", 0))),
        ("duration", _duration(start.get("time"), end.get("time"))),
        ("confirmation", _attempts(end.get("confirmations") or [])),
        ("passports", _passports(end.get("passports"))),
        ("gates", _gates(end.get("gates"))),
    ]
    lines = ["## " + in_markdown(f"{start.get('time')} {word} ({end['run_id']})"), ""]
    lines += [f"- {name}: {text if name in CODE else in_markdown(text)}" for name, text in fields]
    if end.get("error"):
        lines.append(f"- error: {in_markdown(format_value(end['error']))}")
    lines += [
        f"- failed job: {in_code(job['job'])}: {in_markdown(job['error'])}"
        for job in end.get("failed_jobs") or []
    ]
    return "\n".join(lines) + "\n"


def _attempts(found: list[dict[str, Any]]) -> str:
    told = []
    for e in found:
        forced = " FORCED" if e.get("forced") else ""
        resumed = " (resumed)" if e.get("resumed") else ""
        told.append(f"attempt {e['attempt']} for {e['config_hash']}{forced}{resumed}")
    return "; ".join(told) or "no attempt"


def _passports(found: dict[str, Any] | None) -> str:
    if not found:
        return "none"
    return f"{found['certified']} of {found['living']} living latents of {found['sae']} certified"


def _by_stage(found: dict[str, Any], otherwise: str) -> str:
    parts = []
    for stage, values in found.items():
        nested = any(isinstance(v, (dict, list)) for v in values)
        parts.append(f"{stage}: {canonical_json(values) if nested else format_value(values)}")
    return "; ".join(parts) or otherwise


def _duration(start: str | None, end: str | None) -> str:
    try:
        seconds = int((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
    except (TypeError, ValueError):
        return "unknown"
    hours = f"{seconds // 3600} h " if seconds >= 3600 else ""
    return f"{hours}{seconds % 3600 // 60} min {seconds % 60} s"


def _gates(status: dict[str, Any] | None) -> str:
    if not status:
        return "no decision"
    parts = []
    for name, gate in status.items():
        policy = f"{name} ({CHANGED})" if gate.get("changed") else name
        told = "passed" if gate["pass_all"] else f"failed ({format_value(gate['failed'])})"
        since = "" if gate.get("new", True) else ", decided in an earlier run"
        parts.append(f"{policy} {told}{since}")
    return "; ".join(parts)


def write_log(results: str | Path, reports: str | Path, keep_time: bool = False) -> Path:
    """Rebuild ``reports/experiment_log.md`` from the events.

    ``keep_time`` leaves the file's modification time alone, so that the handler that runs after the
    last job does not make the workflow think the log is newer than what was built from it."""
    path = Path(reports) / "experiment_log.md"
    before = path.stat().st_mtime_ns if keep_time and path.is_file() else None
    with reading(runs_path(results)):
        text = render_log(recorded(results, reports))
    write_text(path, text)
    if before is not None:
        os.utime(path, ns=(before, before))
    return path

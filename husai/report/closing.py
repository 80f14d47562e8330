"""What ends a run on the terminal: a line for each gate, and one paragraph: passed or not, why, and
where to look.
"""

from __future__ import annotations

from pathlib import Path

from husai.errors import HusaiError
from husai.gate.policy import CHANGED
from husai.gate.verdict import AS_BROUGHT, RELEASED
from husai.provenance import read_json
from husai.report.events import (
    gate_status,
    open_run,
    read_events,
    run_facts,
    runs_path,
)
from husai.report.front.verdict import answer_lines
from husai.report.quotes import Quote

DECISION = "gate/strict/release_policy.json"


def strict_lines(results: str | Path = "results") -> list[str]:
    """The strict decision, one line a gate: the answer, its margin, the question. Empty when there
    is none.
    """
    try:
        return answer_lines(Quote(DECISION, read_json(Path(results) / DECISION)))
    except (HusaiError, KeyError, TypeError, ValueError):
        return []


def closing_paragraph(
    results: str | Path = "results", reports: str | Path = "reports", event: str = "success"
) -> str:
    """One paragraph on the state of a run that ended with ``event``, for the terminal."""
    results, reports = Path(results), Path(reports)
    parts = [_outcome(results), *_trouble(results, reports, event)]
    look = [
        p
        for p in (
            reports / "gate_report.html",
            reports / "gate_report.md",
            reports / "experiment_log.md",
        )
        if p.is_file()
    ]
    parts.append(
        f"Read {', '.join(map(str, look))}."
        if look
        else f"No report yet in {reports}/; see logs/ for what stopped it."
    )
    return " ".join(parts)


def _outcome(results: Path) -> str:
    status = gate_status(results)
    strict = status.get("strict")
    if strict is None:
        return "No decision: the strict gate was not reached."
    others = [
        f"{name}{f' ({CHANGED})' if s['changed'] else ''} {'passed' if s['pass_all'] else 'failed (' + ', '.join(s['failed']) + ')'}"
        for name, s in status.items()
        if name != "strict"
    ]
    also = f" For comparison: {'; '.join(others)}." if others else ""
    if strict["changed"]:
        return f"NOT RELEASED: the decision is that of {CHANGED}, not of strict as it ships." + also
    if strict["pass_all"]:
        if strict["verdict"] not in (RELEASED, AS_BROUGHT):
            return (
                "NOT RELEASED: the decision passed but states no verdict; husai gate decides again."
                + also
            )
        return (
            f"{strict['verdict']}: every gate of the strict policy passed on one candidate." + also
        )
    return (
        f"NOT RELEASED: the strict gate failed on {', '.join(strict['failed'])}; a failed gate is "
        "a result, not an error." + also
    )


def _trouble(results: Path, reports: Path, event: str) -> list[str]:
    run = open_run(read_events(reports / "runs.jsonl", runs_path(results)))
    failed = run_facts(results, run)["failed_jobs"]
    if failed:
        return [
            f"{len(failed)} job(s) failed, first {failed[0]['job']}: "
            f"{failed[0]['error'].removeprefix('HusaiError: ')}."
        ]
    return (
        ["A job failed before it could say why here; its log is shown above and kept in logs/."]
        if event == "error"
        else []
    )

"""What ends a run on the terminal: a line for each gate, and one paragraph: passed or not, why, and
where to look.
"""

from __future__ import annotations

from pathlib import Path

from husai.errors import HusaiError
from husai.gate.policy import CHANGED
from husai.gate.verdict import AS_BROUGHT, RELEASED
from husai.provenance import read_json
from husai.report.events import gate_status, open_run, recorded, run_facts
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
    names = ("gate_report.html", "gate_report.md", "experiment_log.md")
    found = [str(reports / name) for name in names if (reports / name).is_file()]
    look = f"No report yet in {reports}/; see logs/ for what stopped it."
    if found:
        look = f"Read {', '.join(found)}."
    return " ".join([_outcome(results), *_trouble(results, reports, event), look])


def _outcome(results: Path) -> str:
    status = gate_status(results)
    strict = status.get("strict")
    if strict is None:
        return "No decision: the strict gate was not reached."
    others = []
    for name, one in status.items():
        changed = f" ({CHANGED})" if one["changed"] else ""
        ended = "passed" if one["pass_all"] else f"failed ({', '.join(one['failed'])})"
        others += [f"{name}{changed} {ended}"] if name != "strict" else []
    also = f" For comparison: {'; '.join(others)}." if others else ""
    if strict["changed"]:
        told = f"NOT RELEASED: the decision is that of {CHANGED}, not of strict as it ships."
    elif not strict["pass_all"]:
        failed = ", ".join(strict["failed"])
        told = f"NOT RELEASED: the strict gate failed on {failed}; a failed gate is a result, not "
        told += "an error."
    elif strict["verdict"] not in (RELEASED, AS_BROUGHT):
        told = "NOT RELEASED: the decision passed but states no verdict; husai gate decides again."
    else:
        told = f"{strict['verdict']}: every gate of the strict policy passed on one candidate."
    return told + also


def _trouble(results: Path, reports: Path, event: str) -> list[str]:
    failed = run_facts(results, open_run(recorded(results, reports)))["failed_jobs"]
    if failed:
        error = failed[0]["error"].removeprefix("HusaiError: ")
        return [f"{len(failed)} job(s) failed, first {failed[0]['job']}: {error}."]
    if event == "error":
        return [
            "A job failed before it could say why here; its log is shown above and kept in logs/."
        ]
    return []

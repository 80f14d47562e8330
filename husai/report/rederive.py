"""Derives every number of the report again from the evidence: one by one through ``numbers.json``, and by rendering the whole again."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from husai.errors import HusaiError
from husai.provenance import code_hash, finite
from husai.report.document import FORMAT, derived, escape_markdown, format_value, resolve_pointer
from husai.report.render import render

if TYPE_CHECKING:
    from husai.report.verify import Findings


def check_report(found: Findings) -> None:
    """Every number of the report from the evidence, twice: one by one through numbers.json, and by rendering the whole again."""
    report, companion = found.reports / "gate_report.md", found.reports / "numbers.json"
    if not report.is_file() or not (found.reports / "evidence").is_dir():
        found.notes.append(f"{found.name(report)}: no report to derive again; run husai report")
        return
    _note_other_code(found)
    text = report.read_text(errors="replace")
    try:
        numbers = json.loads(companion.read_text())
        _check_numbers(found, text.split("\n"), numbers["numbers"])
        again = render(found.reports / "evidence")
    except (OSError, ValueError, KeyError, TypeError, HusaiError) as error:
        found.mismatch(companion, f"the report's numbers cannot be derived again ({error})")
        return
    if again.numbers != numbers:
        found.mismatch(companion, "is not what the evidence gives")
    for number, (now, then) in enumerate(_pairs(again.markdown, text), start=1):
        if now != then:
            found.mismatch(report, f"line {number} is not what the evidence gives: '{then[:80]}' should be '{now[:80]}'")
    page = found.reports / "gate_report.html"
    if not page.is_file() or _without_figures(page.read_text(errors="replace")) != _without_figures(again.html):
        found.mismatch(page, "is not what the evidence gives")


def _note_other_code(found: Findings) -> None:
    """Say so when another version of the code wrote the report: its wording may then differ where no number does."""
    try:
        then = json.loads((found.reports / "manifest.json").read_text()).get("code_hash")
    except (OSError, ValueError, AttributeError):
        return
    if then and then != code_hash():
        found.notes.append(f"{found.name(found.reports)}: written by code {then}, checked by {code_hash()}; husai report writes it again")


def _pairs(now: str, then: str) -> list[tuple[str, str]]:
    a, b = now.split("\n"), then.split("\n")
    size = max(len(a), len(b))
    return list(zip(a + [""] * (size - len(a)), b + [""] * (size - len(b)), strict=True))


def _without_figures(text: str) -> str:
    return re.sub(r"<svg style=.*?</svg>", "<svg/>", text, flags=re.DOTALL)


def _check_numbers(found: Findings, lines: list[str], numbers: list[dict[str, Any]]) -> None:
    files: dict[str, Any] = {}
    for entry in numbers:
        found.count("numbers derived again")
        name, derive = entry["file"], entry.get("derive")
        where = f"line {entry['line']}: '{entry['text']}'"
        if name not in files:
            files[name] = json.loads((found.reports / "evidence" / name).read_text())
        try:
            value = finite(derived(resolve_pointer(files[name], entry["pointer"]), entry["pointer"], derive))
        except (KeyError, TypeError):
            value = KeyError
        if value != entry["value"]:
            found.mismatch(found.reports / "gate_report.md", f"{where} is not {name}#{entry['pointer']}")
        elif FORMAT.get(derive, format_value)(value) != entry["text"] or escape_markdown(entry["text"]) not in lines[entry["line"] - 1]:
            found.mismatch(found.reports / "gate_report.md", f"{where} is not how {name}#{entry['pointer']} prints")

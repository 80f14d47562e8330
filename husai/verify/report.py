"""Derives every number of the report again: by ``numbers.json``, and by rendering the whole."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

from husai.errors import MALFORMED, HusaiError
from husai.provenance import code_hash, finite, library_versions, read_json, read_object
from husai.report.events import read_events, runs_path
from husai.report.log import render_log
from husai.report.quotes import FORMAT, derived, format_value, resolve_pointer
from husai.report.render import render
from husai.shown import escape_markdown
from husai.verify.findings import Findings

FIGURE = re.compile(r"<svg style=.*?</svg>", flags=re.DOTALL)
WORDS = re.compile(r"<text\b[^>]*>([^<]*)<")
IDS = re.compile(r"""(?:\bid=["'][^"']*["'])|(?:#f[0-9a-f]{8}-[\w.-]+)""")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def check_report(found: Findings) -> None:
    """Every number of the report, twice: through ``numbers.json``, and by rendering the whole."""
    report, companion = found.reports / "gate_report.md", found.reports / "numbers.json"
    if not report.is_file() or not (found.reports / "evidence").is_dir():
        found.notes.append(f"{found.name(report)}: no report to derive again; run husai report")
        return
    _note_other_code(found)
    text = report.read_text(encoding="utf-8", errors="replace")
    try:
        numbers = read_json(companion)
        _check_numbers(found, text.split("\n"), numbers["numbers"])
        again = render(found.reports / "evidence")
    except (OSError, *MALFORMED, HusaiError) as error:
        found.mismatch(companion, f"the report's numbers cannot be derived again ({error})")
        return
    if again.numbers != numbers:
        found.mismatch(companion, "is not what the evidence gives")
    _compare_lines(found, report, again.markdown, text, "the evidence")
    _check_page(found, again.html)


def check_log(found: Findings) -> None:
    """The experiment log from the record of runs, line by line."""
    log, record = found.reports / "experiment_log.md", found.reports / "runs.jsonl"
    if not log.is_file() or not record.is_file():
        return
    try:
        again = render_log(
            read_events(record, *([runs_path(found.root / "results")] if found.has_results else []))
        )
    except (HusaiError, *MALFORMED) as error:
        found.mismatch(record, f"the experiment log cannot be made again ({error})")
        return
    found.count("log entries made again", again.count("\n## "))
    text = log.read_text(encoding="utf-8", errors="replace")
    _compare_lines(found, log, again, text, "runs.jsonl")


def _check_page(found: Findings, again: str) -> None:
    """Text and tables to the byte; figures by words and, of the same matplotlib, by marks."""
    page = found.reports / "gate_report.html"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    if FIGURE.sub("<svg/>", text) != FIGURE.sub("<svg/>", again):
        found.mismatch(page, "is not what the evidence gives")
        return
    versions = read_object(found.reports / "manifest.json").get("versions")
    then = versions.get("matplotlib") if isinstance(versions, dict) else None
    drawn = library_versions().get("matplotlib") == then
    for number, (now, then) in enumerate(
        zip(FIGURE.findall(again), FIGURE.findall(text), strict=True), start=1
    ):
        if WORDS.findall(now) != WORDS.findall(then) or (drawn and not _alike(now, then)):
            found.mismatch(page, f"figure {number} is not what the evidence gives")
    if not drawn:
        found.notes.append(
            f"{found.name(page)}: drawn by another matplotlib than the one here; marks in figures "
            "were not compared, words were"
        )


def _alike(a: str, b: str) -> bool:
    """The same elements, coordinates within 0.01 points; ids, which hang on last digits, aside."""
    a, b = IDS.sub("", a), IDS.sub("", b)
    if NUMBER.sub("0", a) != NUMBER.sub("0", b):
        return False
    return all(
        abs(float(x) - float(y)) <= 0.01
        for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)
    )


def _note_other_code(found: Findings) -> None:
    """Say so where other code wrote the report: wording may then differ where no number does."""
    then = read_object(found.reports / "manifest.json").get("code_hash")
    if then and then != code_hash():
        found.notes.append(
            f"{found.name(found.reports)}: written by code {then}, checked by {code_hash()}; "
            "husai report writes it again"
        )


def _compare_lines(found: Findings, path: Path, again: str, text: str, source: str) -> None:
    pairs = zip_longest(again.split("\n"), text.split("\n"), fillvalue="")
    for number, (now, then) in enumerate(pairs, start=1):
        if now != then:
            found.mismatch(
                path,
                f"line {number} is not what {source} gives: '{then[:80]}' should be '{now[:80]}'",
            )


def _check_numbers(found: Findings, lines: list[str], numbers: list[dict[str, Any]]) -> None:
    report, evidence = found.reports / "gate_report.md", found.reports / "evidence"
    files: dict[str, Any] = {}
    for entry in numbers:
        found.count("numbers derived again")
        name, derive = entry["file"], entry.get("derive")
        where = f"line {entry['line']}: '{entry['text']}'"
        if name not in files:
            path = evidence / name
            if not path.resolve().is_relative_to(evidence.resolve()):
                raise HusaiError(f"{path} lies outside the evidence; it was not opened")
            files[name] = read_json(path)
        try:
            value = finite(
                derived(resolve_pointer(files[name], entry["pointer"]), entry["pointer"], derive)
            )
        except (KeyError, TypeError):
            value = KeyError
        if value != entry["value"]:
            found.mismatch(report, f"{where} is not {name}#{entry['pointer']}")
        elif (
            FORMAT.get(derive, format_value)(value) != entry["text"]
            or escape_markdown(entry["text"]) not in lines[entry["line"] - 1]
        ):
            found.mismatch(report, f"{where} is not how {name}#{entry['pointer']} prints")

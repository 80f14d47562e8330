"""The words of the report in plain English, read from the glossary that the documents show."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from husai.report.document import Inline, ReportSection, Table, Words, plain

ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


@cache
def _tables() -> tuple[dict[str, str], dict[str, str]]:
    """The glossary's words and quantities, and its questions of the gates."""
    text = LINK.sub(r"\1", Path(__file__).with_name("glossary.md").read_text(encoding="utf-8"))
    words, questions = {}, {}
    for part in text.split("\n## "):
        table = questions if part.startswith("Questions") else words
        table |= {name: told for names, told in ROW.findall(part) for name in names.split(", ")}
    return words, questions


def meaning(word: str) -> str | None:
    """What a word or a measured quantity means; a condition's name may end in its basis
    (``stability.S lcb``).
    """
    return _tables()[0].get(re.sub(r" (lcb|ucb)$", "", word))


def question(gate: str) -> str:
    """What a gate asks, in plain words; a general question for a gate of somebody's own policy."""
    return _tables()[1].get(gate, "Does what this gate asks hold?")


def word_of(cell: Inline) -> str | None:
    """The glossary's word that a table cell consists of, if it is one."""
    text = plain(cell).strip("`* ")
    return text if meaning(text) else None


def words_section(sections: Iterable[ReportSection]) -> ReportSection:
    """The words of the glossary that stand in the tables of the report, with their meanings."""
    tables = [b for s in sections for b in s.blocks if isinstance(b, Table)]
    cells = (cell for table in tables for row in [table.header, *table.rows] for cell in row)
    found = sorted({w for cell in cells if (w := word_of(cell))}, key=lambda w: (w.lower(), w))
    return ReportSection("Words", [Words([(word, meaning(word)) for word in found])])

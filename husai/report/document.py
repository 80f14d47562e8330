"""The report as data: blocks of text and tables around quoted values, and Markdown out of them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from husai.report.quotes import CLOSE, MIDDLE, OPEN, Quote
from husai.shown import escape_markdown

Inline = list["str | Quote"]


def plain(inline: Inline) -> str:
    """Running text as printed, without markup for its quotes."""
    return "".join(part.text if isinstance(part, Quote) else part for part in inline)


class Paragraph(NamedTuple):
    """One paragraph of running text."""

    inline: Inline
    role: str = ""


class Bullets(NamedTuple):
    """An unordered list."""

    items: list[Inline]


class Table(NamedTuple):
    """A table; ``graphics`` holds one inline SVG per row (HTML only) or is empty, ``roles`` one CSS
    class per row or is empty.
    """

    header: list[Inline]
    rows: list[list[Inline]]
    graphics: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


class Figure(NamedTuple):
    """An inline SVG with its caption; the Markdown report prints the caption only."""

    svg: str
    caption: Inline


class Words(NamedTuple):
    """Words and their meanings, for a reader to look up."""

    entries: list[tuple[str, str]]


class ReportSection(NamedTuple):
    """A titled part of the report; a folded one is opened by its heading (HTML only)."""

    title: str
    blocks: list[Any]
    level: int = 2
    folded: bool = False

    @property
    def slug(self) -> str:
        """The section's anchor."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


class Report(NamedTuple):
    """Status line and sections of a report."""

    status: Inline
    released: bool
    sections: list[ReportSection]


def markdown(document: Report) -> tuple[str, list[dict[str, Any]]]:
    """The Markdown report and, for every quoted value in it, ``{line, text, file, pointer, value[,
    derive]}`` (lines count from 1).
    """
    quotes: list[Quote] = []

    def inline(parts: Inline) -> str:
        out = []
        for part in parts:
            if isinstance(part, Quote):
                out.append(f"{OPEN}{len(quotes)}{MIDDLE}{escape_markdown(part.text)}{CLOSE}")
                quotes.append(part)
            else:
                out.append(part)
        return "".join(out)

    lines = [f"# {inline(document.status)}", ""]
    for section in document.sections:
        lines += [f"{'#' * section.level} {section.title}", ""]
        for block in section.blocks:
            lines += [*_block_lines(block, inline), ""]
    marked = "\n".join(lines).rstrip("\n").split("\n")
    pattern = re.compile(f"{OPEN}(\\d+){MIDDLE}")
    numbers = []
    for number, line in enumerate(marked, start=1):
        for match in pattern.finditer(line):
            quote = quotes[int(match.group(1))]
            place = {"file": quote.file, "pointer": quote.pointer, "value": quote.printed}
            derive = {"derive": quote.derive} if quote.derive else {}
            numbers.append({"line": number, "text": quote.text, **place, **derive})
    text = re.sub(f"{OPEN}\\d+{MIDDLE}|{CLOSE}", "", "\n".join(marked)) + "\n"
    return text, numbers


def _block_lines(block: Any, inline: Any) -> list[str]:
    if isinstance(block, Paragraph):
        return [inline(block.inline)]
    if isinstance(block, Bullets):
        return [f"- {inline(item)}" for item in block.items]
    if isinstance(block, Figure):
        return [f"*Figure (in gate_report.html): {inline(block.caption)}*"]
    if isinstance(block, Words):
        return [f"- `{word}`: {meaning}" for word, meaning in block.entries]
    rows = (block.header, *block.rows)
    head, *body = ["| " + " | ".join(map(inline, row)) + " |" for row in rows]
    return [head, "|" + " --- |" * len(block.header), *body]

"""Text from files and arguments, as a terminal and a Markdown page may show it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LEADING = re.compile(r"^(\s*)([#>]|=(?==*\s*$)|[-+](?![\w.]))|^(\s*\d+)([.)])(?=\s|$)")
"""What makes the line that it begins a heading, a quotation, a rule or an item of a list."""


def printable(text: object) -> str:
    """``text`` on one line, with whatever a terminal would obey written out: names of files and
    what is quoted from them may hold line breaks and escape codes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def escape_markdown(text: str) -> str:
    """Text safe inside a Markdown paragraph or table cell, and where one begins."""
    text = re.sub(r"[\\|*`~]|\](?=[(\[:])", lambda found: "\\" + found.group(), text)
    text = re.sub(
        r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|<(?=[A-Za-z/!?])|&(?=#?[A-Za-z0-9]+;)",
        lambda found: "\\" + found.group(),
        text,
    )
    return LEADING.sub(r"\1\3\\\2\4", text)


def in_markdown(text: object) -> str:
    """``text`` as one line of Markdown that shows it as it is, whatever markup it holds."""
    return escape_markdown(printable(" ".join(str(text).split())))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table whose cells are Markdown already."""
    head, *body = (f"| {' | '.join(row)} |" for row in (header, *rows))
    return [head, "|" + "---|" * len(header), *body]


def in_code(text: object) -> str:
    """``text`` as inline code of Markdown, on one line and without a mark that would end it or the
    table cell it stands in.
    """
    shown = printable(" ".join(str(text).split()))
    return f"`{shown.translate({ord('`'): chr(39), ord('|'): chr(0xA6)})}`"

"""Writes the gate report: one document as Markdown, as a single offline HTML file, and as
``numbers.json``.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from husai.provenance import finite, write_json, write_text
from husai.report.document import (
    Bullets,
    Figure,
    Inline,
    Paragraph,
    Report,
    ReportSection,
    Table,
    Words,
    markdown,
    plain,
)
from husai.report.front.words import word_of
from husai.report.quotes import EvidenceFolder, Quote
from husai.report.sections import build

NUMBERS_SCHEMA = "husai.numbers/1"
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=False,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Rendered(NamedTuple):
    """The report in memory."""

    markdown: str
    html: str
    numbers: dict[str, Any]


def render(root: str | Path) -> Rendered:
    """Render the report from the evidence below ``root`` (files named ``results/...`` there); equal
    evidence gives equal bytes.
    """
    document = build(EvidenceFolder(root))
    text, numbers = markdown(document)
    companion = {"schema": NUMBERS_SCHEMA, "report": "gate_report.md", "evidence": "evidence"}
    return Rendered(text, page(document), companion | {"numbers": finite(numbers)})


def write_report(reports: str | Path) -> Rendered:
    """Render from ``<reports>/evidence`` and write ``gate_report.html``, ``gate_report.md`` and
    ``numbers.json``.
    """
    reports = Path(reports)
    rendered = render(reports / "evidence")
    write_text(reports / "gate_report.html", rendered.html)
    write_text(reports / "gate_report.md", rendered.markdown)
    write_json(reports / "numbers.json", rendered.numbers)
    return rendered


def page(document: Report) -> str:
    """The document as one HTML file with inline style and figures; nothing is fetched when it is
    opened.
    """
    sections = [
        {"title": s.title, "slug": s.slug, "folded": s.folded, "body": _body(s)}
        for s in document.sections
    ]
    status = plain(document.status)
    script = TEMPLATES.get_template("gate_report.js").render()
    return TEMPLATES.get_template("gate_report.html").render(
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=html.escape(status),
        status=_inline(document.status),
        released=document.released,
        sections=sections,
    )


def _inline(inline: Inline) -> str:
    return "".join(_quote(part) if isinstance(part, Quote) else _text(part) for part in inline)


def _quote(quote: Quote) -> str:
    text = html.escape(quote.text, quote=False)
    value = quote.printed
    if isinstance(value, str) or quote.derive == "key":
        return text
    exact = f" = {value!r}" if isinstance(value, float) else ""
    return f'<data title="{html.escape(f"{quote.file}#{quote.pointer}{exact}")}">{text}</data>'


def _text(text: str) -> str:
    """The little Markdown that the report's own sentences use: `code`, **bold** and [links](page),
    and HTML character references.
    """
    text = html.escape(html.unescape(text), quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\[([\w. ]+)\]\(([\w./#-]+)\)", r'<a href="\2">\1</a>', text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def _body(section: ReportSection) -> str:
    told: set[str] = set()
    return "\n".join(_block(block, told) for block in section.blocks)


def _block(block: Any, told: set[str]) -> str:
    """One block; the words in ``told`` were explained earlier in its section."""
    if isinstance(block, Paragraph):
        role = f' class="{block.role}"' if block.role else ""
        return f"<p{role}>{_inline(block.inline)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Figure):
        label = html.escape(plain(block.caption))
        svg = block.svg.replace("role='img'", f'role="img" aria-label="{label}"', 1)
        return f"<figure>{svg}<figcaption>{_inline(block.caption)}</figcaption></figure>"
    if isinstance(block, Words):
        entries = "".join(
            f'<dt>{html.escape(word)}</dt><dd id="{_word_id(word)}">{_text(meaning)}</dd>'
            for word, meaning in block.entries
        )
        return f"<dl>{entries}</dl>"
    return _table(block, told)


def _table(table: Table, told: set[str]) -> str:
    """A table in a region that scrolls by itself; it can be reached by keyboard."""
    columns = zip(*[row[: len(table.header)] for row in table.rows], strict=True)
    numeric = [_is_numeric(list(column)) for column in columns] or [False] * len(table.header)
    classes = [' class="number"' if flag else "" for flag in numeric]
    strips = any(table.graphics)
    head = [
        f"<th{c}{_described(cell, told)}>{_inline(cell)}</th>"
        for c, cell in zip(classes, table.header, strict=True)
    ]
    rows = []
    for index, row in enumerate(table.rows):
        cells = [f"<td{c}>{_term(cell, told)}</td>" for c, cell in zip(classes, row, strict=True)]
        if strips:
            cells.insert(-1, f'<td class="graphic">{table.graphics[index]}</td>')
        role = f' class="{table.roles[index]}"' if table.roles else ""
        rows.append(f"<tr{role}>{''.join(cells)}</tr>")
    if strips:
        head.insert(-1, "<th>on one scale</th>")
    kind = ' class="gate"' if table.roles else ""
    name = html.escape(plain(table.header[0]))
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="Table by {name}"><table{kind}>'
        f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _word_id(word: str) -> str:
    return "w-" + re.sub(r"[^A-Za-z0-9]+", "-", word)


def _described(cell: Inline, told: set[str]) -> str:
    """Where the meaning of a cell stands, if it is a word of the glossary that is new here."""
    word = word_of(cell)
    if word is None or word in told:
        return ""
    told.add(word)
    return f' aria-describedby="{_word_id(word)}"'


def _term(cell: Inline, told: set[str]) -> str:
    """A cell; a new word of the glossary becomes a button that shows its meaning."""
    described, text = _described(cell, told), _inline(cell)
    return f'<button type="button" class="term"{described}>{text}</button>' if described else text


def _is_numeric(column: list[Inline]) -> bool:
    """Whether a column holds numbers, with at most brackets and a few words around them."""
    parts = [part for cell in column for part in cell]
    quotes = [p for p in parts if isinstance(p, Quote) and p.derive != "key"]
    values = [q.printed for q in quotes if q.printed is not None]
    prose = any(isinstance(p, str) and len(p) > len(" (no interval)") for p in parts)
    numbers = (isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    return bool(values) and not prose and all(numbers)

"""Writes the gate report: one document as Markdown, as a single offline HTML file, and as
``numbers.json``.
"""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from husai.provenance import finite, write_json, write_text
from husai.report.document import (
    Bullets,
    Document,
    Figure,
    Inline,
    Paragraph,
    Section,
    Table,
    markdown,
)
from husai.report.quotes import Quote, Source
from husai.report.sections import build

NUMBERS_SCHEMA = "husai.numbers/1"


class Rendered(NamedTuple):
    """The report in memory."""

    markdown: str
    html: str
    numbers: dict[str, Any]


def render(root: str | Path) -> Rendered:
    """Render the report from the evidence below ``root`` (files named ``results/...`` there); equal
    evidence gives equal bytes.
    """
    document = build(Source(root))
    text, numbers = markdown(document)
    companion = {
        "schema": NUMBERS_SCHEMA,
        "report": "gate_report.md",
        "evidence": "evidence",
        "numbers": finite(numbers),
    }
    return Rendered(text, page(document), companion)


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


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(
        loader=loader,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def template(name: str) -> jinja2.Template:
    """A template of the report room."""
    return _environment().get_template(name)


def page(document: Document) -> str:
    """The document as one HTML file with inline style and figures; nothing is fetched when it is
    opened.
    """
    sections = [
        {
            "title": s.title,
            "slug": s.slug,
            "level": s.level,
            "body": "\n".join(_block(b) for b in s.blocks),
        }
        for s in document.sections
    ]
    status = _plain(document.status)
    return template("gate_report.html").render(
        title=html.escape(status),
        status=_inline(document.status),
        released=document.released,
        sections=sections,
    )


def _plain(inline: Inline) -> str:
    return "".join(part.text if isinstance(part, Quote) else part for part in inline)


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


def _block(block: Any) -> str:
    if isinstance(block, Paragraph):
        role = f' class="{block.role}"' if block.role else ""
        return f"<p{role}>{_inline(block.inline)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Figure):
        label = html.escape(_plain(block.caption))
        svg = block.svg.replace("role='img'", f'role="img" aria-label="{label}"', 1)
        return f"<figure>{svg}<figcaption>{_inline(block.caption)}</figcaption></figure>"
    if isinstance(block, Section):
        return "\n".join(_block(b) for b in block.blocks)
    return _table(block)


def _table(table: Table) -> str:
    numeric = [
        _is_numeric([row[i] for row in table.rows if i < len(row)])
        for i in range(len(table.header))
    ]
    classes = [' class="number"' if flag else "" for flag in numeric]
    strips = any(table.graphics)
    head = "".join(
        f"<th{c}>{_inline(cell)}</th>" for c, cell in zip(classes, table.header, strict=True)
    )
    rows = []
    for index, row in enumerate(table.rows):
        cells = [f"<td{c}>{_inline(cell)}</td>" for c, cell in zip(classes, row, strict=True)]
        if strips:
            cells.insert(-1, f'<td class="graphic">{table.graphics[index]}</td>')
        role = f' class="{table.roles[index]}"' if table.roles else ""
        rows.append(f"<tr{role}>{''.join(cells)}</tr>")
    if strips:
        before, last = head[: head.rindex("<th")], head[head.rindex("<th") :]
        head = f"{before}<th>on one scale</th>{last}"
    kind = ' class="gate"' if table.roles else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _is_numeric(column: list[Inline]) -> bool:
    values = [
        part.printed
        for cell in column
        for part in cell
        if isinstance(part, Quote) and part.derive != "key" and part.printed is not None
    ]
    return bool(values) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    )

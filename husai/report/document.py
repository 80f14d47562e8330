"""The report as data: quoted values that know their file and JSON pointer, blocks of text and
tables, and Markdown out of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from husai.errors import HusaiError
from husai.provenance import read_json

MISSING = "missing"
OPEN, MIDDLE, CLOSE = "\ue000", "\ue001", "\ue002"


class Quote:
    """A place in a JSON file of the evidence. Indexing goes deeper and keeps track of the pointer; a
    missing key gives an empty quote. Put into a line of the report it prints the value there.

    Attributes
    ----------
    file, pointer : str
        Where it stands: a file of the run and a JSON pointer (RFC 6901).
    value
        The JSON value there; None where there is none (``exists`` is then false).
    derive : str or None
        Name of the function of :data:`DERIVE` that turns it into what is printed; None for
        verbatim.
    """

    def __init__(
        self,
        file: str,
        value: Any,
        pointer: str = "",
        exists: bool = True,
        derive: str | None = None,
    ):
        self.file, self.value, self.pointer = file, value, pointer
        self.exists, self.derive = exists, derive

    def __getitem__(self, key: str | int) -> Quote:
        pointer = f"{self.pointer}/{escape_pointer(key)}"
        try:
            if isinstance(self.value, dict) or (
                isinstance(self.value, list) and isinstance(key, int)
            ):
                return Quote(self.file, self.value[key], pointer)
        except (KeyError, IndexError):
            pass
        return Quote(self.file, None, pointer, exists=False)

    def __iter__(self) -> Iterator[Quote]:
        size = len(self.value) if isinstance(self.value, list) else 0
        return (self[i] for i in range(size))

    def items(self) -> list[tuple[str, Quote]]:
        """``(key, quote)`` of a JSON object; empty for anything else."""
        return [(key, self[key]) for key in self.value] if isinstance(self.value, dict) else []

    def path(self, *keys: str | int) -> Quote:
        """Several keys deeper."""
        found = self
        for key in keys:
            found = found[key]
        return found

    def by(self, derive: str) -> Quote:
        """The same place, printed through a function of :data:`DERIVE`."""
        return Quote(self.file, self.value, self.pointer, self.exists, derive)

    def name(self) -> Quote:
        """The key that this stands at, as printed."""
        return self.by("key")

    @property
    def printed(self) -> Any:
        """The value that is printed."""
        return derived(self.value, self.pointer, self.derive)

    @property
    def text(self) -> str:
        """As printed."""
        return FORMAT.get(self.derive, format_value)(self.printed)


Inline = list["str | Quote"]


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


class Section(NamedTuple):
    """A titled part of the report."""

    title: str
    blocks: list[Any]
    level: int = 2

    @property
    def slug(self) -> str:
        """The section's anchor."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


class Document(NamedTuple):
    """Status line and sections of a report."""

    status: Inline
    released: bool
    sections: list[Section]


def format_value(value: Any) -> str:
    """A JSON value as printed: 4 significant digits for floats, integers in full, text on one
    line.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return MISSING if math.isnan(value) else ("inf" if value > 0 else "-inf")
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(v) for v in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{one_line(k)} = {format_value(v)}" for k, v in value.items()) or "none"
    return one_line(value)


def one_line(text: Any) -> str:
    """Text without line breaks, runs of blanks or the marks that this module uses inside a line."""
    return " ".join(re.sub(f"[{OPEN}{MIDDLE}{CLOSE}]", "?", str(text)).split())


def format_lower(value: Any) -> str:
    """A lower bound as printed; a missing one is unbounded."""
    return "-inf" if value is None else format_value(value)


def format_upper(value: Any) -> str:
    """An upper bound as printed; a missing one is unbounded."""
    return "inf" if value is None else format_value(value)


def gate_names(gates: dict) -> list[str]:
    """The gates of a decision without its conclusion."""
    return [name for name in gates if name != "pass_all"]


DERIVE = {
    "lower": lambda value: value,
    "upper": lambda value: value,
    "length": len,
    "gate_count": lambda gates: len(gate_names(gates)),
    "failed_count": lambda gates: sum(gates[name] is not True for name in gate_names(gates)),
    "failed_names": lambda gates: [name for name in gate_names(gates) if gates[name] is not True],
}
FORMAT = {"lower": format_lower, "upper": format_upper}


def derived(value: Any, pointer: str, derive: str | None) -> Any:
    """Value that a quote prints, from the JSON ``value`` at ``pointer``; ``key`` is the last token
    of the pointer itself.
    """
    if derive is None:
        return value
    if derive == "key":
        return unescape_pointer(pointer.rsplit("/", 1)[-1])
    if derive not in DERIVE:
        raise HusaiError(
            f"numbers.json: '{derive}' is not a known derivation; render the report again"
        )
    return DERIVE[derive](value)


def escape_pointer(key: Any) -> str:
    """One token of a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def unescape_pointer(token: str) -> str:
    """Inverse of :func:`escape_pointer`."""
    return token.replace("~1", "/").replace("~0", "~")


def resolve_pointer(value: Any, pointer: str) -> Any:
    """The part of a JSON value that a pointer (RFC 6901) names; KeyError when there is none."""
    for token in pointer.split("/")[1:]:
        token = unescape_pointer(token)
        try:
            value = value[int(token)] if isinstance(value, list) else value[token]
        except (IndexError, ValueError, TypeError) as error:
            raise KeyError(pointer) from error
    return value


class Source:
    """Reads evidence below ``root``; file names are those of a run (``results/...``) wherever the
    evidence lies.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._read: dict[str, Any] = {}

    def has(self, file: str) -> bool:
        """Whether the file is there."""
        return (self.root / file).is_file()

    def open(self, file: str) -> Quote:
        """The whole of a JSON file; an empty quote when the file is missing."""
        if not self.has(file):
            return Quote(file, None, exists=False)
        if file not in self._read:
            self._read[file] = read_json(self.root / file)
        return Quote(file, self._read[file])

    def glob(self, pattern: str) -> list[str]:
        """Names of the files that match, sorted."""
        return sorted(
            p.relative_to(self.root).as_posix() for p in self.root.glob(pattern) if p.is_file()
        )


def escape_markdown(text: str) -> str:
    """Text safe inside a Markdown paragraph or table cell."""
    text = re.sub(r"[\\|*`]|\](?=[(\[:])", lambda found: "\\" + found.group(), text)
    return re.sub(
        r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|<(?=[A-Za-z/!])",
        lambda found: "\\" + found.group(),
        text,
    )


def markdown(document: Document) -> tuple[str, list[dict[str, Any]]]:
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
            entry = {
                "line": number,
                "text": quote.text,
                "file": quote.file,
                "pointer": quote.pointer,
                "value": quote.printed,
            }
            numbers.append({**entry, "derive": quote.derive} if quote.derive else entry)
    text = re.sub(f"{OPEN}\\d+{MIDDLE}|{CLOSE}", "", "\n".join(marked)) + "\n"
    return text, numbers


def _block_lines(block: Any, inline: Any) -> list[str]:
    if isinstance(block, Paragraph):
        return [inline(block.inline)]
    if isinstance(block, Bullets):
        return [f"- {inline(item)}" for item in block.items]
    if isinstance(block, Figure):
        return [f"*Figure (in gate_report.html): {inline(block.caption)}*"]
    head = "| " + " | ".join(inline(cell) for cell in block.header) + " |"
    rule = "|" + " --- |" * len(block.header)
    return [
        head,
        rule,
        *("| " + " | ".join(inline(cell) for cell in row) + " |" for row in block.rows),
    ]

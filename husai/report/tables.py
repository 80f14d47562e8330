"""Tables out of evidence: summary rows, metric records and plain JSON objects, every cell a quoted
value.
"""

from __future__ import annotations

import math
from typing import Any

from husai.report.document import Inline, Table
from husai.report.quotes import MOST_DECIMALS, Quote, with_decimals
from husai.shown import in_code

DEPTH = 3
"""Levels of a record that become lines of a table; what lies deeper is detail for its JSON."""


def is_metric(value: Any) -> bool:
    """Whether a JSON value is a measured value with bounds."""
    return isinstance(value, dict) and "value" in value and ("lcb" in value or "ucb" in value)


def metric_cell(ref: Quote) -> Inline:
    """``x [lcb, ucb]``; the missing interval of a single measurement is said, never drawn as zero
    width, and so is what cannot be assessed.
    """
    if ref["value"].value is None and str(ref["method"].value).startswith("not assessable"):
        return [ref["method"]]
    value, lcb, ucb = rounded(ref)
    if ref["lcb"].value is None and ref["ucb"].value is None:
        return [value] if ref["value"].value is None else [value, " (no interval)"]
    return [value, " [", lcb, ", ", ucb, "]"]


def rounded(ref: Quote) -> tuple[Quote, Quote, Quote]:
    """Value and bounds of a metric as they are printed: where there is an interval, with two
    significant digits of its half-width, as more would say nothing; else with four of each.
    """
    found = ref["value"], ref["lcb"], ref["ucb"]
    numbers = [one.value for one in found]
    if all(isinstance(v, float) and math.isfinite(v) for v in numbers) and numbers[1] < numbers[2]:
        decimals = max(0, 1 - math.floor(math.log10((numbers[2] - numbers[1]) / 2)))
        if decimals <= MOST_DECIMALS:
            names = ("value", "lower", "upper")
            return tuple(
                one.by(with_decimals(name, decimals))
                for one, name in zip(found, names, strict=True)
            )
    return found[0], found[1].by("lower"), found[2].by("upper")


def cell(ref: Quote) -> Inline:
    """One table cell: a metric with its interval or a plain value; an absent key is an empty
    cell.
    """
    if not ref.exists:
        return ["–"]
    return metric_cell(ref) if is_metric(ref.value) else [ref]


def rows_table(rows: Quote, columns: Quote | None = None) -> Table | None:
    """Table of a list of JSON objects.

    Parameters
    ----------
    rows : Quote
        Cursor at the list.
    columns : Quote, optional
        Cursor at the list of column names (dots reach into nested objects); by default every
        printable key in order of appearance.
    """
    entries = [row for row in rows if isinstance(row.value, dict)]
    if not entries:
        return None
    if columns is not None and columns.value:
        names = [str(c.value) for c in columns]
        header: list[Inline] = [[c] for c in columns]
    else:
        found = {name: ref for row in reversed(entries) for name, ref in leaves(row)}
        order = list(dict.fromkeys(name for row in entries for name, _ in leaves(row)))
        names, header = order, [_header(found[name], name) for name in order]
    return Table(header, [[cell(reach(row, name)) for name in names] for row in entries])


def _header(ref: Quote, name: str) -> Inline:
    pointer, out = ref.pointer.split("/"), []
    for above in range(name.count("\0"), -1, -1):
        ancestor = Quote(ref.file, None, "/".join(pointer[: len(pointer) - above]))
        out += [" ", ancestor.name()]
    return out[1:]


def reach(row: Quote, name: str) -> Quote:
    """Cursor at a column: the literal key first, then dots (or NULs) as nesting."""
    if name in (row.value or {}):
        return row[name]
    for key in name.split("\0" if "\0" in name else "."):
        row = row[key]
    return row


def leaves(ref: Quote, prefix: str = "", depth: int = DEPTH) -> list[tuple[str, Quote]]:
    """Printable leaves below an object as ``(name with NUL between levels, cursor)``: scalars,
    metrics and short scalar lists.
    """
    out: list[tuple[str, Quote]] = []
    for key, child in ref.items():
        if key.startswith("_") or key in ("provenance", "inputs", "schema", "config"):
            continue
        name = f"{prefix}\0{key}" if prefix else key
        if is_metric(child.value) or not isinstance(child.value, (dict, list)):
            out.append((name, child))
        elif isinstance(child.value, list):
            if len(child.value) <= 16 and not any(isinstance(v, (dict, list)) for v in child.value):
                out.append((name, child))
        elif depth > 1:
            out += leaves(child, name, depth - 1)
    return out


def facts_table(ref: Quote) -> Table | None:
    """Two-column table of an object's printable leaves."""
    rows = [[_header(child, name), cell(child)] for name, child in leaves(ref)]
    return Table([["quantity"], ["value"]], rows) if rows else None


def metrics_table(metrics: Quote) -> Table | None:
    """Table of an evidence record's metrics: value, 95% interval, n, method."""
    rows = []
    for _, ref in metrics.items():
        value, bounds = ref, ["none"]
        if is_metric(ref.value):
            value, lcb, ucb = rounded(ref)
            if ref["lcb"].value is not None or ref["ucb"].value is not None:
                bounds = ["[", lcb, ", ", ucb, "]"]
        rows.append([[ref.name()], [value], bounds, cell(ref["n"]), cell(ref["method"])])
    return Table([["metric"], ["value"], ["interval"], ["n"], ["method"]], rows) if rows else None


def compare_table(records: list[Quote]) -> Table:
    """One column per record, one row per printable leaf of any of them; a record's ``subject``
    names it, else its file does.
    """
    found = [dict(leaves(record)) for record in records]
    subjects = [r["subject"] if r["subject"].value else in_code(r.file) for r in records]
    rows = []
    for name in dict.fromkeys(name for one in found for name in one if name != "subject"):
        first = next(one[name] for one in found if name in one)
        cells = (cell(one[name]) if name in one else ["–"] for one in found)
        rows.append([_header(first, name), *cells])
    return Table([["quantity"], *([subject] for subject in subjects)], rows)

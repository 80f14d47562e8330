"""Writing a stage's summary as JSON, parquet and Markdown, with the manifest that says what it was
made from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from husai import provenance
from husai.evidence import Metric
from husai.shown import in_markdown, markdown_table

SUMMARY_SCHEMA = "husai.summary/1"


class StageTable(NamedTuple):
    """What a stage's summary says, before it is written."""

    rows: Sequence[dict]
    """Flat dictionaries whose values are numbers, text or metrics."""
    columns: Sequence[str]
    """Those that the tables show."""
    headline: str
    notes: Sequence[str]
    figures: Sequence[dict]
    extra: dict[str, Any]
    """Further fields of the JSON."""


def errorbar(x: str, y: str, title: str, group: str | None = None) -> dict[str, str]:
    """A figure of a summary: column ``y`` with its intervals over column ``x``, in one colour for
    each value of column ``group``.
    """
    grouped = {"group": group} if group else {}
    return {"kind": "errorbar", "x": x, "y": y, **grouped, "title": title}


def write_summary(
    stage: str, out: Path, table: StageTable, inputs: Iterable[str | Path], config: dict
) -> dict:
    """Write ``out`` (JSON) with ``.parquet``, ``.md`` and ``.manifest.json`` beside it, and return
    the record.
    """
    inputs = list(inputs)
    record = {
        "schema": SUMMARY_SCHEMA,
        "stage": stage,
        "headline": table.headline,
        "columns": list(table.columns),
        "rows": list(table.rows),
        "notes": list(table.notes),
        "figures": list(table.figures),
        **table.extra,
        "provenance": provenance.provenance(config),
    }
    markdown, parquet = out.with_suffix(".md"), out.with_suffix(".parquet")
    with provenance.job(out.with_suffix(".manifest.json"), config=config) as work:
        work.reads(*inputs)
        provenance.write_json(out, {**record, "inputs": provenance.file_records(inputs)})
        provenance.write_text(markdown, summary_markdown(record))
        write_parquet(parquet, [flatten(row) for row in table.rows])
        work.writes(out, markdown, parquet)
    return record


def flatten(row: dict) -> dict:
    """A row with every metric spread over columns ``name``, ``name_lcb``, ``name_ucb``,
    ``name_n``.
    """
    flat = {}
    for key, value in row.items():
        if isinstance(value, Metric):
            flat[key] = value.value
            flat |= {f"{key}_{field}": getattr(value, field) for field in ("lcb", "ucb", "n")}
        elif isinstance(value, (dict, list)):
            flat[key] = json.dumps(provenance.finite(value))
        else:
            flat[key] = value
    return flat


def write_parquet(path: Path, rows: Sequence[dict]) -> None:
    """Write rows as a parquet table, atomically."""
    import pandas

    with provenance.atomic_path(path) as temporary:
        pandas.DataFrame(list(rows)).to_parquet(temporary, index=False)


def shown(value) -> str:
    """A value as a table cell: four significant digits, a metric with its interval."""
    if isinstance(value, Metric):
        if value.method.startswith("not assessable"):
            return "not assessable"
        if not math.isfinite(value.lcb):
            return f"{shown(value.value)} (no interval)"
        return f"{shown(value.value)} [{shown(value.lcb)}, {shown(value.ucb)}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)


def summary_markdown(record: dict) -> str:
    """The summary as a short Markdown page."""
    lines = [f"# {record['stage'].capitalize()}", "", in_markdown(record["headline"]), ""]
    lines += _table(record)
    for table in record.get("axes", []):
        title = f"## By {table['axis']} (mean [smallest, largest] over conditions)"
        lines += ["", title, "", *_table(table)]
    if record["notes"]:
        lines += ["", *[f"- {in_markdown(note)}" for note in record["notes"]]]
    return "\n".join(lines) + "\n"


def _table(table: dict) -> list[str]:
    columns = table["columns"]
    rows = ([in_markdown(shown(row.get(c))) for c in columns] for row in table["rows"])
    return markdown_table([*map(in_markdown, columns)], rows)

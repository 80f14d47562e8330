"""Stage summaries and evidence records as blocks of the report."""

from __future__ import annotations

from typing import Any

from husai.report.document import Bullets, Figure, Inline, Paragraph, Table
from husai.report.plots import heat_map, summary_figure
from husai.report.quotes import Quote, Source
from husai.report.tables import facts_table, is_metric, metrics_table, rows_table
from husai.shown import in_code

SELFTEST = "results/gate/selftest.json"
PASSPORT = "results/passport/passport.json"


def missing(file: str, verb: str = "run the pipeline") -> Paragraph:
    return Paragraph(
        [f"Not here: `{file}` is missing; {verb} to write it. Nothing is claimed in its place."],
        "missing",
    )


def summary_blocks(source: Source, file: str) -> list[Any]:
    summary = source.open(file)
    if not summary.exists:
        return [missing(file)]
    rows = summary["rows"] if summary["rows"].exists else summary["records"]
    out: list[Any] = []
    if summary["headline"].value:
        out.append(Paragraph([summary["headline"]], "headline"))
    for spec in summary["figures"]:
        svg = summary_figure(spec, rows)
        if svg:
            caption: Inline = [spec["title"]] if spec["title"].value else [f"From `{file}`."]
            out.append(Figure(svg, caption))
    table = rows_table(rows, summary["columns"])
    out.append(table or Paragraph([f"{in_code(file)} has no rows."], "missing"))
    for key in ("pooled", "comparison", "selected", "acceptance"):
        facts = facts_table(summary[key]) if isinstance(summary[key].value, dict) else None
        out += [facts] if facts else []
    seeds = rows_table(summary["training"])
    out += [Paragraph(["Training, seed by seed:"]), seeds] if seeds else []
    notes = [[ref] for ref in summary["notes"]]
    return [*out, Bullets(notes)] if notes else out


def records_blocks(source: Source, pattern: str, named: str) -> list[Any]:
    files = [
        f for f in source.glob(pattern) if not f.endswith("manifest.json") and ".failed." not in f
    ]
    if not files:
        return [missing(named)]
    out: list[Any] = []
    for file in files:
        out += _record(source.open(file), file)
    return out


def _record(record: Quote, file: str) -> list[Any]:
    out: list[Any] = [Paragraph([in_code(file)], "file")]
    if record["headline"].value:
        out.append(Paragraph([record["headline"]], "headline"))
    table: Table | None
    metrics = record["metrics"]
    if metrics.exists and any(is_metric(ref.value) for _, ref in metrics.items()):
        table = metrics_table(metrics)
        who = [
            record[key] for key in ("kind", "subject", "recipe", "recipe_hash") if record[key].value
        ]
        line: Inline = [part for ref in who for part in (", ", ref.name(), " ", ref)]
        out.append(Paragraph(line[1:]) if line else Paragraph(["Measured values:"]))
    else:
        table = facts_table(record)
    out += [table] if table else []
    for key in ("rows", "records", "pool", "groups", "table"):
        rows = (
            rows_table(record[key], record["columns"])
            if isinstance(record[key].value, list)
            else None
        )
        out += [rows] if rows else []
    for spec in record["figures"]:
        svg = summary_figure(spec, record["rows"])
        out += (
            [Figure(svg, [spec["title"]] if spec["title"].value else [f"From `{file}`."])]
            if svg
            else []
        )
    matrix = record["pairwise"]["pwmcc"]
    if isinstance(matrix.value, list) and matrix.value and len(matrix.value) <= 16:
        labels = [str(v) for v in record["seeds"].value or range(len(matrix.value))]
        out.append(Figure(heat_map(matrix.value, labels), [f"PWMCC between seeds, `{file}`."]))
    return [
        *out,
        *[Bullets([[ref] for ref in record["notes"]])][: len(record["notes"].value or [])],
    ]


def selftest_blocks(source: Source) -> list[Any]:
    test = source.open(SELFTEST)
    if not test.exists:
        return [missing(SELFTEST, "run husai gate selftest")]
    return [*_record(test, SELFTEST)[1:], *_certificates(source)]


def passport_blocks(source: Source) -> list[Any]:
    """Certified latents of every SAE, with the page that has them one by one."""
    record = source.open(PASSPORT)
    if not record.exists:
        return [missing(PASSPORT, "run husai passport")]
    return [
        Paragraph(["Every latent, with the text it fires on: [passport.html](passport.html)."]),
        rows_table(record["saes"], record["columns"]),
    ]


def _certificates(source: Source) -> list[Any]:
    """How often certificates of latents are wrong: on planted latents, and on this run's SAEs."""
    out: list[Any] = []
    for file, key, title in (
        (SELFTEST, "certificates", "Certificates of planted latents, of which the truth is known:"),
        (PASSPORT, "prediction", "Certificates by half of the seeds, looked up in the other half:"),
    ):
        rows = source.open(file)[key]
        if rows.value:
            out += [Paragraph([title]), rows_table(rows)]
    return out

"""Stage summaries and evidence records as blocks of the report."""

from __future__ import annotations

from typing import Any

from husai.report.document import Bullets, Figure, Inline, Paragraph, Table
from husai.report.plots import heat_map, summary_figure
from husai.report.quotes import EvidenceFolder, Quote
from husai.report.tables import facts_table, is_metric, metrics_table, rows_table
from husai.shown import in_code

SELFTEST = "results/gate/selftest.json"
PASSPORT = "results/passport/passport.json"


def missing(file: str, verb: str = "run the pipeline") -> Paragraph:
    return Paragraph(
        [f"Not here: `{file}` is missing; {verb} to write it. Nothing is claimed in its place."],
        "missing",
    )


def summary_blocks(source: EvidenceFolder, file: str) -> list[Any]:
    summary = source.open(file)
    if not summary.exists:
        return [missing(file)]
    out = [*_headline(summary), *_figures(summary, file)]
    table = rows_table(summary["rows"], summary["columns"])
    out.append(table or Paragraph([f"{in_code(file)} has no rows."], "missing"))
    seeds = rows_table(summary["training"])
    out += [Paragraph(["Training, seed by seed:"]), seeds] if seeds else []
    return [*out, *_notes(summary)]


def _headline(record: Quote) -> list[Any]:
    return [Paragraph([record["headline"]], "headline")] if record["headline"].value else []


def _figures(record: Quote, file: str) -> list[Any]:
    out = []
    for spec in record["figures"]:
        svg = summary_figure(spec, record["rows"])
        caption: Inline = [spec["title"]] if spec["title"].value else [f"From `{file}`."]
        out += [Figure(svg, caption)] if svg else []
    return out


def _notes(record: Quote) -> list[Any]:
    notes = [[ref] for ref in record["notes"]]
    return [Bullets(notes)] if notes else []


def records_blocks(source: EvidenceFolder, pattern: str, named: str) -> list[Any]:
    files = [
        f for f in source.glob(pattern) if not f.endswith("manifest.json") and ".failed." not in f
    ]
    out: list[Any] = []
    for file in files:
        out += [Paragraph([in_code(file)], "file"), *_record(source.open(file), file)]
    return out or [missing(named)]


def _record(record: Quote, file: str) -> list[Any]:
    out, metrics = _headline(record), record["metrics"]
    table: Table | None
    if any(is_metric(ref.value) for _, ref in metrics.items()):
        table = metrics_table(metrics)
        names = ("kind", "subject", "recipe", "recipe_hash")
        who = [record[key] for key in names if record[key].value]
        line: Inline = [part for ref in who for part in (", ", ref.name(), " ", ref)]
        out.append(Paragraph(line[1:]) if line else Paragraph(["Measured values:"]))
    else:
        table = facts_table(record)
    out += [table] if table else []
    for key in ("rows", "pool"):
        rows = rows_table(record[key], record["columns"])
        out += [rows] if rows else []
    out += _figures(record, file)
    matrix = record["pairwise"]["pwmcc"]
    if isinstance(matrix.value, list) and matrix.value and len(matrix.value) <= 16:
        labels = [str(v) for v in record["seeds"].value or range(len(matrix.value))]
        out.append(Figure(heat_map(matrix.value, labels), [f"PWMCC between seeds, `{file}`."]))
    return [*out, *_notes(record)]


def selftest_blocks(source: EvidenceFolder) -> list[Any]:
    test = source.open(SELFTEST)
    if not test.exists:
        return [missing(SELFTEST, "run husai gate selftest")]
    return [*_record(test, SELFTEST), *_certificates(source)]


def passport_blocks(source: EvidenceFolder) -> list[Any]:
    """Certified latents of every SAE, with the page that has them one by one."""
    record = source.open(PASSPORT)
    if not record.exists:
        return [missing(PASSPORT, "run husai passport")]
    return [
        Paragraph(["Every latent, with the text it fires on: [passport.html](passport.html)."]),
        rows_table(record["saes"], record["columns"]),
    ]


def _certificates(source: EvidenceFolder) -> list[Any]:
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

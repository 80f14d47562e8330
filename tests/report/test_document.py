"""Quoted values, JSON pointers, number formats and tables of the report."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from husai.errors import HusaiError
from husai.report.document import Paragraph, Report, ReportSection, markdown
from husai.report.quotes import (
    EvidenceFolder,
    Quote,
    escape_pointer,
    format_value,
    resolve_pointer,
    unescape_pointer,
)
from husai.report.tables import compare_table, facts_table, metric_cell, metrics_table, rows_table
from husai.shown import escape_markdown

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def text_of(inline):
    """Inline content as plain text."""
    return "".join(part if isinstance(part, str) else part.text for part in inline)


def every_ref(ref):
    """A cursor and all cursors below it."""
    yield ref
    for _, child in ref.items():
        yield from every_ref(child)
    for child in ref:
        yield from every_ref(child)


@given(JSON)
def test_the_pointer_of_every_cursor_leads_back_to_its_value(value):
    for ref in every_ref(Quote("f.json", value)):
        assert resolve_pointer(value, ref.pointer) is ref.value


@given(st.text())
def test_pointer_tokens_survive_escaping(token):
    assert unescape_pointer(escape_pointer(token)) == token


def test_pointers_follow_the_examples_of_rfc_6901():
    example = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8}
    assert [resolve_pointer(example, p) for p in ("/foo/0", "/", "/a~1b", "/m~0n")] == [
        "bar",
        0,
        1,
        8,
    ]
    with pytest.raises(KeyError):
        resolve_pointer(example, "/foo/2")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7356815833597771, "0.7357"),
        (6.183199584486321e-05, "6.183e-05"),
        (1024, "1024"),
        (334092, "334092"),
        (0.0, "0"),
        (None, "missing"),
        (True, "yes"),
        (float("-inf"), "-inf"),
        (float("nan"), "missing"),
        ([42, 123], "42, 123"),
        ("two\nlines", "two lines"),
    ],
)
def test_values_print_to_four_significant_digits_and_integers_in_full(value, text):
    assert format_value(value) == text


def test_an_absent_bound_is_unbounded_and_an_absent_interval_is_said():
    metric = {"value": 0.25, "lcb": None, "ucb": 0.5, "n": 3, "method": "t"}
    assert text_of(metric_cell(Quote("f", metric))) == "0.25 [-inf, 0.5]"
    assert text_of(metric_cell(Quote("f", {**metric, "ucb": None}))) == "0.25 (no interval)"
    undefined = {
        "value": None,
        "lcb": None,
        "ucb": None,
        "n": 5,
        "method": "not assessable: null 0.909",
    }
    assert text_of(metric_cell(Quote("f", undefined))) == "not assessable: null 0.909"
    assert text_of(metric_cell(Quote("f", {**metric, "value": None}))) == "missing [-inf, 0.5]"


def test_a_value_has_two_digits_of_its_half_width():
    half = {"value": -0.010999, "lcb": -0.19911, "ucb": 0.17711}
    assert text_of(metric_cell(Quote("f", half))) == "-0.01 [-0.20, 0.18]"
    exact = {"value": 4.0, "lcb": 4.0, "ucb": 4.0}
    assert text_of(metric_cell(Quote("f", exact))) == "4 [4, 4]"
    tiny = {"value": 2e-9, "lcb": 1e-9, "ucb": 3e-9}
    assert text_of(metric_cell(Quote("f", tiny))) == "2e-09 [1e-09, 3e-09]"


def test_rows_use_the_named_columns_and_leave_a_cell_empty_where_a_row_has_none():
    rows = Quote(
        "f", {"columns": ["k", "fit.ev"], "rows": [{"k": 4, "fit": {"ev": 0.91239}}, {"k": 8}]}
    )
    table = rows_table(rows["rows"], rows["columns"])
    assert [[text_of(cell) for cell in row] for row in [table.header, *table.rows]] == [
        ["k", "fit.ev"],
        ["4", "0.9124"],
        ["8", "–"],
    ]


def test_rows_without_named_columns_show_every_printable_key():
    table = rows_table(Quote("f", [{"a": 1, "inner": {"b": 2.5}}, {"c": "x"}]))
    assert [text_of(cell) for cell in table.header] == ["a", "inner b", "c"]


def test_metrics_and_facts_tables_print_all_leaves():
    record = Quote(
        "f",
        {
            "metrics": {
                "S": {"value": 0.5, "lcb": 0.25, "ucb": 0.75, "n": 8, "method": "jackknife-t"}
            },
            "score": 0.125,
        },
    )
    assert [text_of(c) for c in metrics_table(record["metrics"]).rows[0]] == [
        "S",
        "0.50",
        "[0.25, 0.75]",
        "8",
        "jackknife-t",
    ]
    assert [[text_of(c) for c in row] for row in facts_table(record).rows] == [
        ["metrics S", "0.50 [0.25, 0.75]"],
        ["score", "0.125"],
    ]


@given(st.lists(JSON, min_size=1, max_size=4))
def test_every_quote_is_listed_with_the_line_it_stands_on(values):
    refs = [Quote("f.json", values)[i] for i in range(len(values))]
    sections = [ReportSection("A part", [Paragraph(["is ", ref, "."]) for ref in refs])]
    text, numbers = markdown(Report(["status"], False, sections))
    lines = text.split("\n")
    assert len(numbers) == len(values)
    for ref, entry in zip(refs, numbers, strict=True):
        assert (entry["file"], entry["pointer"], entry["value"]) == (
            "f.json",
            ref.pointer,
            ref.value,
        )
        assert escape_markdown(entry["text"]) in lines[entry["line"] - 1]


@given(st.text(alphabet="ab_|*`<>[]():\\x", max_size=12))
def test_escaped_text_cannot_break_a_table_or_open_markup(text):
    assert not re.search(r"(?<!\\)(?:\\\\)*(?:[|*`]|\][(\[:])", escape_markdown(text))


def test_a_missing_file_gives_an_empty_cursor_and_a_broken_one_an_error(tmp_path):
    source = EvidenceFolder(tmp_path)
    assert not source.open("results/x.json")["a"]["b"].exists
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(HusaiError, match=r"x\.json: not readable"):
        source.open("x.json")


def test_a_value_that_json_cannot_hold_is_quoted_as_missing():
    assert Quote("f", json.loads('{"x": NaN}'))["x"].text == "missing"


def test_records_side_by_side_have_a_row_for_every_quantity_of_any():
    table = compare_table(
        [Quote("a.json", {"subject": "modular", "loss": 0.5}), Quote("b.json", {"accuracy": 1})]
    )
    shown = [[text_of(cell) for cell in row] for row in [table.header, *table.rows]]
    assert shown == [
        ["quantity", "modular", "`b.json`"],
        ["loss", "0.5", "–"],
        ["accuracy", "–", "1"],
    ]

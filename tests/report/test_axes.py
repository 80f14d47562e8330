"""The scaling table by axis."""

from husai.evidence import Metric
from husai.report.axes import axis_tables
from husai.report.summary import summary_markdown


def condition(n_rows, hook_name, auc):
    return {
        "n_rows": n_rows,
        "hook_name": hook_name,
        "d_sae": 256,
        "auc": Metric(auc, auc - 1, auc + 1, 3, "jackknife-t"),
    }


GRID = [
    condition(20, "a", 0.60),
    condition(80, "a", 0.64),
    condition(20, "b", 0.70),
    condition(80, "b", 0.80),
]


def test_conditions_that_share_a_value_are_averaged_with_their_range():
    by_rows, by_hook = axis_tables(GRID, ("n_rows", "hook_name", "d_sae"), ("auc",))
    assert (by_rows["axis"], by_hook["axis"]) == ("n_rows", "hook_name")
    first = by_rows["rows"][0]
    assert (first["n_rows"], first["conditions"]) == (20, 2)
    assert [round(getattr(first["auc"], key), 12) for key in ("value", "lcb", "ucb", "n")] == [
        0.65,
        0.6,
        0.7,
        2,
    ]
    assert [round(row["auc"].value, 12) for row in by_hook["rows"]] == [0.62, 0.75]


def test_an_axis_of_one_value_has_no_table():
    assert axis_tables(GRID[:1], ("n_rows", "hook_name", "d_sae"), ("auc",)) == []


def test_every_axis_is_a_table_of_the_markdown_page():
    page = summary_markdown(
        {
            "stage": "scaling",
            "headline": "h",
            "columns": ["n_rows", "auc"],
            "rows": GRID,
            "notes": ["n"],
            "axes": axis_tables(GRID, ("n_rows", "hook_name"), ("auc",)),
        }
    )
    assert "## By n_rows" in page and "## By hook_name" in page
    assert "| 80 | 2 | 0.72 [0.64, 0.8] |" in page
    assert page.rstrip().endswith("- n")


def test_what_a_summary_quotes_stays_text():
    row = {"condition": "a|b\n<script>", "auc": 0.5}
    page = summary_markdown(
        {
            "stage": "scaling",
            "headline": "[click](http://x)\n# Forged",
            "columns": ["condition", "auc"],
            "rows": [row],
            "notes": ["one\n\n# two <img src=x>"],
        }
    )
    lines = page.splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# Scaling"]
    assert r"| a\|b \<script> | 0.5 |" in lines
    assert r"[click\](http://x) # Forged" in lines and r"- one # two \<img src=x>" in lines

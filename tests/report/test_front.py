"""The first screen: a verdict in one sentence, a plain question per gate with its margin and what
would have to change, the candidates, and words that are explained.
"""

import json
import re

import pytest
import report_tree

from husai.evidence import Metric
from husai.gate import load_policy
from husai.gate.decision import Row
from husai.provenance import write_json
from husai.report.document import Figure, Table
from husai.report.front.candidates import FRONTIER, SELECTED, candidates_section
from husai.report.front.verdict import bar, verdict_section
from husai.report.front.words import _tables, meaning, question
from husai.report.quotes import EvidenceFolder, Quote
from husai.report.render import render


def text_of(inline):
    return "".join(part.text if isinstance(part, Quote) else part for part in inline)


@pytest.fixture
def strict(tmp_path):
    def judged(rows):
        report_tree.decision(tmp_path, rows)
        return verdict_section(
            EvidenceFolder(tmp_path).open("results/gate/strict/release_policy.json")
        )

    return judged


def rows_of(section):
    return [
        [text_of(c) for c in row] for b in section.blocks if isinstance(b, Table) for row in b.rows
    ]


def test_the_verdict_is_one_sentence_that_counts_the_answers(strict):
    failed = strict(report_tree.STRICT_ROWS)
    assert text_of(failed.blocks[0].inline).startswith(
        "Do not use these SAEs as evidence about the model: 2 of the 5 questions below are answered no."
    )
    passed = strict([row for row in report_tree.STRICT_ROWS if row["passed"]])
    assert text_of(passed.blocks[0].inline) == (
        "These SAEs can be used as evidence about the model: each of the 4 questions below is "
        "answered yes."
    )
    nothing = verdict_section(Quote("f", None, exists=False))
    assert text_of(nothing.blocks[0].inline) == "Nothing was decided yet."


def test_a_gate_is_a_question_with_its_narrowest_margin_and_what_would_have_to_change(strict):
    rows = rows_of(strict(report_tree.STRICT_ROWS))
    assert rows[1] == [
        "Does training again with another seed find the same features? (reproducibility)",
        "**no**",
        "-0.15",  # (0.2541 - 0.3) / 0.3
        "agreement between seeds, above chance is not shown to be at least 0.3: "
        "measured 0.3127, but it may be 0.254",
    ]
    assert rows[0][1:] == ["yes", "+0.40", "nothing"], "(0.01 - 0.006) / 0.01, not 0.8 of the other"


@pytest.mark.parametrize(
    ("asked", "value", "lcb", "margin"),
    [
        ("lcb >= 0.5", 0.7, 0.6, 0.2),
        ("point <= 0.1", 0.05, None, 0.5),
        ("lcb >= -0.02", 0.0, -0.03, -0.5),
        ("lcb > 0", 0.2, 0.1, 2.0),
        ("lcb > 0", None, None, None),
        ("", 1.0, None, None),
    ],
)
def test_margins_are_in_units_of_the_threshold_and_positive_where_it_is_met(
    asked, value, lcb, margin
):
    row = Row("g", "c", value, lcb, None, 8, asked, False, "")
    assert row.margin == (margin if margin is None else pytest.approx(margin))


def test_a_condition_that_was_not_measured_says_so(strict):
    missing = {**report_tree.STRICT_ROWS[4], "value": None, "lcb": None, "ucb": None}
    missing |= {"passed": False, "reason": "is missing"}
    assert rows_of(strict([missing]))[0][1:] == [
        "**no**",
        "–",
        "agreement above that of SAEs of a randomised model (lower bound) is missing",
    ]


def test_what_is_met_on_too_few_seeds_has_no_margin_and_is_named_once(strict):
    few = "= 0.5 meets >= 0.3, but rests on 3 seeds where 8 are needed"
    row = {**report_tree.STRICT_ROWS[4], "value": 0.6, "lcb": 0.5, "ucb": 0.7, "passed": False}
    row |= {"asked": "lcb >= 0.3", "reason": few}
    assert rows_of(strict([row, {**row, "condition": "random_model.other lcb"}]))[0][1:] == [
        "**no**",
        "–",
        f"agreement above that of SAEs of a randomised model (lower bound) {few}",
    ]
    low = {**row, "value": 0.1, "lcb": 0.0, "ucb": 0.2, "reason": "fails"}
    assert "has to rise from 0" in rows_of(strict([low]))[0][3]


def test_the_bar_ends_at_one(strict):
    widths = [re.findall(r"width='([\d.]+)' height='6'", bar(m, True)) for m in (0.5, 1.0, 40.0)]
    assert widths == [["28.0"], ["56.0"], ["56.0"]]
    assert "x='32.0'" in bar(-0.5, False)


def test_every_gate_and_quantity_of_the_shipped_policies_is_in_the_glossary():
    for name in ("strict", "cycle3"):
        gates = load_policy(name).gates
        assert not [g.name for g in gates if g.name not in _tables()[1]], "docs/glossary.md"
    quantities = {c.name for gate in load_policy("strict").gates for c in gate.conditions()}
    assert not [name for name in quantities if not meaning(name)], "docs/glossary.md"


def test_a_gate_of_somebody_s_own_policy_has_a_question_too():
    assert question("mine") == "Does what this gate asks hold?"


def frontier(root, rows):
    write_json(root / FRONTIER, {"rows": rows})
    write_json(root / SELECTED, {"recipe_hash": "b"})
    return candidates_section(EvidenceFolder(root))


def candidate(name, s, delta, faithfulness=0.7):
    return {
        "recipe": f"recipe-{name}",
        "recipe_hash": name,
        "S": Metric(s, s - 0.1, s + 0.1, 8, "t"),
        "delta_vs_frozen": Metric(delta, delta - 0.01, None, 8, "t"),
        "faithfulness": Metric(faithfulness, n=8),
    }


def test_candidates_are_a_picture_and_the_same_in_a_table(tmp_path):
    found = frontier(tmp_path, [candidate("a", 0.8, 0.01), candidate("b", 0.3, 0.05)])
    figure, table = found.blocks
    assert isinstance(figure, Figure)
    for words in ("recipe-a", "recipe-b", "faithfulness", "agreement between seeds"):
        assert words in figure.svg
    assert [text_of(row[-1]) for row in table.rows] == ["no", "yes"]
    assert text_of(table.rows[0][1]) == "0.80 [0.70, 0.90]"


def test_candidates_without_the_two_measures_are_listed_only(tmp_path):
    found = frontier(tmp_path, [{"recipe": "a", "explained_variance": 0.5}])
    assert [type(block) for block in found.blocks] == [Table]


def test_words_in_tables_are_explained_once_a_section(tmp_path):
    report_tree.build_in(tmp_path)
    page = render(tmp_path).html
    described = set(re.findall(r'aria-describedby="([^"]+)"', page))
    assert "w-S" in described
    assert described <= set(re.findall(r'<dd id="([^"]+)"', page))
    for section in page.split("<section ")[1:]:
        assert section.count('aria-describedby="w-S"') <= 1
    assert meaning("S") in render(tmp_path).markdown


def test_every_number_of_the_first_screen_is_listed(tmp_path):
    report_tree.build_in(tmp_path)
    rendered = render(tmp_path)
    lines = rendered.markdown.split("\n")
    at = next(i for i, line in enumerate(lines, 1) if "find the same features" in line)
    told = [n["text"] for n in rendered.numbers["numbers"] if n["line"] == at]
    assert {"-0.15", "0.254", "0.3"} <= set(told)
    assert json.dumps(rendered.numbers)

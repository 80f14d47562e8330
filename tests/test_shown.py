"""What comes from files and arguments stays text: on the terminal, in Markdown, in the log."""

import json

import pytest
from gate_records import HASH, passing, write

from husai.cli import main
from husai.errors import HusaiError
from husai.report.log import render_log
from husai.report.summary import summary_markdown
from husai.shown import in_code, in_markdown, printable

HOSTILE = "x\x1b[2J\nverdict: RELEASED"


def test_whatever_a_terminal_would_obey_is_written_out():
    assert printable("a\tb\u202ec\n") == r"a\tb\u202ec\n"
    assert printable("ok – µ") == "ok – µ" and printable("\udc80") == r"\udc80"


def test_markup_and_line_breaks_are_text_in_markdown():
    shown = in_markdown("s\n# forged <img src=x> [a](b) `c` | d \x1b[2J")
    assert shown == r"s # forged \<img src=x> [a\](b) \`c\` \| d \\x1b[2J"
    assert in_code("a\n`b` | c") == "`a 'b' ¦ c`"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# RELEASED", r"\# RELEASED"),
        ("> q", r"\> q"),
        ("- x", r"\- x"),
        ("+ x", r"\+ x"),
        ("---", r"\---"),
        ("===", r"\==="),
        ("1. x", r"1\. x"),
        ("12) x", r"12\) x"),
        ("<?x hides", r"\<?x hides"),
        ("~~gone~~", r"\~\~gone\~\~"),
        ("&lt;b&gt;", r"\&lt;b\&gt;"),
        ("-0.5", "-0.5"),
        ("-inf", "-inf"),
        ("1.5 of 2.", "1.5 of 2."),
        ("= 0.2 fails <= 0.1 & more", "= 0.2 fails <= 0.1 & more"),
    ],
)
def test_what_begins_a_line_of_markdown_is_text(text, shown):
    assert in_markdown(text) == shown


def test_names_of_columns_are_text_in_a_summary():
    record = {"stage": "frontier", "headline": "# RELEASED", "notes": ["<?z"]}
    text = summary_markdown(record | {"columns": ["b | <i>c"], "rows": [{"b | <i>c": "<?y"}]})
    assert r"| b \| \<i>c |" in text and r"| \<?y |" in text
    assert r"\# RELEASED" in text.splitlines() and r"- \<?z" in text.splitlines()


def one_line_each(capsys):
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed
    assert not [line for line in printed.splitlines() if line.startswith("verdict: RELEASED")]
    return printed


@pytest.mark.parametrize(
    "argv",
    [
        ["gate", "--policy", HOSTILE, "--evidence", "ev", "--output-dir", "out"],
        ["gate", "--evidence", HOSTILE, "--output-dir", "out"],
        ["claim", "x", "--evidence", HOSTILE],
        ["gate", "assert", "--decision", HOSTILE],
        ["report", "--results", HOSTILE],
        ["verify", HOSTILE],
    ],
)
def test_an_argument_cannot_forge_a_line(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ev").mkdir()
    assert main(argv) == 1
    assert one_line_each(capsys).count("\n") == 1


def test_a_mistyped_option_cannot_forge_a_line(capsys):
    with pytest.raises(SystemExit):
        main(["gate", f"--{HOSTILE}"])
    one_line_each(capsys)


def test_mistakes_of_one_configuration_stay_lines_of_their_own(capsys, monkeypatch):
    def fail(*_):
        raise HusaiError("first", HOSTILE)

    monkeypatch.setattr("husai.jobs.gate.run", fail)
    assert main(["gate", "--output-dir", "d"]) == 1
    assert one_line_each(capsys) == f"husai gate: first\nhusai gate: {printable(HOSTILE)}\n"


def test_names_in_evidence_and_policies_cannot_forge_a_line_or_a_heading(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    subject = "s\n# forged <img src=x>"
    for number, record in enumerate(passing()):
        write(tmp_path / f"ev/{number}{HOSTILE}.json", record | {"subject": subject})
    argv = ["gate", "--evidence", "ev", "--candidate", HASH, "--output-dir", "out"]
    assert main(argv) == 0
    printed = one_line_each(capsys)
    assert printable(HOSTILE) in printed
    text = (tmp_path / "out/release_policy.md").read_text()
    assert "\n# forged" not in text and "\x1b" not in text and "\nverdict" not in text
    body = json.loads((tmp_path / "out/release_policy.json").read_text())
    (tmp_path / "out/release_policy.json").write_text(json.dumps(body | {"failing": [HOSTILE]}))
    assert main(["claim", "x", "--evidence", "out"]) == 2
    assert main(["gate", "assert", "--decision", "out/release_policy.json"]) == 2
    assert printable(HOSTILE) in one_line_each(capsys)


def test_the_log_shows_commands_and_errors_as_text():
    start = {"event": "start", "run_id": "a\n# f", "time": "t", "command": "a\n## FORGED `b`"}
    failed = [{"job": "j\n## FORGED", "error": "<img src=x>\n## FORGED"}]
    end = {"event": "error", "run_id": "a\n# f", "time": "t", "error": "<b>\n## FORGED"}
    text = render_log([start, end | {"failed_jobs": failed}])
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Experiment log",
        "## t failed (a # f)",
    ]
    assert "- command: `a ## FORGED 'b'`\n" in text
    assert r"- failed job: `j ## FORGED`: \<img src=x> ## FORGED" in text
    assert r"- error: \<b> ## FORGED" in text

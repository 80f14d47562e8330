"""The command line: status 1 and one line for a mistake, 2 kept for a failed gate, help that says
what a verb reads, writes and costs.
"""

import json
import os
import subprocess
import sys

import pytest
from gate_records import frontier_record, write

from husai.cli import main, parser


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["gate", "--policy", "cycle3", "--external-mode", "both", "--output-dir", "d"],
            "husai gate: argument --external-mode: invalid choice",
        ),
        (
            ["select", "--frontier-results", "f.json"],
            "husai select: the following arguments are required: --output-dir",
        ),
        (["gate", "--fail-on-gate-fial"], "husai: unrecognized arguments: --fail-on-gate-fial"),
        (
            ["select", "--min-seeds", "-3", "--output-dir", "d"],
            "argument --min-seeds: expected a whole number of at least 1, got '-3'",
        ),
        (["gaet"], "husai: argument VERB: invalid choice: 'gaet'"),
        ([], "husai: the following arguments are required: VERB"),
        (
            ["gate", "selftest", "--spec", "{1}"],
            "husai gate: argument --spec: not JSON and not the name of a JSON file",
        ),
    ],
)
def test_a_mistyped_command_is_one_line_and_not_the_status_of_a_failed_gate(capsys, argv, message):
    with pytest.raises(SystemExit) as left:
        main(argv)
    printed = capsys.readouterr().err
    assert left.value.code == 1 and message in printed and printed.count("\n") == 1


def test_a_missing_file_is_one_line(capsys, tmp_path):
    assert (
        main(
            [
                "gate",
                "--policy",
                "cycle3",
                "--ood-results",
                str(tmp_path / "no.json"),
                "--output-dir",
                str(tmp_path / "d"),
            ]
        )
        == 1
    )
    printed = capsys.readouterr().err
    assert (
        printed.startswith("husai gate: ")
        and "no such file" in printed
        and printed.count("\n") == 1
    )
    assert not (tmp_path / "d").exists()


def test_select_and_gate_print_what_they_decided(capsys, tmp_path):
    records = [
        frontier_record(name, seed, 0.1 * seed, -1.0) for name in ("a", "b") for seed in (1, 2, 3)
    ]
    pool = write(tmp_path / "frontier.json", {"records": records})
    assert (
        main(
            [
                "select",
                "--policy",
                "cycle3",
                "--frontier-results",
                str(pool),
                "--output-dir",
                str(tmp_path),
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.startswith("selected a (score ")
    chosen = str(tmp_path / "selected_candidate.json")
    argv = [
        "gate",
        "--policy",
        "cycle3",
        "--external-candidate-json",
        chosen,
        "--output-dir",
        str(tmp_path / "gate"),
        "--fail-on-gate-fail",
    ]
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith(
        "policy cycle3: FAIL: random_model, external\nFAIL random_model: "
    )
    assert "husai gate: policy cycle3 failed: random_model, external" in printed.err


def test_official_looks_for_both_programs_unless_one_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "husai.official.preflight._probe",
        lambda *_: {"importable": False, "error": "absent", "version": None},
    )
    assert main(["official", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert [found["program"] for found in json.loads(printed.out)] == ["saebench", "cebench"]
    assert [line.split()[2] for line in printed.err.splitlines()] == [
        "saebench",
        "cebench",
    ] and "cannot run here" in printed.err
    assert main(["official", "--execute", "--out", str(tmp_path)]) == 1
    assert "--execute needs --program; give one of saebench, cebench" in capsys.readouterr().err


def test_an_option_given_again_adds_up(tmp_path):
    command = ["select", "--frontier-results", "a", "b", "--frontier-results", "c"]
    args = parser("select").parse_args([*command, "--output-dir", "d"])
    assert [str(p) for p in args.frontier_results] == ["a", "b", "c"]
    for name, command in choices().items():
        several = [a for a in command._actions if a.nargs in ("+", "*") and a.option_strings]
        assert all(type(a).__name__ == "_ExtendAction" for a in several), name


def test_a_reader_that_stops_early_is_one_line(tmp_path):
    records = [frontier_record("a", seed, 1.0, 1.0) for seed in range(5)]
    pool = write(tmp_path / "frontier.json", {"records": records})
    command = ["select", "--policy", "cycle3", "--frontier-results", str(pool)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "husai", *command, "--output-dir", str(tmp_path / "out")],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr.startswith("husai select: the reader of its output stopped")
    assert done.stderr.count("\n") == 1


def test_json_nested_too_deeply_is_one_line(capsys, tmp_path):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000 + "]" * 100_000)
    assert main(["claim", "x", "--evidence", str(deep)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["subject", "--spec", '{"p": ' + "1" * 400 + "}", "--out", str(tmp_path / "m.json")])
    assert "a whole number of 400 digits" in capsys.readouterr().err


def test_help_imports_no_job():
    code = (
        "import sys; from husai.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "found = [m for m in sys.modules if m.startswith(('husai.jobs', 'torch', 'pydantic'))]\n"
        "sys.exit(' '.join(found) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def choices():
    (verbs,) = (a.choices for a in parser()._actions if a.dest == "verb")
    return verbs


def test_every_verb_says_what_it_reads_writes_and_costs():
    verbs = choices()
    assert len(verbs) > 15
    for name, command in verbs.items():
        assert all(word in command.description for word in ("Reads ", "Writes ", "Costs ")), name

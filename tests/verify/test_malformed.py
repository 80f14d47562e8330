"""Files that were made to break their reader: no command opens a pipe or a device, and whatever is
malformed ends in one line that names the file, never in a traceback.
"""

import json
import os
import signal

import pytest
from gate_records import HASH

from husai.cli import main

DECISION = "results/gate/strict/release_policy.json"
COMMANDS = {
    "gate": [
        *("gate", "--evidence", "results/confirmation", "--candidate", HASH),
        *("--output-dir", "results/gate/strict"),
    ],
    "assert": ["gate", "assert", "--decision", DECISION],
    "claim": ["claim", "It holds.", "--evidence", "results/gate/strict"],
    "report": ["report"],
    "log": ["log"],
    "success": ["log", "--event", "success"],
    "verify": ["verify"],
}


@pytest.fixture
def command(run, monkeypatch, capsys):
    """Run a command in the run; what it printed and its status. What waits for a pipe is ended."""
    monkeypatch.chdir(run)

    def end(*_):
        raise TimeoutError("the command waits")

    def call(name):
        before = signal.signal(signal.SIGALRM, end)
        signal.alarm(60)
        try:
            status = main(COMMANDS[name])
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        return status, "".join(capsys.readouterr())

    return call


def device(path):
    path.symlink_to("/dev/zero")


def link_out(path):
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [os.mkfifo, device, link_out])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gate", "results/confirmation/odd.json"),
        ("report", "results/gate/strict/odd.json"),
        ("success", "results/stress/manifest.json"),
        ("verify", "results/stress/manifest.json"),
    ],
)
def test_what_is_no_plain_file_is_named_and_not_opened(command, run, make, name, file):
    make(run / file)
    status, printed = command(name)
    (line,) = [line for line in printed.splitlines() if "neither followed nor opened" in line]
    assert status == 1 and file in line


@pytest.mark.parametrize("make", [os.mkfifo, device])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("claim", DECISION),
        ("assert", DECISION),
        ("success", DECISION),
        ("log", "results/runs.jsonl"),
        ("gate", "results/confirmation/ledger.jsonl"),
        ("success", "results/runs.jsonl.lock"),
    ],
)
def test_a_file_that_a_command_needs_is_no_pipe(command, run, make, name, file):
    (run / file).unlink(missing_ok=True)
    make(run / file)
    status, printed = command(name)
    assert status == 1 and printed.count("\n") == 1
    assert file in printed and "neither followed nor opened" in printed


BROKEN = {
    "digits": b'{"a": ' + b"9" * 400 + b"}",
    "not UTF-8": b"\xff\xfe{",
    "deep and whole": b"[" * 900 + b"]" * 900,
    "half a character": b'{"a": "\\ud800"}\n',
    "a list": b"[1]\n",
    "an empty object": b"{}\n",
    "other types": b'{"gates": 5, "rows": [1], "outputs": [5], "inputs": 5, "seeds": 5, "saes": [5]}\n',
}
READ = [
    *((name, DECISION) for name in ("assert", "claim", "report", "success", "verify")),
    *((name, "results/confirmation/ledger.jsonl") for name in ("gate", "success", "verify")),
    *((name, "results/runs.jsonl") for name in ("log", "success", "verify")),
    *((name, "results/confirmation/stability.json") for name in ("gate", "report", "verify")),
    *((name, "results/ablations/manifest.json") for name in ("success", "verify")),
    ("success", "results/passport/passport.json"),
    *(("verify", f"reports/{name}") for name in ("numbers.json", "checksums.json")),
    *(("verify", f"reports/{name}") for name in ("manifest.json", "claims.jsonl")),
]


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize(("name", "file"), READ)
def test_a_malformed_file_is_named_in_a_line_and_never_a_traceback(
    command, run, name, file, content
):
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_bytes(content)
    status, printed = command(name)
    assert not status or file.rsplit("/")[-1] in printed


def edited(run, file, **changes):
    path = run / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["assert", "claim", "report", "success", "verify"])
@pytest.mark.parametrize(
    "change",
    [
        {"sources": [5]},
        {"failing": [1]},
        {"failing": [{}]},
        {"alpha": "x"},
        {"rows": [{"gate": "stability"}]},
        {"rows": [{"bound": 0}]},
        {"gates": {"pass_all": "yes"}},
        {"reasons": {"stability": 1}},
        {"confirmation": {"ledger": 5}},
    ],
    ids=str,
)
def test_a_decision_with_a_part_of_another_type_is_named(command, run, name, change):
    edited(run, DECISION, **change)
    status, printed = command(name)
    lines = [line for line in printed.splitlines() if f"{DECISION}: " in line]
    assert status == 1 and any("malformed" in line for line in lines)


@pytest.mark.parametrize("file", ["/dev/zero", "../../../outside.json", "results/none.json"])
def test_numbers_come_from_the_evidence_only(command, run, file):
    numbers = json.loads((run / "reports/numbers.json").read_text())["numbers"]
    edited(run, "reports/numbers.json", numbers=[numbers[0] | {"file": file}])
    status, printed = command("verify")
    assert status == 1 and "cannot be derived again" in printed


@pytest.mark.parametrize(
    "change", [{"line": 99_999}, {"line": "x"}, {"pointer": 5}, {"derive": []}]
)
def test_a_number_of_another_type_is_a_mismatch(command, run, change):
    numbers = json.loads((run / "reports/numbers.json").read_text())["numbers"]
    edited(run, "reports/numbers.json", numbers=[numbers[0] | change])
    status, printed = command("verify")
    assert status == 1 and "reports/numbers.json: " in printed

"""The ledger of attempts: what survives a kill, what counts as the same test, and which evidence is
that of the one attempt.
"""

import json
from multiprocessing import Process
from pathlib import Path

import derivable
import pytest
from derivable import SEEDS, attempt, write_confirmation
from gate_records import HASH

from husai.gate import evaluate, load_evidence, load_policy
from husai.gate.attempts import begin_confirmation, confirmation_family
from husai.gate.bounds import standing
from husai.gate.ledger import (
    CONFIRMATION_LEDGER,
    GateFailed,
    append,
    heads,
    ledger_head,
    read_ledger,
)
from husai.jobs.claim import claim_job
from husai.jobs.gate import gate_job
from husai.report.events import append_events, chain_breaks, read_events

STRICT = load_policy("strict")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_confirmation(tmp_path)


def measured(kind, **settings):
    """An entry that says something else of one kind."""
    said = settings and derivable.SPLIT | settings
    return {"measured": derivable.MEASURED | {kind: said or {"k": 1}}}


def reason(run):
    about = {"recipe_hash": HASH}
    records = load_evidence(run, recipe_hash=HASH)
    decision = evaluate(STRICT, records, about, **standing(STRICT, about))
    return next(row.reason for row in decision.rows if row.condition == "one_attempt")


def test_the_evidence_of_one_finished_attempt_holds(run):
    assert "holds 0 attempts of this candidate, 0 of them finished" in reason(run)
    attempt()
    assert reason(run) == "holds"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": list(range(100, 108))}, "has other seeds than the ledger's entry"),
        ({"stress_seeds": [1, 2, 3]}, "random_model.json has other seeds"),
        ({"measured": None}, "does not say what is measured"),
        ({"measured": {}}, "does not say what cebench is measured with"),
        (measured("saebench", penalty="l2"), "saebench.json was measured with other penalty than"),
        (measured("ood", ood=["x"]), "ood.json was measured with other ood than"),
        (measured("ood"), "other k, split than"),
        (
            {"roles": {"random_model": "another"}},
            "of another recipe than the ledger's random_model",
        ),
        ({"roles": {"frozen": "another"}}, "of another recipe than the ledger's frozen"),
    ],
)
def test_evidence_of_another_slice_is_not_that_of_the_attempt(run, changes, said):
    attempt(**changes)
    assert said in reason(run)


def test_evidence_on_other_weights_is_not_that_of_the_attempt(run, tmp_path):
    path = tmp_path / "results/confirmation/candidate/seed3/sae_weights.safetensors"
    kept = path.read_bytes()
    path.write_bytes(b"another training")
    attempt()
    path.write_bytes(kept)
    assert "does not rest on all SAEs that the attempt ended with" in reason(run)


@pytest.mark.parametrize("role", ["frozen", "random_model", "transcoder"])
def test_a_control_on_other_weights_is_not_that_of_the_attempt(run, tmp_path, role):
    path = tmp_path / f"results/confirmation/{role}/seed3/sae_weights.safetensors"
    kept = path.read_bytes()
    path.write_bytes(b"another training")
    attempt()
    path.write_bytes(kept)
    assert f"rests on other SAEs as {role} than the attempt ended with" in reason(run)


def test_an_entry_from_before_the_roles_were_noted_still_holds(run):
    noted = ("saebench", "cebench", "faithfulness", "ood")
    attempt(measured=dict.fromkeys(noted, derivable.SPLIT), roles=None)
    lines = CONFIRMATION_LEDGER.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    CONFIRMATION_LEDGER.unlink()
    del entries[0]["roles"], entries[1]["weights"]["random_model"]
    del entries[1]["weights"]["transcoder"]
    for entry in entries:
        append(CONFIRMATION_LEDGER, entry)
    assert reason(run) == "holds"


def test_a_second_attempt_and_a_forced_one_fail(run):
    attempt()
    begin_confirmation(HASH, seeds=SEEDS, data=["z"], force=True)
    assert "holds 2 attempts" in reason(run)


def test_a_model_under_another_name_is_the_same_model(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    for name, subject, model in (("a", "x", "m"), ("b", "y", "m"), ("c", "y", "n")):
        about = {"subject": subject, "model": model, "ledger": ledger}
        begin_confirmation(name, seeds=SEEDS, data=["one"], **about)
    assert [confirmation_family(name, ledger)["order"] for name in "abc"] == [1, 2, 1]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_last_line_that_was_cut_is_dropped_and_written_over(tmp_path, capsys, kept):
    path = tmp_path / "ledger.jsonl"
    for number in range(3):
        append(path, {"number": number})
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:kept]]))
    assert [e["number"] for e in read_ledger(path)] == [0, 1]
    assert "the last line was cut short" in capsys.readouterr().err
    append(path, {"number": 3})
    assert [e["number"] for e in read_ledger(path)] == [0, 1, 3]
    assert path.read_text().endswith("\n")


def test_the_gate_refuses_where_a_start_was_cut_short(run, tmp_path, capsys):
    attempt()
    whole = CONFIRMATION_LEDGER.read_text()
    second = begin_confirmation(HASH, seeds=SEEDS, data=["z"], force=True)
    line = json.dumps(second, sort_keys=True)
    ask = {"evidence": run, "candidate": HASH, "output_dir": "results/gate/strict"}
    for kept in (len(line) - 5, line.index('"event"') + 12, 20):
        CONFIRMATION_LEDGER.write_text(whole + line[:kept])
        with pytest.raises(GateFailed, match="cut short and may be the start of an attempt"):
            gate_job("strict", **ask)
        assert read_ledger(CONFIRMATION_LEDGER) and "cut short" in capsys.readouterr().err
    CONFIRMATION_LEDGER.write_text(whole)
    assert gate_job("strict", **ask).pass_all
    CONFIRMATION_LEDGER.write_text(whole + line[:20])
    with pytest.raises(GateFailed, match="cut short and may be the start of an attempt"):
        claim_job("It holds.", "results/gate/strict")


def test_the_head_covers_all_that_was_there(tmp_path):
    path = tmp_path / "ledger.jsonl"
    assert ledger_head(path) == {"entries": 0, "sha256": ""}
    for number in range(3):
        append(path, {"number": number})
    head = ledger_head(path)
    append(path, {"number": 4})
    assert head["entries"] == 3 and head in heads(path) and head != ledger_head(path)
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:2]))
    assert head not in heads(path)


def one_event(folder, number):
    event = {"run_id": f"run {number}", "event": "start", "time": "now"}
    append_events(folder / "results", folder / "reports", [event])


def test_writers_side_by_side_lose_no_event(tmp_path):
    for folder in ("results", "reports"):
        (tmp_path / folder).mkdir()
    writers = [Process(target=one_event, args=(tmp_path, n)) for n in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    path = tmp_path / "results/runs.jsonl"
    assert len(read_events(path)) == 6 and chain_breaks(path) == []


def test_verify_notices_a_ledger_that_was_begun_anew(run, tmp_path):
    from husai.verify.decision import check_decisions
    from husai.verify.findings import Findings

    attempt()
    gate_job("strict", evidence=run, candidate=HASH, output_dir="results/gate/strict")
    body = json.loads(Path("results/gate/strict/release_policy.json").read_text())
    assert body["confirmation"]["ledger"] == ledger_head(CONFIRMATION_LEDGER)
    append(CONFIRMATION_LEDGER, {"event": "started", "config_hash": "later"})
    found = Findings(tmp_path)
    check_decisions(found)
    assert found.mismatches == []
    CONFIRMATION_LEDGER.unlink()
    attempt(data=["y"])
    check_decisions(found)
    assert any("it was cut or begun anew" in line for line in found.mismatches)

"""Strict from files to claim: hashes are verified, one confirmation per candidate, and no claim
without a passing gate.
"""

import json

import pytest
from derivable import attempt, write_confirmation
from gate_records import HASH, write

from husai.errors import HusaiError
from husai.gate import load_evidence
from husai.gate.attempts import begin_confirmation, confirmation_status, finish_confirmation
from husai.gate.ledger import GateFailed, append, heads, ledger_head, read_ledger
from husai.jobs.claim import claim_job
from husai.jobs.gate import gate_job
from husai.jobs.gate_assert import gate_assert_job
from husai.provenance import sha256_file


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's evidence on disk, all of it derived."""
    monkeypatch.chdir(tmp_path)
    outputs = [
        {"path": path.name, "sha256": sha256_file(path)} for path in write_confirmation(tmp_path)
    ]
    attempt()
    write(tmp_path / "results/confirmation/manifest.json", {"outputs": outputs})
    write(tmp_path / "results/confirmation/notes.json", {"schema": "something else"})
    write(
        tmp_path / "candidate.json",
        {"condition": "topk-d1024-k32", "recipe_hash": HASH, "recipe": {"architecture": "topk"}},
    )
    return tmp_path


def decide(**options):
    return gate_job(
        "strict",
        evidence=["results/confirmation"],
        candidate="candidate.json",
        output_dir="results/gate/strict",
        **options,
    )


def test_a_run_that_passes_may_claim(run):
    assert decide().pass_all
    entry = claim_job("Features of  topk are\nreproducible.", "results/gate/strict")
    assert entry["claim"] == "Features of topk are reproducible." and len(entry["evidence"]) == 9
    claim_job("Another.", "results/gate/strict/release_policy.json")
    assert [e["claim"] for e in read_ledger("reports/claims.jsonl")] == [entry["claim"], "Another."]
    assert gate_assert_job("results/gate/strict/release_policy.json")["pass_all"]


def test_a_changed_input_fails_every_gate_that_rests_on_it_and_names_the_file(run):
    decide()
    (run / "results/confirmation/candidate/seed0/sae_weights.safetensors").write_bytes(b"Weights")
    decision = decide()
    assert set(decision.failing) == set(decision.counted)
    assert "sae_weights.safetensors, whose sha256 has changed" in decision.reasons["ood"]
    (run / "results/confirmation/candidate/seed0/sae_weights.safetensors").unlink()
    assert "sae_weights.safetensors, which is not there" in decide().reasons["cebench"]


def test_a_flipped_byte_in_the_evidence_itself(run):
    path = run / "results/confirmation/ood.json"
    path.write_text(path.read_text().replace("0.01", "0.00", 1))
    decision = decide()
    assert (
        set(decision.failing) == {"integrity", "ood"}
        and "results/confirmation/ood.json has changed" in decision.reasons["ood"]
    )
    path.write_text(path.read_text()[:-5])
    assert "ood.json is not readable" in decide().reasons["integrity"]


def test_refused_claims_exit_two_and_write_nothing(run):
    with pytest.raises(HusaiError, match="no such file"):
        claim_job("x", "results/gate/strict/release_policy.json")
    decide()
    path = run / "results/gate/strict/release_policy.json"
    decision = json.loads(path.read_text())
    for change, part in (
        ({"policy": "cycle3"}, "not a decision of the strict policy"),
        ({"policy_sha256": "0" * 64}, "not a decision of the strict policy"),
        ({"gates": {"ood": False, "pass_all": False}, "failing": ["ood"]}, "failing gates: ood"),
        ({"sources": []}, "names no evidence"),
        ({"sources": ["results/none.json"]}, "results/none.json, which is not there"),
    ):
        write(path, decision | change)
        with pytest.raises(GateFailed, match=part) as error:
            claim_job("x", path)
        assert error.value.exit_status == 2
    write(path, decision)
    with pytest.raises(HusaiError, match="statement is empty"):
        claim_job("  ", path)
    assert not (run / "reports/claims.jsonl").exists()


def test_a_decision_edited_to_pass_is_refused(run):
    record = json.loads((run / "results/confirmation/ood.json").read_text())
    record["metrics"]["excess_drop"] = {"value": 0.5, "lcb": 0.4, "ucb": 0.6, "n": 8, "method": "t"}
    write(run / "results/confirmation/ood.json", record)
    (run / "results/confirmation/manifest.json").unlink()
    assert decide().failing == ["integrity", "ood"]
    path = run / "results/gate/strict/release_policy.json"
    decision = json.loads(path.read_text())
    decision["gates"] |= {"ood": True, "pass_all": True}
    write(path, decision | {"failing": []})
    with pytest.raises(GateFailed, match="failing gates: integrity, ood"):
        claim_job("x", path)


def test_a_worse_record_beside_the_sources_is_judged_too(run):
    given = sorted(str(path) for path in (run / "results/confirmation").glob("*.json"))
    shown = json.loads((run / "results/confirmation/ood.json").read_text())
    shown["metrics"]["excess_drop"] |= {"value": 0.5, "lcb": 0.4, "ucb": 0.6}
    write(run / "results/confirmation/ood_again.json", shown)
    gate_job("strict", evidence=given, candidate="candidate.json", output_dir="out")
    with pytest.raises(GateFailed, match="failing gates: integrity, ood"):
        claim_job("x", "out")
    assert not (run / "reports/claims.jsonl").exists()


def test_a_candidate_renamed_in_the_decision_is_refused(run):
    decide()
    path = run / "results/gate/strict/release_policy.json"
    decision = json.loads(path.read_text())
    for change in ({"condition": "gpt"}, {"recipe": {"architecture": "relu"}}, {"score": 1.0}):
        write(path, decision | {"candidate": decision["candidate"] | change})
        with pytest.raises(GateFailed, match="candidate of another name"):
            claim_job("x", path)


def test_a_failed_decision_ends_the_run_with_two(run):
    (run / "results/confirmation/ood.json").unlink()
    decide()
    with pytest.raises(GateFailed, match="policy strict failed: ood"):
        gate_assert_job("results/gate/strict/release_policy.json")
    assert not gate_assert_job("results/gate/strict/release_policy.json", fail_on_gate_fail=False)[
        "pass_all"
    ]
    with pytest.raises(HusaiError, match=r"has no gates.pass_all"):
        gate_assert_job(write(run / "x.json", {}))


def test_candidates_may_be_named_by_hash(run):
    assert gate_job(
        "strict", evidence=["results/confirmation"], candidate=HASH, output_dir="out"
    ).pass_all
    assert not gate_job(
        "strict", evidence=["results/confirmation"], candidate="feedfeedfeedfeed", output_dir="out"
    ).pass_all
    with pytest.raises(HusaiError, match="no such candidate file"):
        gate_job(
            "strict", evidence=["results/confirmation"], candidate="none.json", output_dir="out"
        )
    with pytest.raises(HusaiError, match="no such evidence file or folder"):
        gate_job("strict", evidence=["results/none"], candidate=HASH, output_dir="out")


def test_files_that_hold_several_records(run):
    records = [
        json.loads(p.read_text())
        for p in sorted((run / "results/confirmation").glob("*.json"))
        if p.name not in ("manifest.json", "notes.json")
    ]
    for value in (records, {"evidence": records}):
        assert len(load_evidence([write(run / "all.json", value)])) == 8
    assert [e.problems for e in load_evidence(["all.json"])] == [()] * 8


SEEDS = list(range(100, 108))


def test_one_confirmation_per_candidate(tmp_path):
    ledger = tmp_path / "results/confirmation/ledger.jsonl"
    first = begin_confirmation("abc", seeds=SEEDS, data={"half": "confirm"}, ledger=ledger)
    assert (first["attempt"], first["forced"], first["resumed"]) == (1, False, False)
    assert begin_confirmation("abc", seeds=SEEDS[::-1], data={"half": "confirm"}, ledger=ledger)[
        "resumed"
    ]
    with pytest.raises(HusaiError, match="started with other seeds or data"):
        begin_confirmation(
            "abc", seeds=list(range(200, 208)), data={"half": "confirm"}, ledger=ledger
        )
    finish_confirmation("abc", 1, ledger, pass_all=False)
    with pytest.raises(HusaiError, match="one attempt per configuration"):
        begin_confirmation("abc", seeds=SEEDS, data={"half": "confirm"}, ledger=ledger)
    assert begin_confirmation("other", seeds=SEEDS, data=None, ledger=ledger)["attempt"] == 1
    forced = begin_confirmation("abc", seeds=SEEDS, data=None, force=True, ledger=ledger)
    assert (forced["attempt"], forced["forced"]) == (2, True)
    found = confirmation_status("abc", ledger)
    assert found.pop("ledger") == ledger_head(ledger) == heads(ledger)[-1]
    assert found == {"attempts": 2, "forced": True, "finished": 1}


def test_a_forced_confirmation_is_marked_in_the_decision(run):
    begin_confirmation(HASH, seeds=SEEDS, data="once more", force=True)
    decision = decide()
    assert decision.failing == ["integrity"]
    assert "holds 2 attempts of this candidate, 1 of them finished" in decision.reasons["integrity"]
    assert (
        json.loads((run / "results/gate/strict/release_policy.json").read_text())["confirmation"][
            "forced"
        ]
        is True
    )
    assert "**Forced**" in (run / "results/gate/strict/release_policy.md").read_text()


def test_confirmation_needs_fresh_seeds(tmp_path):
    with pytest.raises(HusaiError, match=r"seeds \[100\] were already used"):
        begin_confirmation(
            "a", seeds=SEEDS, data=None, selection_seeds=[1, 100], ledger=tmp_path / "l"
        )
    with pytest.raises(HusaiError, match="needs at least 8"):
        begin_confirmation("a", seeds=[1] * 8, data=None, ledger=tmp_path / "l")
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0].replace("1", "2"), *lines[1:]],
        lambda lines: ["{", *lines],
    ],
)
def test_an_edited_ledger_is_noticed(tmp_path, edit):
    path = tmp_path / "ledger.jsonl"
    for number in range(3):
        append(path, {"number": 1 + number})
    assert [e["number"] for e in read_ledger(path)] == [1, 2, 3]
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")
    with pytest.raises(HusaiError, match="append-only"):
        append(path, {"number": 4})

"""Verification of trees that were made to mislead: links, pipes, names that a terminal would obey,
claims without a decision, and runs with nothing to check.
"""

import json
import os

import pytest
import report_tree
from derivable import attempt, write_confirmation
from gate_records import HASH

from husai.errors import HusaiError
from husai.gate.ledger import append
from husai.jobs.claim import claim_job
from husai.jobs.gate import gate_job
from husai.jobs.verify import verify_job
from husai.provenance import NOT_OPENED
from husai.shown import printable
from husai.verify.claims import check_claims
from husai.verify.evidence import check_evidence
from husai.verify.findings import Findings
from husai.verify.run import verify


def link_to_a_file(path):
    path.symlink_to(path.parents[1] / "selection/selected_candidate.json")


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


def link_to_a_folder(path):
    path.symlink_to(path.parents[1] / "selection")


@pytest.mark.parametrize("make", [os.mkfifo, link_to_a_file, link_to_a_device, link_to_a_folder])
@pytest.mark.parametrize("folder", ["results/stress", "reports/evidence"])
def test_what_is_no_plain_file_is_named_and_never_opened(run, make, folder):
    make(run / folder / "odd.json")
    found = verify(run)
    (line,) = [m for m in found.mismatches if m.startswith(f"{folder}/odd.json: ")]
    assert "a link or no file at all; it was neither followed nor opened" in line
    assert "decisions made again" not in found.counts, "which might follow it"


def test_an_artifact_that_became_a_link_is_missing(run):
    path = run / "results/selection/selected_candidate.json"
    path.rename(run / "elsewhere.json")
    path.symlink_to(run / "elsewhere.json")
    lines = [m for m in verify(run).mismatches if m.startswith("results/selection/selected")]
    assert any("neither followed nor opened" in line for line in lines)
    assert any("missing; it was there when the run ended" in line for line in lines)


def test_a_name_cannot_forge_a_line_on_the_terminal(run, capsys):
    (run / "results/x\nverified: all; no mismatch\x1b[2K").write_text("x")
    verify_job(run)
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "written after the last run" in line]
    assert r"'results/x\nverified: all; no mismatch\x1b[2K'" in line
    assert "\x1b" not in out and out.splitlines()[-1].startswith("verified: ")
    assert printable("a\tb\u202ec") == r"a\tb\u202ec"


def test_without_an_index_or_with_nothing_to_check_nothing_is_verified(run, tmp_path):
    (run / "reports/checksums.json").unlink()
    with pytest.raises(HusaiError, match="1 mismatch"):
        verify_job(run)
    (tmp_path / "empty/results").mkdir(parents=True)
    with pytest.raises(HusaiError, match="mismatch"):
        verify_job(tmp_path / "empty")


def test_an_end_that_changes_from_run_to_run_leaves_verify_content(run):
    """The job that ends a run writes after the report; a copy of it would be the run before's."""
    with report_tree.inside(run):
        for passed in (True, False):
            (run / "results/gate/asserted.json").write_text(json.dumps({"pass_all": passed}))
            report_tree.finish(run.relative_to(run))
            (run / "results/gate/asserted.json").unlink()
            report_tree.finish(run.relative_to(run))
    assert verify(run).mismatches == []


@pytest.fixture
def passed(tmp_path, monkeypatch):
    """A confirmation that passes strict, decided and claimed."""
    monkeypatch.chdir(tmp_path)
    evidence = write_confirmation(tmp_path)
    attempt(trained_here=True)
    gate_job("strict", evidence=evidence, candidate=HASH, output_dir="results/gate/strict")
    claim_job("It holds.", "results/gate/strict")
    return tmp_path


def claims_of(root):
    found = Findings(root)
    check_claims(found)
    return found


def test_every_claim_is_judged_again(passed):
    assert (claims_of(passed).counts, claims_of(passed).mismatches) == (
        {"claims judged again": 1},
        [],
    )
    append("reports/claims.jsonl", {"claim": "Anything.", "decision": "results/none.json"})
    (line,) = claims_of(passed).mismatches
    assert line.startswith("reports/claims.jsonl: line 2 does not hold: ")


def test_a_claim_falls_with_its_evidence(passed):
    (passed / "results/confirmation/candidate/seed0/sae_weights.safetensors").write_bytes(b"other")
    (line,) = claims_of(passed).mismatches
    assert "line 1 does not hold" in line and "its evidence no longer does" in line


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"verdict": "RELEASED"}, "verdict is RELEASED but the evidence gives PASSED AS BROUGHT"),
        ({"subject": "gpt"}, "subject is gpt but the evidence gives language"),
        ({"candidate": {"recipe_hash": HASH, "recipe": "gpt"}}, "the claim about gpt"),
        ({"candidate": 7}, "the claim about unknown"),
        ({"policy_sha256": "0" * 64}, "policy_sha256 is 0000"),
        ({"evidence": []}, "its evidence does not name release_policy.json"),
        ({"evidence": [7]}, "does not hold"),
        ({"confirmation_ledger": None}, "names no head of the confirmation ledger"),
        ({"confirmation_ledger": {"entries": 9, "sha256": "f"}}, "cut or begun anew"),
    ],
)
def test_what_a_claim_says_is_judged_again(passed, change, named):
    path = passed / "reports/claims.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
    (line,) = claims_of(passed).mismatches
    assert line.startswith("reports/claims.jsonl: line 1 does not hold: ") and named in line


def test_a_claim_names_no_evidence_that_its_decision_does_not_rest_on(passed):
    path = passed / "reports/claims.jsonl"
    entry = json.loads(path.read_text())
    entry["evidence"].append({"path": "results/other.json", "sha256": "0" * 64})
    path.write_text(json.dumps(entry) + "\n")
    (line,) = claims_of(passed).mismatches
    assert "results/other.json, which results/gate/strict/release_policy.json does not" in line


def test_records_of_every_kind_are_derived_again(passed):
    found = Findings(passed)
    check_evidence(found)
    kinds = ("integrity", "stability", "random_model", "ood", "saebench", "cebench", "faithfulness")
    for kind in kinds:
        path = passed / f"results/confirmation/{kind}.json"
        record = json.loads(path.read_text())
        name = next(iter(record["metrics"]))
        record["metrics"][name] |= {"value": 0.123, "lcb": 0.1, "ucb": 0.2}
        path.write_text(json.dumps(record))
    found = Findings(passed)
    check_evidence(found)
    named = {m.split(": ")[0] for m in found.mismatches if " is 0.123 [" in m}
    assert named >= {f"results/confirmation/{kind}.json" for kind in kinds}


def test_a_record_of_one_sae_is_derived_again(passed):
    path = passed / "results/confirmation/external/candidate/seed1/faithfulness.json"
    record = json.loads(path.read_text())
    record["metrics"]["recovered"]["value"] = 0.99
    path.write_text(json.dumps(record))
    found = Findings(passed)
    check_evidence(found)
    assert any(
        m.startswith("results/confirmation/external/candidate/seed1/faithfulness.json: metric")
        for m in found.mismatches
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/proc/kmsg", "'/proc/kmsg': is special"),
        ("/proc/self/mem", "'/proc/self/mem': is special"),
        ("results/" + "x" * 5000, "cannot be read (File name too long)"),
        ("results/a\0b", "cannot be read (embedded null byte)"),
    ],
    ids=["waits", "memory", "long", "nul"],
)
def test_an_input_that_cannot_be_opened_is_a_mismatch(run, path, said):
    place = run / "results/confirmation/ood.json"
    record = {"inputs": [{"path": path, "sha256": "0" * 64}], "kind": "x"}
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(record))
    assert any(said in m for m in verify(run).mismatches)


def test_a_special_file_is_never_hashed(tmp_path):
    (tmp_path / "link").symlink_to("/proc/kmsg")
    found = Findings(tmp_path)
    assert found.sha256(tmp_path / "link") is None and found.sha256(tmp_path / "none") is None
    assert found.mismatches == [f"'{tmp_path}/link': {NOT_OPENED}"]
    assert found.locate("/" + "results/" + "x" * 5000).is_absolute()

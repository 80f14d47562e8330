"""Decisions are made again from the evidence they name: on the run itself, and from the evidence
copies alone.
"""

import shutil

import pytest
import report_tree
from derivable import attempt, write_confirmation
from gate_records import HASH

from husai.gate import evaluate, load_evidence, load_policy
from husai.gate.attempts import begin_confirmation
from husai.gate.bounds import standing
from husai.gate.policy_files import shipped_policies
from husai.jobs.gate import gate_job
from husai.provenance import read_json, write_json
from husai.verify.decision import _same, check_decisions
from husai.verify.findings import Findings
from husai.verify.run import verify


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = report_tree.build_in(tmp_path_factory.mktemp("run"))
    return report_tree.finish_in(report_tree.judge_in(root))


def test_a_real_decision_is_reported_and_made_again(original):
    found = verify(original)
    assert found.mismatches == []
    assert found.counts["decisions made again"] == 2
    assert (
        (original / "reports/gate_report.md")
        .read_text()
        .startswith("# NOT RELEASED: strict gate failed (")
    )


def test_the_evidence_copies_are_enough_to_make_it_again(original, tmp_path):
    shutil.copytree(original / "reports", tmp_path / "reports")
    found = verify(tmp_path)
    assert found.mismatches == []
    assert found.counts["decisions made again"] == 2


@pytest.mark.parametrize(("key", "value"), [("gates", {"pass_all": True}), ("metrics", None)])
def test_a_decision_that_its_evidence_does_not_give_is_named(original, tmp_path, key, value):
    root = tmp_path / "run"
    shutil.copytree(original, root)
    path = root / "results/gate/strict/release_policy.json"
    record = read_json(path)
    if key == "gates":
        record["gates"] = dict.fromkeys(record["gates"], True)
    else:
        record["metrics"]["stability.S"]["lcb"] = 0.9
    write_json(path, record)
    lines = [
        line
        for line in verify(root).mismatches
        if line.startswith("results/gate/strict/release_policy.json: ")
    ]
    assert any("but the evidence gives" in line for line in lines)


def test_a_decision_by_a_policy_file_is_made_again_although_the_file_is_gone(tmp_path):
    root = report_tree.judge_in(report_tree.build_in(tmp_path))
    text = (shipped_policies() / "strict.yaml").read_text()
    (root / "mine.yaml").write_text(text.replace("policy: strict", "policy: mine"))
    with report_tree.inside(root):
        gate_job(
            "mine.yaml",
            output_dir="results/gate/mine",
            evidence=["results/confirmation", "results/stress"],
            candidate=report_tree.HASH,
        )
    (root / "mine.yaml").unlink()
    report_tree.finish_in(root)
    for place in (root, root / "reports"):
        found = verify(place)
        assert found.mismatches == [] and found.counts["decisions made again"] == 3


DECIDED = "results/gate/strict/release_policy.json"


def named(root):
    """Mismatches of the strict decision, without the file's name."""
    lines = [line for line in verify(root).mismatches if line.startswith(f"{DECIDED}: ")]
    return "\n".join(line.removeprefix(f"{DECIDED}: ") for line in lines)


def test_a_released_decision_without_evidence_is_named_whatever_its_reasons_say(tmp_path):
    folder = tmp_path / "results/gate/strict"
    folder.mkdir(parents=True)
    shutil.copy(shipped_policies() / "strict.yaml", folder / "policy.yaml")
    body = evaluate(load_policy("strict"), [], "c0ffee").to_dict()
    body |= {"gates": dict.fromkeys(body["gates"], True), "verdict": "RELEASED", "failing": []}
    reason = "holds; it rests on the weights of 8 seeds"
    body["reasons"] = dict.fromkeys(body["reasons"], reason)
    body["rows"] = [row | {"passed": True, "reason": "holds"} for row in body["rows"]]
    write_json(folder / "release_policy.json", body)
    lines = named(tmp_path)
    assert "verdict is RELEASED but the evidence gives NOT RELEASED" in lines
    for gate in body["gates"]:
        assert f"gate {gate} is True but the evidence gives False" in lines
    assert "condition stability.S lcb of gate reproducibility was not judged" in lines


def test_strict_takes_no_options_from_the_decision(run):
    body = read_json(run / DECIDED)
    options = load_policy("strict").with_options(required=dict.fromkeys(body["failing"], False))
    about = body["candidate"]
    with report_tree.inside(run):
        sources = [s for s in body["sources"] if "ood" not in s]
        records = load_evidence(sources, recipe_hash=about["recipe_hash"])
        again = evaluate(options, records, about, **standing(options, about))
    assert again.gates["ood"]
    write_json(run / DECIDED, body | again.to_dict())
    assert "gate ood is True but the evidence gives False" in named(run)


def test_a_worse_record_beside_the_sources_is_not_left_out(run):
    worse = read_json(run / "results/stress/random_model.json")
    worse["metrics"]["delta_S"] |= {"value": -0.5, "lcb": -0.6, "ucb": -0.4}
    write_json(run / "results/stress/random_model_again.json", worse)
    assert "metric random_model.delta_S is" in named(run)


@pytest.fixture(scope="module")
def passing(tmp_path_factory):
    """A confirmation that passes strict, decided with the folder given."""
    root = tmp_path_factory.mktemp("passing")
    with report_tree.inside(root):
        write_confirmation(root)
        attempt(trained_here=True)
        gate_job(
            "strict",
            evidence=["results/confirmation"],
            candidate=HASH,
            output_dir="results/gate/strict",
        )
    assert read_json(root / DECIDED)["gates"]["pass_all"]
    return root


def spoiled(root, change):
    """Mismatches of the strict decision after ``change``; the decision is put back."""
    path = root / DECIDED
    body = read_json(path)
    try:
        write_json(path, change(read_json(path)) or body)
        found = Findings(root)
        check_decisions(found)
    finally:
        write_json(path, body)
    return "\n".join(found.mismatches)


def without(key):
    return lambda body: {name: value for name, value in body.items() if name != key}


def with_(key, **change):
    return lambda body: body | {key: body[key] | change}


def test_a_passing_decision_is_made_again_with_every_word(passing):
    assert spoiled(passing, lambda body: body) == ""


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda b: b | {"not_excluded": []}, "not_excluded is not what"),
        (lambda b: b | {"reasons": dict.fromkeys(b["reasons"], "fine")}, "reasons is not what"),
        (lambda b: b | {"subject": "gpt-oss-120b"}, "subject is gpt-oss-120b but"),
        (with_("candidate", recipe="another"), "candidate"),
        (with_("candidate", score=0.9), "it is about a candidate of another name than"),
        (with_("candidate", hook_name="blocks.99"), "candidate"),
        (with_("confirmation", attempts=0), "confirmation attempts is 0 but the ledger gives 1"),
        (with_("confirmation", order=7), "confirmation order is 7 but the ledger gives 1"),
        (with_("confirmation", forced=0), "confirmation forced is 0 but the ledger gives False"),
        (with_("confirmation", ledger=None), "malformed, confirmation"),
        (without("confirmation"), "confirmation, with the head of the ledger, is missing"),
        (without("alpha"), "alpha is not what"),
        (without("thresholds"), "threshold stability.S lcb >= is None but the policy says 0.3"),
        (without("inputs"), "inputs is missing"),
        (lambda b: b | {"inputs": b["inputs"][1:]}, "inputs do not name"),
        (lambda b: b | {"inputs": [7]}, "cannot be made again"),
        (without("provenance"), "provenance is missing"),
        (without("feasibility"), "feasibility is not what"),
        (without("verdict"), "malformed, verdict"),
        (lambda b: b | {"policy_changed": True}, "policy_changed is not what"),
        (with_("metrics", made_up=1.0), "metric made_up is 1.0 but the evidence gives None"),
        (with_("thresholds", made_up=1.0), "threshold made_up is 1.0 but the policy says None"),
        (
            lambda b: b | {"rows": [b["rows"][0] | {"value": -1.0}, *b["rows"]]},
            "was not judged as the evidence gives",
        ),
        (
            lambda b: b | {"rows": [row | {"reason": "ok"} for row in b["rows"]]},
            "was not judged as the evidence gives",
        ),
    ],
)
def test_a_word_that_the_evidence_does_not_give_is_named(passing, change, named):
    assert named in spoiled(passing, change)


def test_what_the_ledger_held_later_is_no_mismatch(passing, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(passing, root)
    with report_tree.inside(root):
        begin_confirmation("other", seeds=list(range(200, 208)), data=["x", "y"])
    assert spoiled(root, lambda body: body) == ""


def test_a_candidate_file_among_the_inputs_gives_the_names(passing, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(passing, root)
    recipe_hash = read_json(root / DECIDED)["candidate"]["recipe_hash"]
    named = {"condition": "topk-d1024-k32", "recipe_hash": recipe_hash, "score": 0.5}
    write_json(root / "candidate.json", named)
    with report_tree.inside(root):
        gate_job(
            "strict",
            evidence=["results/confirmation"],
            candidate="candidate.json",
            output_dir="results/gate/strict",
        )
    assert spoiled(root, lambda body: body) == ""
    assert "another name" in spoiled(root, with_("candidate", score=0.9))


def test_texts_agree_in_any_order_and_in_the_digits_that_they_show():
    assert _same("fails: a 0.12345; b", "fails: b; a 0.12346")
    assert not _same("fails: a 0.1234; b", "fails: a 0.2234; b")
    assert not _same("fails: a; b", "fails: a") and not _same("a", "b")
    assert not _same({"a": 1}, {"a": 1, "b": 2}) and not _same([1], [1, 1])
    assert not _same(True, 1) and not _same(None, 0.0) and _same(1, 1.0)

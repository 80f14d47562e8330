"""Decisions are made again from the evidence they name: on the run itself, and from the evidence
copies alone.
"""

import shutil

import pytest
import report_tree

from husai.gate import evaluate, load_evidence, load_policy
from husai.gate.bounds import standing
from husai.gate.policy_files import shipped_policies
from husai.jobs.gate import gate_job
from husai.provenance import read_json, write_json
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

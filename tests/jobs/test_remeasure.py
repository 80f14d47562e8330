"""What is measured again starts from what decisions rest on; no field of a record leads past it."""

import pytest
from derivable import attempt, write_confirmation
from gate_records import HASH

from husai.jobs import stability
from husai.jobs.gate import gate_job
from husai.jobs.remeasure import remeasure
from husai.provenance import read_json, write_json

GATED = "results/confirmation/stability.json"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = write_confirmation(tmp_path)
    attempt()
    for role in ("candidate", "random_model", "transcoder"):
        name = "" if role == "candidate" else f"/{role}"
        record = read_json(tmp_path / f"results/confirmation/stability{name}.json")
        monkeypatch.setitem(KNOWN, role, record)
    gate_job(
        "strict",
        output_dir="results/gate/strict",
        evidence=[path.relative_to(tmp_path) for path in paths],
        candidate=HASH,
    )
    monkeypatch.setattr(stability, "stability_job", lambda folder, *a, **k: KNOWN[folder.name])
    return tmp_path


KNOWN = {}
"""What the weights of each role give."""


def stability_lines(root):
    wrong, counts = remeasure(root, "cpu")
    return [line for line in wrong if "results/confirmation/stability" in line], counts


def test_everything_behind_a_decision_is_measured_again(run):
    lines, counts = stability_lines(run)
    assert lines == []
    assert counts == {
        "stability records again": 3,
        "OOD records again": 1,
        "SAEs spliced again": 16,
        "SAEs contrasted again": 16,
        "SAEs probed again": 24,
    }


def test_the_stability_record_that_the_gate_read_must_come_out_again(run):
    record = read_json(run / GATED)
    record["metrics"]["S"]["value"] += 0.05
    write_json(run / GATED, record | {"rows": 7, "split": "held_out", "phase": "other"})
    lines, _ = stability_lines(run)
    assert len(lines) == 1 and lines[0].startswith(f"{GATED}: metric S is ")


def test_a_record_that_rests_on_other_saes_than_its_ensembles_is_named(run):
    record = read_json(run / GATED)
    write_json(run / GATED, record | {"inputs": record["inputs"][1:]})
    assert f"{GATED}: does not rest on all SAEs of the ensembles" in stability_lines(run)[0][0]


def test_a_run_without_a_decision_has_nothing_that_could_be_measured_again(tmp_path):
    wrong, counts = remeasure(tmp_path)
    assert counts == {} and "no decision names evidence" in wrong[0]

"""The one form of a measured value: what a file says is what comes back, and what is wrong with
it."""

import json
import math
import subprocess
import sys

import pytest

from husai.evidence import Evidence, Metric, new_record, read_metric, records_in
from husai.provenance import finite, read_json, write_json


def test_a_metric_survives_a_file_unchanged(tmp_path):
    metrics = {
        "whole": Metric(0.5, 0.4, 0.6, 8, "jackknife-t"),
        "one seed": Metric(0.5),
        "bounds": Metric(
            0.5, 0.4, 0.6, 8, "crossed", bounds=({"alpha": 0.01, "lcb": 0.3, "ucb": 0.7},)
        ),
        "limited": Metric(-1.0, n=3, high=2.0, limit="its width"),
        "unknown": Metric(None, n=4, method="not known"),
    }
    write_json(tmp_path / "m.json", metrics)
    found = read_json(tmp_path / "m.json")
    assert found["one seed"] == {"value": 0.5, "lcb": None, "ucb": None, "n": 1, "method": "point"}
    assert found["limited"]["max"] == 2.0 and "min" not in found["limited"]
    assert {name: read_metric(entry) for name, entry in found.items()} == metrics


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (3.0, "is 3.0, not a metric"),
        ({"value": "0.5"}, "has value '0.5', not a number"),
        ({"value": True}, "has value True, not a number"),
        ({"value": math.nan}, "has value NaN"),
        ({"value": math.inf}, "has an infinite value"),
        ({"value": 0.5, "lcb": math.nan}, "has lcb NaN"),
        ({"value": 0.5, "lcb": 0.7, "ucb": 0.6}, "has lcb 0.7 above ucb 0.6"),
        ({"value": 0.5, "lcb": 0.6, "ucb": 0.7}, "outside its own interval"),
        ({"value": 0.5, "n": 0}, "has n 0, not a positive count"),
        ({"value": 0.5, "n": "8"}, "has n '8', not a positive count"),
    ],
)
def test_what_makes_a_metric_unusable_is_said(entry, problem):
    assert problem in read_metric(entry).problem


def test_a_missing_value_is_no_problem_but_no_number_either():
    found = read_metric({"value": None, "method": "not known"})
    assert (found.value, found.problem, found.method) == (None, "", "not known")
    assert (found.at("point"), found.at("lcb"), found.at("ucb")) == (None, -math.inf, math.inf)


def test_a_record_is_read_as_it_was_made(tmp_path):
    (tmp_path / "rows").write_text("x")
    made = new_record(
        "stability",
        "language",
        "topk",
        "hash",
        {"S": Metric(0.5, 0.4, 0.6, 8)},
        [tmp_path / "rows"],
        {"k": 3},
        [1, 2],
        phase="confirmation",
        rows=10,
    )
    found = Evidence.read(json.loads(json.dumps(finite(made))), "s.json")
    assert found.problems == () and found.metrics == made["metrics"]
    assert (found.kind, found.recipe_hash, found.phase) == ("stability", "hash", "confirmation")
    assert (found.n_seeds, found.config(), found.record["rows"]) == (2, {"k": 3}, 10)
    assert found.inputs[0]["path"].endswith("rows") and found.unnamed_inputs() == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": "other"}, "has schema 'other'"),
        ({"kind": ""}, "has no kind"),
        ({"recipe_hash": None}, "has no recipe_hash"),
        ({"metrics": []}, "has no metrics"),
        ({"provenance": {}}, "has no provenance with code_hash and config_hash"),
        ({"inputs": None}, "has no list of inputs"),
        ({"inputs": [{"path": "a", "sha256": "b"}]}, "has an input without path and sha256"),
        ({"status": "failed", "reason": "diverged"}, "failed: diverged"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(change, problem):
    sound = finite(new_record("ood", "language", "topk", "hash", {"x": Metric(1.0)}))
    assert Evidence.read(sound).problems == ()
    assert any(problem in p for p in Evidence.read({**sound, **change}).problems)


def test_anything_but_an_object_is_no_record():
    assert Evidence.read([1]).problems == ("is a list, not an evidence record",)
    assert records_in({"evidence": [{"schema": "husai.evidence/1"}, {"schema": "x"}, 3]}) == [
        {"schema": "husai.evidence/1"}
    ]
    assert records_in({"rows": []}) == []


def test_reading_evidence_needs_the_standard_library_only():
    code = (
        "import sys, husai.evidence; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pydantic', 'yaml')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

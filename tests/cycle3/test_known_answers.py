"""The ``cycle3`` policy on the original's artifacts: known decision, every mode, and what counts as
missing.
"""

import itertools
import json
import math
from pathlib import Path

import pytest
from gate_records import frontier_record, phase4a, record, write

from husai.cycle3.artifacts import (
    ExternalMetrics,
    external_metrics,
    first_number,
    ood_drop,
    phase4a_delta,
    transcoder_delta,
)
from husai.cycle3.importer import cycle3_evidence
from husai.cycle3.options import configured
from husai.errors import HusaiError
from husai.gate import evaluate, load_policy
from husai.gate.ledger import GateFailed
from husai.jobs.gate import gate_job, refuse_failed

EVIDENCE = Path(__file__).parents[3] / "shared" / "evidence" / "cycle3_queue_final"
RELU_42 = {"summary": {"best_minus_llm_auc": -0.017257680751151527}}
KNOWN_4A = phase4a(0.0012296229600906594, 0.299500371478498, 0.29943853948265314)


@pytest.fixture
def files(tmp_path):
    """Writer of an artifact; None stays None."""
    return lambda name, value: None if value is None else write(tmp_path / f"{name}.json", value)


@pytest.fixture
def decide(files, tmp_path):
    def run(
        phase4a_results=None, transcoder=None, ood=None, external=None, candidate=None, **options
    ):
        return gate_job(
            "cycle3",
            output_dir=tmp_path / "out",
            phase4a_results=files("4a", phase4a() if phase4a_results is None else phase4a_results),
            transcoder_results=files("transcoder", transcoder),
            ood_results=files("ood", ood),
            external_summary=files("external", external),
            external_candidate_json=files("candidate", candidate),
            ledger=tmp_path / "ledger.jsonl",
            **options,
        )

    return run


def test_known_decision_of_the_last_cycle(decide, tmp_path):
    """method.md section 4 [KAT]."""
    options = {"require_transcoder": True, "require_ood": True, "require_external": True}
    decision = decide(
        KNOWN_4A,
        {"delta": -0.002227966984113039},
        {"ood_drop": 0.01445406161520213},
        RELU_42,
        **options,
    )
    assert {
        k: decision.gates[k] for k in ("random_model", "transcoder", "ood", "external", "pass_all")
    } == {
        "random_model": True,
        "transcoder": False,
        "ood": True,
        "external": False,
        "pass_all": False,
    }
    written = json.loads((tmp_path / "out/release_policy.json").read_text())
    assert written["metrics"]["trained_random_delta"] == 0.0012296229600906594
    assert written["metrics"]["trained_random_delta_lcb"] == pytest.approx(
        6.183199584486321e-05, abs=1e-12
    )
    assert written["metrics"]["external_delta"] == -0.017257680751151527
    assert (
        written["thresholds"]["max_ood_drop"] == 0.1
        and written["thresholds"]["require_ood"] is True
    )
    assert (
        written["policy"] == "cycle3" and written["inputs"] and written["provenance"]["code_hash"]
    )


@pytest.mark.skipif(
    not EVIDENCE.is_dir(), reason="the original's evidence is not beside this checkout"
)
def test_known_decision_from_the_original_files(tmp_path):
    """The same from ``evidence/cycle3_queue_final`` itself, compared with the decision stored
    there.
    """
    frontier = json.loads(next(EVIDENCE.glob("frontier*.json")).read_text())
    relu = next(r for r in frontier["records"] if (r["architecture"], r["seed"]) == ("relu", 42))
    decision = gate_job(
        "cycle3",
        output_dir=tmp_path,
        phase4a_results=write(tmp_path / "4a.json", KNOWN_4A),
        transcoder_results=next(EVIDENCE.glob("transcoder*.json")),
        ood_results=next(EVIDENCE.glob("ood*.json")),
        external_summary=write(tmp_path / "relu.json", relu["saebench"]),
        require_transcoder=True,
        require_ood=True,
        require_external=True,
        ledger=tmp_path / "ledger.jsonl",
    )
    stored = json.loads(next(EVIDENCE.glob("release_policy*.json")).read_text())
    assert {k: decision.gates[k] for k in stored["gates"]} == stored["gates"]
    for name, value in stored["metrics"].items():
        assert decision.metrics[name] == pytest.approx(value, abs=1e-12)
    assert {k: decision.thresholds[k] for k in stored["thresholds"]} == stored["thresholds"]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (phase4a(0.0, 0.4, 0.4), True),
        (phase4a(-1e-9, 0.5, 0.4), False),
        (phase4a(0.1, 0.4, 0.400001), False),
        (phase4a(None), False),
        (phase4a(0.1, None), False),
        (phase4a(math.nan), False),
        (phase4a(0.1, math.nan), False),
        ({}, False),
        (phase4a(0.001, 0.9, 0.1), True),
    ],
)
def test_random_model_needs_both_numbers(decide, results, expected):
    assert decide(results).gates["random_model"] is expected


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("transcoder", {"delta": 0.0}, True),
        ("transcoder", {"delta": -1e-12}, False),
        ("transcoder", {"delta": math.nan}, False),
        ("transcoder", {"delta": "0.5"}, None),
        ("transcoder", {"delta": None, "transcoder_delta": 0.2}, True),
        ("transcoder", {"metrics": {"transcoder_delta": 0.0}}, True),
        ("transcoder", {"delta": 0.0, "transcoder_delta": -1.0}, True),
        ("transcoder", None, None),
        ("ood", {"ood_drop": 0.1}, True),
        ("ood", {"ood_drop": 0.10000001}, False),
        ("ood", {"ood_drop": 0.0, "relative_drop": 0.9}, True),
        ("ood", {"relative_drop": 0.9, "metrics": {"ood_drop": 0.0}}, False),
        ("ood", {"drop": 0.05}, True),
        ("ood", {"metrics": {"relative_drop": 0.3}}, False),
        ("ood", {"ood_drop": math.nan}, False),
        ("ood", {}, None),
    ],
)
def test_stress_gates(decide, kind, value, expected, required):
    decision = decide(**{kind: value}, **{f"require_{kind}": required})
    assert decision.gates[kind] is ((not required) if expected is None else expected)


def candidate(sae=None, ce=None, sae_lcb=None, ce_lcb=None):
    found = {"saebench_delta": sae, "cebench_interp_delta_vs_baseline": ce}
    found |= {
        "saebench_delta_ci95_low": sae_lcb,
        "cebench_interp_delta_vs_baseline_ci95_low": ce_lcb,
    }
    return {"metrics": {k: v for k, v in found.items() if v is not None}}


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("lcb", [True, False])
@pytest.mark.parametrize("mode", ["auto", "saebench", "cebench", "joint"])
@pytest.mark.parametrize(("sae", "ce"), list(itertools.product([None, -0.1, 0.0, 0.1], repeat=2)))
def test_external_truth_table(decide, mode, lcb, required, sae, ce):
    """method.md section 4: which values each mode asks for, and what a missing one means."""
    given = candidate(0.5, 0.5, sae, ce) if lcb else candidate(sae, ce)

    def holds(value):
        return (not required) if value is None else value >= 0

    if mode == "saebench":
        expected = holds(sae)
    elif mode == "cebench":
        expected = holds(ce)
    elif mode == "joint" or (sae is not None and ce is not None):
        expected = holds(sae) and holds(ce)
    elif lcb:
        expected = not required
    else:
        expected = holds(sae if sae is not None else ce)
    decision = decide(
        candidate=given, external_mode=mode, use_external_lcb=lcb, require_external=required
    )
    assert decision.gates["external"] is expected and decision.gates["pass_all"] is expected
    assert decision.gates["external_saebench"] is holds(sae) and decision.gates[
        "external_cebench"
    ] is holds(ce)


def test_bounds_without_points_are_judged_on_bounds(decide):
    given = candidate(None, None, 0.01, 0.0)
    assert decide(
        candidate=given, external_mode="joint", use_external_lcb=True, require_external=True
    ).gates["external"]
    assert not decide(candidate=given, external_mode="joint", require_external=True).gates[
        "external"
    ]


def test_nan_fails_even_where_nothing_is_required(decide):
    assert not decide(candidate=candidate(math.nan, 1.0)).gates["external"]
    assert not decide(candidate=candidate(1.0, 1.0, math.nan, 1.0), use_external_lcb=True).gates[
        "external"
    ]
    assert decide(candidate=candidate(1.0, 1.0, math.nan, 1.0)).gates["external"]


def test_the_candidate_outranks_the_summary(decide):
    assert decide(external={"best_minus_llm_auc": -1.0}, candidate=candidate(0.1, 0.1)).gates[
        "external"
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {"summary": {"best_minus_llm_auc": 0.0}, "best_minus_llm_auc": 5.0},
            ExternalMetrics(5.0, None, None, None, 0.0),
        ),
        (
            {"saebench_delta": 0.0, "external_delta": 0.3},
            ExternalMetrics(0.0, None, None, None, 0.3),
        ),
        (
            {"delta_vs_matched_baseline": {"interpretability_score_mean_max": -40.0}},
            ExternalMetrics(None, None, -40.0, None, -40.0),
        ),
        (
            {"delta_vs_matched_baseline": {"contrastive_score_mean_max": 0.0}},
            ExternalMetrics(None, None, None, None, 0.0),
        ),
        (
            {"delta_vs_matched_baseline": {"independent_score_mean_max": 2}},
            ExternalMetrics(None, None, None, None, 2.0),
        ),
        ({"metrics": {"cebench_delta": 1.5}}, ExternalMetrics(None, None, 1.5, None, 1.5)),
        (
            {
                "selected_candidate": {
                    "metrics": {"saebench_delta": 0.0, "saebench_delta_ci95_low": -0.1}
                }
            },
            ExternalMetrics(0.0, -0.1, None, None, 0.0),
        ),
        (
            {"metrics": {"saebench_delta": 0.1, "cebench_delta": -2.0}},
            ExternalMetrics(0.1, None, -2.0, None, 0.1),
        ),
        ({"external_delta": 0.0}, ExternalMetrics(None, None, None, None, 0.0)),
        ({"metrics": {"saebench_delta": True}}, ExternalMetrics()),
        ({}, ExternalMetrics()),
    ],
)
def test_external_keys_in_the_original_order(data, expected):
    assert external_metrics(data) == expected


def test_single_readers():
    assert phase4a_delta(KNOWN_4A) == (
        0.0012296229600906594,
        pytest.approx(6.183199584486321e-05, abs=1e-16),
    )
    assert transcoder_delta({"delta": 0.0, "metrics": {"delta": 1.0}}) == 0.0
    assert ood_drop({"drop": 0.0}) == 0.0 and ood_drop({}) is None
    assert first_number([None, "1", True, 0, 2]) == 0.0


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "holds a JSON list"),
        ('{"metrics": 3}', "'metrics' is 3"),
    ],
)
def test_malformed_artifacts_are_one_line_errors(tmp_path, content, part):
    path = tmp_path / "transcoder.json"
    path.write_text(content)
    with pytest.raises(HusaiError, match=part) as error:
        cycle3_evidence(transcoder=path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(HusaiError, match="no such file"):
        cycle3_evidence(ood=tmp_path / "none.json")


def test_a_threshold_out_of_reach_is_named_but_does_not_change_the_old_decision(decide):
    record = frontier_record("topk", 42, 0.1, -40.0)["cebench"]
    decision = decide(external=record, external_mode="cebench", require_external=True)
    assert (
        decision.unattainable == ["external", "external_cebench"] and not decision.gates["external"]
    )
    assert "ends at -15.98" in decision.reasons["external"]


def test_a_delta_above_its_own_bound_is_taken_as_the_original_took_it(decide):
    summary = frontier_record("topk", 42, 0.1, 1.0)["cebench"]
    decision = decide(external=summary, external_mode="cebench", require_external=True)
    assert decision.gates["external"] and decision.unattainable == []


def test_evidence_of_another_recipe_or_of_the_selection_counts_where_there_is_none_of_its_own():
    theirs = record("ood", {"ood_drop": 0.05}, "other", phase="selection", inputs=None)
    decision = evaluate(load_policy("cycle3"), [theirs], {"recipe_hash": "mine"})
    assert decision.gates["ood"] and decision.metrics["ood_drop"] == 0.05
    own = record("ood", {"ood_drop": 0.2}, "mine")
    assert not evaluate(load_policy("cycle3"), [theirs, own], {"recipe_hash": "mine"}).gates["ood"]


def test_exit_two_only_when_asked(decide, tmp_path):
    decision = decide({})
    assert not decision.pass_all
    with pytest.raises(GateFailed) as error:
        refuse_failed(decision, tmp_path / "out")
    assert error.value.exit_status == 2 and "random_model" in str(error.value)
    assert (
        (tmp_path / "out/release_policy.md")
        .read_text()
        .startswith("# Policy `cycle3`: FAIL: random_model")
    )


def test_options_that_do_not_fit():
    with pytest.raises(HusaiError, match="is not one of auto"):
        configured(load_policy("cycle3"), "both", False, {})
    with pytest.raises(HusaiError, match="has no external modes"):
        configured(load_policy("strict"), "joint", False, {})
    assert configured(
        load_policy("strict"), "auto", False, {"external": True, "ood": True}
    ) == load_policy("strict")
    with pytest.raises(HusaiError, match="judges evidence records of one candidate"):
        gate_job("strict", output_dir="x", ood_results="ood.json")
    with pytest.raises(HusaiError, match="nothing to judge"):
        gate_job("cycle3", output_dir="x")


def test_evidence_order_is_irrelevant(files):
    records = cycle3_evidence(
        files("4a", KNOWN_4A),
        files("t", {"delta": 1}),
        files("o", {"drop": 0.5}),
        files("e", RELU_42),
    )
    policy = load_policy("cycle3")
    assert evaluate(policy, records).to_dict() == evaluate(policy, records[::-1]).to_dict()

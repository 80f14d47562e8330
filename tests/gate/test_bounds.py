"""Several candidates confirmed on the same data: stricter bounds for each further one, never more
lenient than Holm, never looked at again.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from derivable import attempt, write_confirmation
from gate_records import HASH, passing, record, write
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from husai.errors import HusaiError
from husai.evidence import Metric, read_metric
from husai.gate import load_policy
from husai.gate.attempts import begin_confirmation, confirmation_family, finish_confirmation
from husai.gate.bounds import restate, standing
from husai.gate.evaluate import evaluate
from husai.gate.ledger import append
from husai.jobs.claim import claim_job
from husai.jobs.gate import gate_job
from husai.statistics import (
    crossed_interval,
    crossed_metric,
    holm,
    jackknife_difference,
    jackknife_t,
)
from husai.statistics.levels import FAMILY_ALPHA, STATED, candidate_alpha

STRICT = load_policy("strict")
SEEDS = list(range(100, 108))


def test_the_first_candidate_is_judged_as_ever_and_all_levels_sum_to_the_family_level():
    assert candidate_alpha(1) == 0.025
    assert sum(map(candidate_alpha, range(1, 10_000))) < FAMILY_ALPHA
    assert all(candidate_alpha(j) > candidate_alpha(j + 1) > 0 for j in range(1, 20))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=8))
def test_whatever_passes_at_its_level_holm_across_the_candidates_so_far_rejects_too(pvalues):
    for order in range(1, len(pvalues) + 1):
        if pvalues[order - 1] <= candidate_alpha(order):
            assert holm(pvalues[:order])[-1] <= FAMILY_ALPHA


def test_the_chance_that_any_of_many_null_candidates_passes_stays_at_five_percent():
    """Eight seeds, ten candidates one after another, each with mean exactly at the threshold;
    stopping at the first that passes.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 10, 8))
    t = values.mean(-1) / (values.std(-1, ddof=1) / math.sqrt(8))
    critical = np.array([stats.t.ppf(1 - candidate_alpha(j), 7) for j in range(1, 11)])
    rate = (t > critical).any(1).mean()
    unadjusted = (t > critical[0]).any(1).mean()
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert unadjusted > 0.15, "without the adjustment it would be several times as much"


@pytest.mark.parametrize("order", [2, 3, STATED])
def test_a_student_bound_is_the_one_that_the_data_give_at_that_level(order):
    alpha, rng = candidate_alpha(order), np.random.default_rng(order)
    pairwise = rng.normal(0.5, 0.1, size=(8, 8))
    for values in (rng.normal(size=8), (pairwise + pairwise.T) / 2):
        found = restate(jackknife_t(values), alpha)
        wanted = jackknife_t(values, confidence=1 - 2 * alpha)
        assert (found.lcb, found.ucb) == pytest.approx((wanted.lcb, wanted.ucb), rel=1e-9)
        assert found.value == wanted.value


def test_the_bound_of_a_difference_errs_to_the_safe_side():
    rng = np.random.default_rng(1)
    for scale in (0.1, 1.0, 10.0):
        a, b = rng.normal(size=8), rng.normal(scale=scale, size=5)
        entry = jackknife_difference(a, b)
        for order in range(2, 12):
            alpha = candidate_alpha(order)
            found, exact = (
                restate(read_metric(entry), alpha),
                jackknife_difference(a, b, confidence=1 - 2 * alpha),
            )
            assert found.lcb <= exact.lcb + 1e-12 and found.ucb >= exact.ucb - 1e-12


def test_crossed_metrics_state_their_bounds_for_further_candidates():
    rng = np.random.default_rng(2)
    table, families = rng.normal(0.1, 0.05, size=(8, 12)), list("aabbccddeeff")
    entry = crossed_metric(table, families)
    assert replace(entry, bounds=()) == crossed_interval(table, families)
    for order in range(2, STATED + 1):
        alpha = candidate_alpha(order)
        found, wanted = (
            restate(read_metric(entry), alpha),
            crossed_interval(table, families, confidence=1 - 2 * alpha),
        )
        assert (found.lcb, found.ucb) == (
            min(entry.lcb, wanted.lcb),
            max(entry.ucb, wanted.ucb),
        )
    beyond = restate(read_metric(entry), candidate_alpha(STATED + 1))
    assert (beyond.lcb, beyond.ucb) == (-math.inf, math.inf)


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(-1, 1),
    half=st.floats(0, 1),
    n=st.integers(2, 20),
    order=st.integers(1, 12),
    method=st.sampled_from(["jackknife-t", "x"]),
)
def test_a_stricter_level_never_tightens_a_bound(value, half, n, order, method):
    entry = Metric(value, value - half, value + half, n, method)
    found = [restate(read_metric(entry), candidate_alpha(j)) for j in (order, order + 1)]
    assert (
        found[1].lcb <= found[0].lcb <= value + 1e-12
        and found[1].ucb >= found[0].ucb >= value - 1e-12
    )


@pytest.mark.parametrize(
    "bounds",
    [
        None,
        3,
        [3],
        [{"alpha": "x"}],
        [{"alpha": candidate_alpha(2), "lcb": math.nan, "ucb": None}],
        [{"alpha": 0.5, "lcb": 0.4}],
    ],
)
def test_malformed_or_missing_bounds_are_no_bounds(bounds):
    entry = Metric(0.5, 0.4, 0.6, 8, "crossed-bootstrap").to_json() | {"bounds": bounds}
    found = restate(read_metric(entry), candidate_alpha(2))
    assert (found.lcb, found.ucb) == (-math.inf, math.inf)


def test_stated_bounds_that_are_too_tight_are_not_believed():
    entry = {
        **Metric(0.5, 0.4, 0.6, 8, "crossed-bootstrap").to_json(),
        "bounds": [{"alpha": candidate_alpha(2), "lcb": 0.49, "ucb": 0.51}],
    }
    found = restate(read_metric(entry), candidate_alpha(2))
    assert (found.lcb, found.ucb) == (0.4, 0.6)


def test_a_candidate_that_passes_alone_may_fail_as_one_of_several():
    records = passing(stability__S=Metric(0.36, 0.31, 0.41, 8, "jackknife-t"))
    assert evaluate(STRICT, records).pass_all
    decision = evaluate(STRICT, records, alpha=candidate_alpha(2))
    assert decision.failing == ["reproducibility"] and decision.alpha == candidate_alpha(2)
    assert "at one-sided level 0.0058 fails >= 0.3" in decision.reasons["reproducibility"]
    assert decision.metrics["stability.S"]["lcb"] == pytest.approx(
        0.36 - 0.05 * stats.t.ppf(1 - 0.035 / 6, 7) / stats.t.ppf(0.975, 7)
    )


def test_where_a_point_is_judged_bounds_that_cannot_be_restated_stay(run):
    records = passing(
        stability__null_worst=Metric(0.4, 0.3, 0.5, 8, "percentiles"),
        ood__excess_drop=Metric(0.0, -0.01, 0.01, 8, "own"),
    )
    decision = evaluate(STRICT, records, alpha=candidate_alpha(2))
    rows = {row.condition: row for row in decision.rows}
    assert (
        rows["stability.null_worst"].passed
        and rows["stability.null_worst"].interval == "[0.3, 0.5]"
    )
    assert (
        decision.failing == ["ood"]
        and "unresolvable: n = 8 gives no interval on that side" in decision.reasons["ood"]
    )


@settings(max_examples=40, deadline=None)
@given(order=st.integers(1, 8), value=st.floats(0.2, 0.7), half=st.floats(0.0, 0.2))
def test_a_further_candidate_is_never_judged_more_leniently(order, value, half):
    records = passing(stability__S=Metric(value, value - half, value + half, 8, "jackknife-t"))
    first, later = (evaluate(STRICT, records, alpha=candidate_alpha(j)) for j in (order, order + 1))
    assert all(first.gates[gate] or not passed for gate, passed in later.gates.items())


def test_the_ledger_counts_tests_of_one_claim(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    assert confirmation_family("a", ledger) == {"order": 1, "candidates": 1}

    def begin(candidate, **changes):
        begin_confirmation(
            candidate,
            **{
                "seeds": SEEDS,
                "data": ["x", "y"],
                "subject": "language",
                "ledger": ledger,
                **changes,
            },
        )

    begin("a")
    begin("a")  # the same attempt, resumed
    finish_confirmation("a", 1, ledger)
    begin("b")
    begin("other-subject", subject="another")
    begin("other-data", data=["z"])
    begin("c", data={"datasets": ["y", "q"], "members": "hash"})
    orders = {
        name: confirmation_family(name, ledger)["order"]
        for name in ("a", "b", "c", "other-subject", "other-data")
    }
    assert orders == {"a": 1, "b": 2, "c": 3, "other-subject": 1, "other-data": 1}
    assert confirmation_family("a", ledger)["candidates"] == 3, (
        "later candidates are counted, but leave the order as it was"
    )
    begin("a", data=["x", "q"], force=True)
    assert confirmation_family("a", ledger) == {"order": 4, "candidates": 3}
    assert confirmation_family("unknown", ledger)["order"] == 7, (
        "comes after all that the ledger knows"
    )


def test_what_an_entry_does_not_say_counts_as_the_same(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    begin_confirmation("a", seeds=SEEDS, data=None, ledger=ledger)
    begin_confirmation("b", seeds=SEEDS, data=["x"], subject="language", ledger=ledger)
    assert confirmation_family("b", ledger)["order"] == 2


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Evidence of a candidate that passes alone with little to spare, on disk."""
    monkeypatch.chdir(tmp_path)
    write_confirmation(tmp_path, barely=True)
    attempt(after=["another"])
    return tmp_path


def decide():
    return gate_job(
        "strict",
        evidence=["results/confirmation"],
        candidate=HASH,
        output_dir="results/gate/strict",
    )


def test_gate_report_and_verify_state_and_use_the_number_of_candidates(run):
    from husai.report.quotes import EvidenceFolder
    from husai.report.sections import _decision
    from husai.verify.decision import check_decisions
    from husai.verify.findings import Findings

    assert decide().failing == ["reproducibility"]
    body = json.loads((run / "results/gate/strict/release_policy.json").read_text())
    assert {k: body["confirmation"][k] for k in ("order", "candidates", "alpha")} == {
        "order": 2,
        "candidates": 2,
        "alpha": candidate_alpha(2),
    }
    assert (
        "Test 2 on this confirmation data, of 2 candidate(s) so far: bounds at one-sided level "
        "0.00583" in (run / "results/gate/strict/release_policy.md").read_text()
    )
    said = "".join(
        getattr(part, "text", part)
        for block in _decision(EvidenceFolder(run))
        for part in getattr(block, "inline", [])
    )
    assert (
        "Test 2 on this confirmation data; candidates confirmed on it so far: 2; bounds are "
        "judged at the one-sided level 0.005833." in said
    )
    (run / "reports").mkdir()
    found = Findings(run)
    check_decisions(found)
    assert found.mismatches == [] and found.counts["decisions made again"] == 1
    write(run / "results/gate/strict/release_policy.json", {**body, "alpha": 0.025})
    check_decisions(found)
    assert (
        "judged at one-sided level 0.025 but the confirmation ledger asks for 0.00583"
        in found.mismatches[0]
    )


def test_a_candidate_that_is_not_named_is_judged_at_its_level_all_the_same(run):
    evidence = sorted((run / "results/confirmation").glob("*.json"))
    decision = gate_job("strict", evidence=evidence, output_dir="results/gate/strict")
    assert (decision.candidate["recipe_hash"], decision.alpha) == (HASH, candidate_alpha(2))


def test_a_claim_is_judged_at_the_level_of_its_candidate(run):
    from husai.gate.ledger import GateFailed

    ledger = run / "results/confirmation/ledger.jsonl"
    text = ledger.read_text()
    ledger.unlink()
    attempt()
    assert decide().pass_all
    claim_job("Alone it holds.", "results/gate/strict")
    ledger.write_text(text)
    with pytest.raises(GateFailed, match="failing gates: reproducibility"):
        claim_job("As the second it does not.", "results/gate/strict")


def test_the_original_policy_is_not_touched(run):
    decision = evaluate(
        load_policy("cycle3"), [record("ood", {"ood_drop": 0.05})], alpha=candidate_alpha(3)
    )
    assert decision.alpha is None and decision.gates["ood"]


@pytest.mark.parametrize(
    "change",
    [
        {"config_hash": [1]},
        {"config_hash": {"a": 1}},
        {"config_hash": None},
        {"attempt": [1]},
        {"data": {"datasets": 5}},
        {"data": [math.nan]},
        {"model": {}, "subject": []},
        {"event": ["started"]},
    ],
    ids=str,
)
def test_entries_of_any_shape_are_counted_and_end_in_no_traceback(tmp_path, change):
    """What a hand wrote into another candidate's entry; the chain of hashes was made again."""
    path = tmp_path / "ledger.jsonl"
    started = {"event": "started", "config_hash": "other", "attempt": 1, "data": ["a"]}
    append(path, started | change)
    counted = int(change.get("event", "started") == "started")
    assert confirmation_family("mine", path) == {"order": counted + 1, "candidates": counted + 1}
    begin_confirmation("mine", seeds=SEEDS, data=["b"], ledger=path)
    assert confirmation_family("mine", path)["order"] <= 2
    found = standing(STRICT, {"recipe_hash": "mine"}, path)
    assert [e["config_hash"] for e in found["attempts"]] == ["mine"]


def test_an_own_entry_of_another_shape_still_refuses_a_second_attempt(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append(path, {"event": "started", "config_hash": "mine", "attempt": [1]})
    append(path, {"event": "finished", "config_hash": "mine", "attempt": [1]})
    with pytest.raises(HusaiError, match="holds attempt"):
        begin_confirmation("mine", seeds=SEEDS, data=["a"], ledger=path)

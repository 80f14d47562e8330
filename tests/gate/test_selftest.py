"""The gate's own proof: adversaries and oracle from real trainings, false-pass rate, power, and the
tasks they are measured on.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from gate_records import HASH, passing

from husai.evidence import Metric
from husai.gate import evaluate, load_policy
from husai.gate.selftest import ground_truth
from husai.gate.selftest.adversaries import ADVERSARIES, judge, least_shared
from husai.gate.selftest.designs import OOD_FAMILIES, PROBING_FAMILIES, draw
from husai.gate.selftest.simulation import (
    STATISTICS,
    campaigns,
    passes,
    rate,
    records,
    simulate,
)
from husai.statistics import auc, crossed_interval, jackknife_t

ROOT = Path(__file__).parents[2]
STRICT = load_policy("strict")


def test_the_strict_gate_rejects_every_adversary_for_the_right_reason_and_passes_the_oracle(
    tmp_path,
):
    from husai.gate.selftest.selftest import selftest_job

    body = selftest_job({"null_campaigns": 500, "power_campaigns": 100}, tmp_path / "selftest.json")
    rows = {row["case"]: row for row in body["rows"]}
    assert rows["oracle"]["verdict"] == "passed", rows["oracle"]["reason"]
    for adversary in ADVERSARIES:
        row = rows[adversary.name]
        assert row["verdict"] == "rejected" and adversary.gate in row["failing_gates"], (
            adversary.name
        )
        assert f"{adversary.gate}: {adversary.condition}" in row["failing_conditions"], (
            adversary.name
        )
    for name in ("permuted_clone", "cloned_seed"):
        assert rows[name]["failing_gates"] == ["integrity"], (
            "clones look perfect to every other gate"
        )
    assert body["passed"] and body["simulation"]["null_campaigns"] == 500
    assert body["metrics"]["false_pass_rate"].value <= 0.05
    assert json.loads((tmp_path / "selftest.json").read_text())["headline"] == body["headline"]


def test_judging_needs_the_named_condition_to_fail_on_a_value():
    evidence = {a.name: passing() for a in ADVERSARIES} | {"oracle": passing()}
    rows = judge(STRICT, evidence)
    assert [r["as_it_should"] for r in rows] == [True] + [False] * len(ADVERSARIES)
    evidence["frozen_decoder"] = passing(integrity__cos_to_init=1.0)
    evidence["random_decoder"] = [r for r in passing() if r["kind"] != "stability"]
    caught = {r["case"]: r["as_it_should"] for r in judge(STRICT, evidence)}
    assert caught["frozen_decoder"] and not caught["random_decoder"]


def test_every_interval_condition_of_strict_is_simulated():
    gated = {
        f"{c.evidence}.{c.metric}"
        for g in STRICT.gates
        for c in g.conditions()
        if c.basis != "point"
    }
    assert gated == {s.name for s in STATISTICS}


def test_false_pass_rate_and_power():
    found = simulate(STRICT, 2000, 200, seed=3)
    rates = {row["null"]: row["rate"] for row in found["rows"]}
    assert len(rates) == 2 * len(STATISTICS) + 3
    assert all(rate.value <= 0.05 for rate in rates.values())
    assert (
        rates["all gates at their boundaries, correlated seeds"].ucb < 0.005
        and rates["nothing there"].value == 0.0
    )
    assert (
        found["false_pass_rate"]["value"] == max(rate.value for rate in rates.values()) >= 0.02
    ), "the least favourable case is tried"
    assert found["cross_checked"]["agreed"] == found["cross_checked"]["campaigns"] >= 800
    power = {p["shared_fraction"]: p["rate"].value for p in found["power"]}
    assert power[0.0] == 0.0 and power[0.3] <= 0.05 and power[0.9] == 1.0
    assert 0.3 < least_shared(found["power"], 0.8) <= 0.4


def test_simulated_intervals_are_the_real_ones():
    """Pairs: delete-one-seed jackknife-t. Crossed: bootstrap or family t, whichever is wider."""
    rng = np.random.default_rng(0)
    effects = rng.standard_normal((3, 8))
    s = STATISTICS[0]._replace(sd_rest=0.0)
    drawn = draw(s, 0.5, effects, rng)
    matrix = 0.5 + s.sd_seed * (effects[0][:, None] + effects[0][None, :])
    real = jackknife_t(matrix)
    assert (drawn.value[0], drawn.lcb[0], drawn.ucb[0]) == pytest.approx(
        (real.value, real.lcb, real.ucb), abs=1e-12
    )
    crossed = next(s for s in STATISTICS if s.evidence == "saebench")._replace(
        sd_seed=0.1, sd_rest=0.0, sd_family=0.0, families=(3, 1, 2)
    )
    drawn = draw(crossed, 0.1, effects, rng)
    real = crossed_interval(
        0.1 + crossed.sd_seed * np.repeat(effects[:1].T, 6, axis=1), [0, 0, 0, 1, 2, 2]
    )
    assert real.method == "seed-t" and (
        drawn.value[0],
        drawn.lcb[0],
        drawn.ucb[0],
    ) == pytest.approx((real.value, real.lcb, real.ucb))


def test_simulated_families_are_those_of_the_policy_and_of_the_default_configuration():
    from collections import Counter

    from husai.config import load
    from husai.probing.datasets import family

    config = load([ROOT / "config/config.yaml"]).external.datasets
    assert sorted(Counter(map(family, config.ood)).values()) == sorted(OOD_FAMILIES)
    fixed = STRICT.fixed["saebench"]
    fewest = (sum(PROBING_FAMILIES), len(PROBING_FAMILIES))
    assert fewest == (fixed["min_datasets"], fixed["min_families"])


def test_simulated_campaigns_are_judged_as_the_gate_judges_them():
    drawn = campaigns({"stability.S": 0.33}, 50, np.random.default_rng(1), correlated=True)
    vector = passes(STRICT, drawn)
    assert 0 < vector.sum() < 50
    assert [
        evaluate(STRICT, records(STRICT, drawn, i), "simulated").pass_all for i in range(50)
    ] == vector.tolist()


def test_rates_carry_exact_intervals():
    """Clopper-Pearson: 0 of 2000 has the upper bound 1 - 0.025 ** (1 / 2000)."""
    none = rate(np.zeros(2000, bool))
    assert none.value == none.lcb == 0.0 and none.ucb == pytest.approx(1 - 0.025 ** (1 / 2000))
    assert rate(np.ones(10, bool)) == Metric(
        1.0, pytest.approx(0.025 ** (1 / 10)), 1.0, 10, "Clopper-Pearson"
    )


def test_a_probe_finds_the_column_that_tells():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 30))
    y = z[:, 7] > 0.3
    probe = ground_truth.fit_probe(z, y, 3)
    assert 7 in probe.columns and len(probe.columns) == 3 and auc(probe(z), y) > 0.95


def test_contrastive_score_of_the_toy():
    """CE-Bench toy of method.md section 1 with I2 = I1 (one pair): the score is the contrastive
    one, 1.3055824.
    """
    stories = [(np.array([[3.0, 0.0, 1.0, 0.0]]), np.array([[1.0, 0.0, 0.0, 0.0]]))]
    assert ground_truth.contrastive_scores(lambda x: x, stories)[0] == pytest.approx(
        1.3055824, abs=1e-7
    )


def test_leak_probe_and_row_overlap():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 10, 2000)
    clean = rng.standard_normal((2000, 32))
    assert abs(ground_truth.leak_excess(clean, answers, 10)) < 0.04
    assert ground_truth.leak_excess(clean + 3 * np.eye(32)[answers], answers, 10) > 0.5
    assert ground_truth.shared_rows(clean[:100], clean[90:200]) == 10


def test_candidate_hash_of_shared_records_is_the_one_gated():
    assert evaluate(STRICT, passing(), {"recipe_hash": HASH}).pass_all

"""Levels of successive candidates, simulated together with the intervals that they are used
with."""

import numpy as np

from husai.gate.selftest.designs import Statistic, crossed_bounds
from husai.gate.selftest.rates import SEED_KINDS, seed_effects, skewed_rates, successive_rates
from husai.statistics.levels import FAMILY_ALPHA, STATED, candidate_alpha


def test_the_chances_of_six_candidates_sum_to_at_most_5_percent_for_every_kind_of_interval():
    rows = successive_rates(8000, np.random.default_rng(5))
    assert len(rows) == 6 and all(len(row["rates"]) == STATED for row in rows)
    for row in rows:
        assert row["sum"] <= FAMILY_ALPHA, row["design"]
        assert 0.015 <= row["rates"][0] <= 0.031, row["design"]


def test_strongly_unequal_families_stay_within_it_too():
    """Sizes 5, 3, 2, 1, 1: with the full levels of 0.05 / (j (j + 1)) the sum was 5.5%."""
    statistic = Statistic("x", "y", "crossed", 0.0, 1.0, 0.04, 0.02, 8, (5, 3, 2, 1, 1), 0.06)
    levels = [candidate_alpha(order) for order in range(1, STATED + 1)]
    rng = np.random.default_rng(6)
    total = 0.0
    for _ in range(10):
        effects = rng.standard_normal((2000, 8))
        drawn = crossed_bounds(statistic, 0.0, effects, rng, levels, 1000)
        total += sum(float((one.lcb > 0).mean()) for one in drawn) / 10
    assert total <= FAMILY_ALPHA + 0.004, "0.004: two standard errors of 20 000 nested sums"


def test_effects_of_seeds_have_mean_0_and_variance_1():
    for kind in SEED_KINDS:
        drawn = seed_effects(kind, (400_000,), np.random.default_rng(7))
        assert abs(drawn.mean()) < 0.02 and abs(drawn.var() - 1) < 0.05, kind


def test_skewed_and_failing_seeds_pass_more_often_and_the_worst_seed_never_adds_a_pass():
    rows = {row["seeds"]: row for row in skewed_rates(8000, np.random.default_rng(8))}
    assert 0.02 <= rows["normal"]["bound"] <= 0.03
    assert 0.06 <= rows["left exponential"]["bound"] <= 0.12
    assert rows["1 in 20 seeds fails"]["bound"] > 0.5, "0.95 ** 8 of the ensembles hold none"
    assert all(row["worst_seed"] <= row["bound"] for row in rows.values())

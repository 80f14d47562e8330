"""The difference in stability of two ensembles."""

import numpy as np
import pytest

from husai.statistics.nulls import pair_matrix
from husai.stress import stress_metrics


def record(agreement, draws):
    """Four seeds that agree so, and a gaussian null of these draws."""
    pairs = pair_matrix([agreement, agreement + 0.01, agreement + 0.02] * 2).tolist()
    null = {"pairs": [float(np.mean(draws))] * 6, "draws": list(draws)}
    return {
        "pairwise": {"pwmcc": pairs, "pwmcc_all": pairs},
        "nulls": {"gaussian": null},
        "metrics": {},
    }


def test_the_errors_of_both_nulls_are_in_the_interval():
    sure = stress_metrics("random_model", record(0.7, [0.2] * 9), record(0.4, [0.1] * 9))
    unsure = stress_metrics(
        "random_model", record(0.7, [0.1, 0.2, 0.3] * 3), record(0.4, [0.0, 0.1, 0.2] * 3)
    )
    a, b = sure["delta_S"], unsure["delta_S"]
    assert a.value == pytest.approx((0.71 - 0.2) / 0.8 - (0.41 - 0.1) / 0.9)
    assert b.value == pytest.approx(a.value)
    error = np.std([0.1, 0.2, 0.3] * 3, ddof=1) / 3
    slopes = [(1 - (0.71 - 0.2) / 0.8) / 0.8, (1 - (0.41 - 0.1) / 0.9) / 0.9]
    assert b.ucb - b.value == pytest.approx(
        np.hypot(a.ucb - a.value, 3.1824 * error * np.hypot(*slopes)), rel=1e-4
    )

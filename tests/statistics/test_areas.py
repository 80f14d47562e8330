"""Areas under a ROC curve, and their intervals."""

import math

import numpy as np
import pytest

from husai.statistics import auc, auc_interval


def test_areas_by_hand():
    # Pairs (positive, negative): 3 beats 1 and ties 3, 2 beats 1 and loses to 3: (1 + .5 + 1) / 4.
    score, positive = np.array([3.0, 1.0, 2.0, 3.0]), np.array([True, False, True, False])
    assert auc(score, positive) == 2.5 / 4
    assert auc(np.zeros(4), positive) == 0.5 and auc(positive, positive) == 1.0
    assert math.isnan(auc(score, np.zeros(4, dtype=bool)))


def test_the_published_example():
    """Hanley & McNeil (1982), table II and page 32: area 0.893 of 58 normal and 51 abnormal
    images has standard error 0.032 by their formula.
    """
    low, high = auc_interval(0.893, 51, 58)
    assert (high - low) / 2 / 1.959964 == pytest.approx(0.032, abs=1e-3)


def test_it_covers_the_area_of_normal_scores():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        one, zero = rng.normal(1.0, 1.0, 60), rng.normal(0.0, 1.0, 60)
        low, high = auc_interval((one[:, None] > zero).mean(), 60, 60)
        inside += low <= 0.7602 <= high  # Phi(1 / sqrt(2))
    assert 0.9 <= inside / 400 <= 0.985

"""Intervals of areas under a ROC curve."""

import numpy as np
import pytest

from husai.statistics import auc_interval


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

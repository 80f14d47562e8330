"""Intervals and tests against closed forms, scipy, and worked examples of the literature."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from husai.errors import HusaiError
from husai.statistics import (
    bootstrap_percentile,
    cohens_d,
    crossed_interval,
    difference_pvalue,
    holm,
    jackknife_difference,
    jackknife_se,
    jackknife_t,
    pseudo_values,
)

values = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def numbers(metric):
    return metric.value, metric.lcb, metric.ucb, metric.n


def pairwise(n, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(n, n))
    return matrix + matrix.T


@given(values)
@settings(max_examples=60, deadline=None)
def test_jackknife_of_a_mean_is_the_t_interval(x):
    found = jackknife_t(x)
    half = stats.t.ppf(0.975, len(x) - 1) * np.std(x, ddof=1) / math.sqrt(len(x))
    assert (found.lcb, found.ucb) == pytest.approx((np.mean(x) - half, np.mean(x) + half), abs=1e-9)
    assert found.n == len(x)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_jackknife_of_pairs_leaves_out_whole_seeds(n):
    matrix = pairwise(n)

    def mean_of_pairs(kept):
        return np.mean([matrix[i, j] for i in kept for j in kept if i < j])

    full = mean_of_pairs(range(n))
    left_out = np.array([mean_of_pairs([k for k in range(n) if k != i]) for i in range(n)])
    se = math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    found = jackknife_t(matrix)
    assert found.value == pytest.approx(full)
    assert found.lcb == pytest.approx(full - stats.t.ppf(0.975, n - 1) * se)
    assert found.ucb == pytest.approx(full + stats.t.ppf(0.975, n - 1) * se)


def test_the_diagonal_and_the_order_of_seeds_do_not_matter():
    matrix = pairwise(6)
    order = np.random.default_rng(1).permutation(6)
    changed = matrix[order][:, order].copy()
    np.fill_diagonal(changed, np.nan)
    assert numbers(jackknife_t(changed)) == pytest.approx(numbers(jackknife_t(matrix)))


def test_many_matrices_at_once_give_the_same_standard_errors():
    stack = np.stack([pairwise(5, s) for s in range(20)])
    value, se = jackknife_se(stack)
    for i, matrix in enumerate(stack):
        one = jackknife_t(matrix)
        assert value[i] == pytest.approx(one.value)
        assert se[i] * stats.t.ppf(0.975, 4) == pytest.approx(one.ucb - one.value)


def test_too_few_seeds_give_no_interval_never_a_zero_width_one():
    for found in (
        jackknife_t([0.7]),
        jackknife_t(np.array([[1.0, 0.7], [0.7, 1.0]])),
        bootstrap_percentile([0.7]),
        crossed_interval([[0.7, 0.7]], ["a", "b"]),
        crossed_interval([[0.7, 0.7], [0.7, 0.7]], ["a", "a"]),
        jackknife_difference([0.7], [0.0, 0.0]),
    ):
        assert found.value == pytest.approx(0.7)
        assert (found.lcb, found.ucb) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no values"),
        ([1.0, float("nan")], "1 of 2 values are NaN"),
        (np.ones((2, 3)), r"shape \(2, 3\)"),
        (np.ones((1, 1)), "no pairs"),
        (np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 4.0], [0.0, 4.0, 1.0]]), "not symmetric"),
    ],
)
def test_bad_values_are_refused(bad, message):
    with pytest.raises(HusaiError, match=message):
        jackknife_t(bad)


def test_other_bad_requests():
    with pytest.raises(HusaiError, match="between 0 and 1"):
        jackknife_t([1.0, 2.0], confidence=95)
    with pytest.raises(HusaiError, match="one family per column"):
        crossed_interval(np.ones((2, 3)), ["a", "b"])
    with pytest.raises(HusaiError, match=r"\[0, 1\]"):
        holm([0.5, 1.5])


@pytest.mark.parametrize("n", [2, 3, 5, 8, 9, 10, 28, 113])
@pytest.mark.parametrize("seed", [0, 42])
def test_bootstrap_is_bit_for_bit_that_of_the_method(n, seed):
    """docs/method.md section 2: default_rng(seed).choice(values, (10000, n)) row means, percentiles
    2.5/97.5.
    """
    x = np.random.default_rng(n).normal(size=n)
    means = np.random.default_rng(seed).choice(x, (10_000, n)).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    found = bootstrap_percentile(x, seed=seed)
    assert (found.value, found.lcb, found.ucb) == (x.mean(), low, high)


def test_bootstrap_of_three_pairs_is_their_range():
    """docs/method.md section 2: with 3 pairs the interval is exactly [min, max]."""
    found = bootstrap_percentile([0.1, 0.4, 0.2])
    assert (found.lcb, found.ucb) == (pytest.approx(0.1), pytest.approx(0.4))


def test_the_jackknife_of_paired_differences_is_scipys_t_interval():
    deltas = [0.02, -0.01, 0.05, 0.03]
    found = jackknife_t(deltas)
    reference = stats.ttest_1samp(deltas, 0.0)
    assert (found.lcb, found.ucb) == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_difference_of_two_ensembles_is_welchs():
    a, b = [1.0, 2.0, 4.0, 3.0, 2.5], [0.5, 0.7, 0.4]
    found = jackknife_difference(a, b)
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.lcb, found.ucb) == pytest.approx((low, high), rel=1e-6)
    same = jackknife_difference([1.0, 1.0], [0.5, 0.5])
    assert (same.value, same.lcb, same.ucb) == (0.5, 0.5, 0.5)


def test_p_value_of_a_difference_is_welchs_and_agrees_with_its_interval():
    a, b = [1.0, 2.0, 4.0, 3.0, 2.5], [0.5, 0.7, 0.4]
    for alternative in ("greater", "less", "two-sided"):
        expected = stats.ttest_ind(a, b, equal_var=False, alternative=alternative).pvalue
        assert difference_pvalue(a, b, alternative) == pytest.approx(expected, rel=1e-6)
    matrices = pairwise(5, 1), pairwise(5, 2)
    edge = jackknife_difference(*matrices)
    assert difference_pvalue(matrices[0], matrices[1] + edge.lcb, "greater") == pytest.approx(
        0.025, abs=1e-6
    )
    assert difference_pvalue([0.7], [0.1, 0.2]) == 1.0
    assert difference_pvalue([0.7, 0.7], [0.1, 0.1]) == 0.0
    assert difference_pvalue([0.7, 0.7], [0.7, 0.7]) == 0.5
    with pytest.raises(HusaiError, match="did you mean 'greater'"):
        difference_pvalue(a, b, "geater")


def test_pseudo_values_turn_pairs_into_one_unit_per_seed():
    """Their mean is the mean over pairs and their t interval is the jackknife-t (Tukey 1958)."""
    matrix = pairwise(6)
    units = pseudo_values(matrix)
    assert units.shape == (6,)
    assert numbers(jackknife_t(units)) == pytest.approx(numbers(jackknife_t(matrix)))
    with pytest.raises(HusaiError, match=r"at least 3 seeds, got shape \(2, 2\)"):
        pseudo_values(np.eye(2))


def test_tensors_and_lists_are_numbers_too():
    import torch

    matrix = pairwise(4)
    expected = jackknife_t(matrix)
    assert jackknife_t(torch.from_numpy(matrix).requires_grad_()) == expected
    assert jackknife_t(matrix.tolist()) == expected
    assert bootstrap_percentile(torch.tensor([0.5, 0.25, 1.0])) == bootstrap_percentile(
        [0.5, 0.25, 1.0]
    )
    assert jackknife_t(torch.tensor([0.5, 0.25], dtype=torch.bfloat16).float()).value == 0.375


def test_crossed_interval_is_the_family_t_when_seeds_agree_and_families_are_few():
    """Four families of three data sets: the t interval of the four family means, wider than any
    bootstrap of them.
    """
    family_means = np.array([0.01, 0.03, -0.02, 0.04])
    table = np.tile(np.repeat(family_means, 3), (5, 1))
    found = crossed_interval(table, np.repeat(list("abcd"), 3))
    low, high = stats.ttest_1samp(family_means, 0).confidence_interval(0.95)
    assert found.method == "family-t"
    assert found.value == pytest.approx(family_means.mean())
    assert (found.lcb, found.ucb) == pytest.approx((low, high))


def test_crossed_interval_sees_the_spread_between_seeds():
    """All families equal, seeds far apart: the family t would claim certainty; the interval is the
    t interval of the seeds.
    """
    table = np.tile(np.array([[0.0], [1.0], [2.0], [3.0]]), (1, 12))
    found = crossed_interval(table, np.repeat(list("abcd"), 3))
    low, high = stats.ttest_1samp([0.0, 1.0, 2.0, 3.0], 0).confidence_interval(0.95)
    assert found.method == "seed-t" and found.n == 4
    assert (found.lcb, found.ucb) == pytest.approx((low, high))


def test_crossed_bootstrap_draws_whole_families():
    """Twelve copies of three independent data sets are three units, not twelve."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(5, 6))
    copied = np.repeat(base, 10, axis=1)
    few = crossed_interval(base, list("abcdef"))
    many = crossed_interval(copied, np.repeat(list("abcdef"), 10))
    assert numbers(many) == pytest.approx(numbers(few))


def test_crossed_interval_is_deterministic():
    table = np.random.default_rng(0).normal(size=(4, 20))
    families = [i % 5 for i in range(20)]
    assert crossed_interval(table, families) == crossed_interval(table, families)


def test_holm_worked_example():
    """Four p-values 0.01, 0.04, 0.03, 0.005: adjusted 0.03, 0.06, 0.06, 0.02 (Holm 1979)."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
@settings(max_examples=60, deadline=None)
def test_holm_keeps_the_order_and_multiplies_the_smallest_by_their_number(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert adjusted.min() == pytest.approx(min(1.0, len(p) * min(p)))
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_cohens_d_and_its_interval():
    """d = 0.5 with 20 units each: exact 95% interval [-0.1326, 1.1260] by the noncentral t (Steiger
    & Fouladi 1997).
    """
    half = np.array([-1.0, 1.0] * 10)
    spread = half.std(ddof=1)
    found = cohens_d(half / spread + 0.5, half / spread)
    assert found.value == pytest.approx(0.5)
    t, df, factor = 0.5 / math.sqrt(0.1), 38, math.sqrt(0.1)
    assert stats.nct.cdf(t, df, found.lcb / factor) == pytest.approx(0.975, abs=1e-6)
    assert stats.nct.cdf(t, df, found.ucb / factor) == pytest.approx(0.025, abs=1e-6)
    assert (found.lcb, found.ucb) == pytest.approx((-0.1326, 1.1260), abs=2e-3)
    mirrored = cohens_d(half, half + 0.5 * spread)
    assert (mirrored.lcb, mirrored.ucb) == pytest.approx((-found.ucb, -found.lcb))


def test_cohens_d_without_spread_or_with_one_unit_has_no_interval():
    for found in (
        cohens_d([1.0, 1.0], [1.0, 1.0]),
        cohens_d([1.0], [2.0, 3.0]),
        cohens_d([1.0, 1.0], [0.0, 0.0]),
    ):
        assert (found.lcb, found.ucb) == (-math.inf, math.inf)


def test_an_interval_is_a_metric_of_an_evidence_record():
    found = jackknife_t([1.0, 2.0, 3.0])
    assert set(found.to_json()) == {"value", "lcb", "ucb", "n", "method"}
    assert found.n == 3


@pytest.mark.parametrize("distance", [1.0, 10.0, 40.0, 200.0])
def test_cohens_d_interval_exists_however_far_the_samples_are_apart(distance):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=10), rng.normal(size=10) - distance
    for found, sign in ((cohens_d(a, b), 1), (cohens_d(b, a), -1)):
        assert sign * found.value > 0
        assert found.lcb < found.value < found.ucb
        spread = math.sqrt(
            0.2 + found.value**2 / 40
        )  # large-sample standard error (Hedges & Olkin 1985)
        assert (found.ucb - found.lcb) / (2 * 1.96 * spread) == pytest.approx(1.0, abs=0.15)

"""Rates of reappearance: the fit, the posterior and the selection against answers worked by
hand."""

import numpy as np
import pytest
from scipy.stats import betabinom

from husai.errors import HusaiError
from husai.passport import BetaBinomial, certified, expected_fdr, fit, posterior
from husai.passport.posterior import log_likelihood, mixture_doubt


def test_a_uniform_prior_makes_every_count_equally_likely():
    # Bayes 1763: with theta uniform, P(y) = 1 / (n + 1).
    assert log_likelihood(np.ones(8), 1.0, 1.0) == pytest.approx(8 * np.log(1 / 8))


def test_likelihood_is_that_of_scipy():
    histogram = np.array([5, 3, 0, 2, 9])
    want = histogram @ betabinom(4, 0.7, 0.4).logpmf(np.arange(5))
    assert log_likelihood(histogram, 0.7, 0.4) == pytest.approx(want)


def test_posterior_by_hand():
    # Prior Beta(1, 1), n = 2. y = 2: density 3 theta^2, so P(theta < 1/2) = 1/8, mean 3/4.
    # y = 1: density 6 theta (1 - theta), symmetric, so 1/2. Median of 3 theta^2 is 0.5^(1/3).
    found = posterior(BetaBinomial(1.0, 1.0, 2))
    assert found.doubt == pytest.approx([7 / 8, 1 / 2, 1 / 8])
    assert found.mean == pytest.approx([1 / 4, 1 / 2, 3 / 4])
    assert found.low[2] == pytest.approx(0.025 ** (1 / 3))
    assert found.high[2] == pytest.approx(0.975 ** (1 / 3))


def test_another_bar_moves_the_doubt():
    # density 3 theta^2: P(theta < 0.8) = 0.512
    assert posterior(BetaBinomial(1.0, 1.0, 2), bar=0.8).doubt[2] == pytest.approx(0.512)


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.37), (2.0, 5.0), (0.1, 0.3)])
def test_the_fit_recovers_the_parameters_of_many_latents(a, b):
    counts = betabinom(7, a, b).rvs(40_000, random_state=5)
    found = fit(counts, 7)
    assert (found.a, found.b) == pytest.approx((a, b), rel=0.08)


@pytest.mark.parametrize("counts", [[7] * 50, [0] * 50, [3] * 50])
def test_the_fit_is_finite_where_all_latents_agree(counts):
    found = fit(np.array(counts), 7)
    assert np.isfinite([found.a, found.b]).all()
    assert found.mean == pytest.approx(counts[0] / 7, abs=0.02)


def test_latents_that_all_reappear_in_less_than_half_are_not_certified():
    counts = np.random.default_rng(1).binomial(7, 0.35, 4000)
    model = fit(counts, 7)
    assert counts.max() == 7  # some do by chance
    assert not certified(posterior(model).doubt[counts]).any()


def test_selection_by_hand():
    # Running means 0.01, 0.02, 0.04, 0.055: three are certified at 5%.
    doubt = np.array([0.1, 0.01, 0.08, 0.03])
    assert expected_fdr(doubt) == pytest.approx([0.055, 0.01, 0.04, 0.02])
    assert certified(doubt).tolist() == [False, True, True, True]
    assert certified(doubt, fdr=0.03).tolist() == [False, True, False, True]


def test_latents_with_equal_doubt_stand_or_fall_together():
    # One of the two at 0.08 alone would leave the mean at 0.045; both give 0.0567.
    assert certified(np.array([0.08, 0.01, 0.08])).tolist() == [False, True, False]
    assert certified(np.array([0.06, 0.06])).tolist() == [False, False]


def test_bad_counts_are_refused():
    with pytest.raises(HusaiError, match="3 SAEs or more"):
        fit(np.array([1, 0]), 1)
    with pytest.raises(HusaiError, match="no living latent"):
        fit(np.array([], dtype=int), 3)
    with pytest.raises(HusaiError, match=r"0 \.\.\. 3"):
        fit(np.array([4]), 3)


def test_the_mixture_finds_a_mass_below_the_bar_that_no_beta_can_show():
    rng = np.random.default_rng(3)
    false, by_beta = [], []
    for _ in range(20):
        theta = rng.choice([0.0, 0.45, 1.0], size=512, p=[0.3, 0.6, 0.1])
        counts = rng.binomial(7, theta)
        beta = posterior(fit(counts, 7)).doubt
        by_beta.append((theta[certified(beta[counts])] < 0.5).mean())
        chosen = certified(np.maximum(beta, mixture_doubt(counts, 7))[counts])
        assert chosen[theta == 1.0].all()
        false.append((theta[chosen] < 0.5).mean())
    assert np.mean(by_beta) > 0.1
    assert np.mean(false) < 0.05


def test_the_mixture_agrees_with_the_beta_where_theta_is_beta():
    theta = np.random.default_rng(4).beta(0.9, 0.37, 4000)
    counts = np.random.default_rng(5).binomial(7, theta)
    assert mixture_doubt(counts, 7) == pytest.approx(posterior(fit(counts, 7)).doubt, abs=0.1)


def test_more_reappearances_never_leave_more_doubt():
    counts = np.random.default_rng(6).binomial(7, 0.6, 300)
    assert (np.diff(mixture_doubt(counts, 7)) <= 0).all()

"""What 95% means: coverage by simulation when pairs share seeds, as the pairwise stabilities of an
ensemble do.

Model: the value of a pair is mu + a_i + a_j + e_ij, with independent normal seed effects a and pair
noise e."""

import numpy as np
import pytest

from husai.statistics import crossed_interval, jackknife_se, t_quantile

RUNS = 4000


def ensembles(n, seed_sd, noise_sd, seed):
    rng = np.random.default_rng(seed)
    effect = rng.normal(scale=seed_sd, size=(RUNS, n))
    noise = np.triu(rng.normal(scale=noise_sd, size=(RUNS, n, n)), 1)
    return effect[:, :, None] + effect[:, None, :] + noise + np.swapaxes(noise, 1, 2)


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("noise_sd", [0.0, 0.5, 2.0])
def test_the_jackknife_t_covers_at_least_93_percent(n, noise_sd):
    value, se = jackknife_se(ensembles(n, 1.0, noise_sd, seed=n))
    covered = np.abs(value) <= t_quantile(n - 1) * se
    assert covered.mean() >= 0.93


@pytest.mark.parametrize(("n", "at_most"), [(3, 0.75), (5, 0.80), (8, 0.80)])
def test_the_percentile_bootstrap_over_pairs_does_not(n, at_most):
    matrices = ensembles(n, 1.0, 0.5, seed=n)[:1500]
    i, j = np.triu_indices(n, 1)
    pairs = matrices[:, i, j]
    draws = np.random.default_rng(0).multinomial(len(i), np.full(len(i), 1 / len(i)), 1000) / len(i)
    low, high = np.percentile(draws @ pairs.T, [2.5, 97.5], axis=0)
    assert ((low <= 0) & (high >= 0)).mean() <= at_most


def test_the_crossed_interval_covers_when_seeds_and_families_both_vary():
    """6 seeds x 10 families of 1 to 5 data sets; deltas vary by seed, by family and by cell."""
    rng = np.random.default_rng(1)
    families = np.repeat(np.arange(10), rng.integers(1, 6, 10))
    runs, covered = 400, 0
    for run in range(runs):
        table = (
            rng.normal(scale=0.5, size=(6, 1))
            + rng.normal(scale=1.0, size=10)[families][None, :]
            + rng.normal(scale=0.5, size=(6, len(families)))
        )
        found = crossed_interval(table, families, n_resamples=1000, seed=run)
        covered += found.lcb <= 0 <= found.ucb
    assert covered / runs >= 0.92


@pytest.mark.parametrize("family_sd", [0.0, 0.2, 1.0])
def test_the_crossed_interval_lets_a_null_pass_rarely_even_where_seeds_dominate(family_sd):
    """8 seeds x 8 families at a true delta of 0: the lower bound is above it in at most 5%;
    bootstrap and family t alone reach 6%.
    """
    rng = np.random.default_rng(2)
    runs, passed = 1500, 0
    for run in range(runs):
        table = (
            rng.normal(size=(8, 1))
            + rng.normal(scale=family_sd, size=8)
            + rng.normal(scale=0.2, size=(8, 8))
        )
        passed += crossed_interval(table, range(8), n_resamples=400, seed=run).lcb > 0
    assert passed / runs <= 0.05

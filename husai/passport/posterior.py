"""How often would a latent reappear in a new seed? A beta-binomial fitted to all latents of an SAE,
each latent's posterior, and the set that can be certified at a Bayesian false discovery rate.

A beta distribution is smooth. Where many latents share one rate just below the bar it is wrong, and
many certificates with it. So the doubt about a latent is the larger of two: that of the
beta-binomial, and that of the best mixture of any shape. (512 latents, 7 comparisons, 60% of them
at theta 0.45, 30% at 0, 10% at 1: over 10% false by the first alone, under 5% by the larger, with
every latent at 1 certified; tests/passport/test_posterior.py.)"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import betainc, betaincinv, betaln, expit, gammaln
from scipy.stats import binom

from husai.errors import HusaiError

BAR = 0.5
"""Theta from which a latent counts as reproducible: it reappears in at least half of new seeds."""
FDR = 0.05
"""Share of the certified latents that may be below :data:`BAR` (method of the ``strict``
policy)."""
PSEUDO_LATENTS = 1.0
"""Weight of the prior in the fit, in latents: this many are added whose theta is uniform. It keeps
the fit finite where all latents agree, and is lost among some hundreds of real ones."""
CONCENTRATION = (1e-3, 1e5)
"""Bounds of a + b. Below, all theta are 0 or 1; above, all are equal to six digits."""
STARTS = (0.1, 2.0, 50.0)
"""Values of a + b from which the fit starts, as the likelihood can have two summits: a U-shaped
and a peaked one."""
GRID = 101
"""Rates at which the mixture may have mass: 0, 0.01, ... 1. Seven comparisons resolve far less."""
ITERATIONS = 300
"""Steps of expectation maximisation; 1500 and 5000 gave the same share of false certificates."""
FEWEST_COMPARISONS = 2
"""One comparison gives a mean of theta but no spread, so no posterior: 0/1 counts have a single
free cell."""


class BetaBinomial(NamedTuple):
    """Distribution of theta over the latents of one SAE, Beta(a, b), seen through ``n`` seeds."""

    a: float
    b: float
    n: int
    """Comparisons per latent: the other, independent seeds."""

    @property
    def mean(self) -> float:
        """Mean of theta over latents."""
        return self.a / (self.a + self.b)


def log_likelihood(histogram: np.ndarray, a: float, b: float) -> float:
    r"""``sum_y h_y log P(y)`` with ``P(y) = C(n, y) B(a + y, b + n - y) / B(a, b)``.

    ``histogram`` is ``(n + 1,)``: how many latents reappear in exactly ``0 ... n`` seeds.

    References
    ----------
    Skellam 1948, "A probability distribution derived from the binomial distribution by regarding
    the probability of success as variable between the sets of trials", J. R. Stat. Soc. B 10.
    """
    n = len(histogram) - 1
    y = np.arange(n + 1)
    ways = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    return float(histogram @ (ways + betaln(a + y, b + n - y) - betaln(a, b)))


def fit(counts: np.ndarray, n: int) -> BetaBinomial:
    """Beta-binomial of the counts by maximum likelihood with a weak prior.

    The prior adds :data:`PSEUDO_LATENTS` latents with theta uniform on [0, 1], that is equal weight
    for every count. The two parameters are sought as mean and concentration ``a + b``, from
    several starts.

    Parameters
    ----------
    counts : int array (n_latents,)
        In how many of the ``n`` seeds each latent reappears.
    n : int
        Comparisons, two or more.

    Raises
    ------
    HusaiError
        No latents, a count outside ``0 ... n``, or fewer than two comparisons.

    Examples
    --------
    >>> found = fit(np.repeat([0, 4], [300, 100]), 4)  # theta is 0 or 1
    >>> round(found.mean, 2), found.a + found.b < 0.02
    (0.25, True)
    """
    counts = np.asarray(counts)
    if n < FEWEST_COMPARISONS:
        raise HusaiError(
            f"passport: {n} comparison tells nothing of how theta spreads over latents; at least "
            f"{FEWEST_COMPARISONS} are needed, so give {FEWEST_COMPARISONS + 1} SAEs or more"
        )
    if counts.size == 0:
        raise HusaiError("passport: no living latent to fit the rate of reappearance to")
    if counts.min() < 0 or counts.max() > n:
        raise HusaiError(
            f"passport: counts must lie in 0 ... {n}, found {counts.min()} ... {counts.max()}"
        )
    histogram = np.bincount(counts, minlength=n + 1) + PSEUDO_LATENTS / (n + 1)
    mean = float(histogram @ np.arange(n + 1) / (n * histogram.sum()))
    low, high = np.log(CONCENTRATION)

    def loss(parameters):
        share, total = expit(parameters[0]), np.exp(parameters[1])
        return -log_likelihood(histogram, share * total, (1 - share) * total)

    found = [
        minimize(
            loss,
            [np.log(mean / (1 - mean)), np.log(start)],
            method="L-BFGS-B",
            bounds=[(-12.0, 12.0), (low, high)],
        )
        for start in STARTS
    ]
    best = min(found, key=lambda result: result.fun).x
    share, total = float(expit(best[0])), float(np.exp(best[1]))
    return BetaBinomial(share * total, (1 - share) * total, n)


class Posterior(NamedTuple):
    """What is believed of theta after a latent reappeared in ``y`` of ``n`` seeds; arrays
    ``(n + 1,)`` over ``y``. By conjugacy theta is Beta(a + y, b + n - y)."""

    mean: np.ndarray
    low: np.ndarray
    """2.5% quantile."""
    high: np.ndarray
    """97.5% quantile."""
    doubt: np.ndarray
    """Probability that theta is below the bar."""


def posterior(model: BetaBinomial, bar: float = BAR) -> Posterior:
    """Posterior of theta for every possible count.

    Examples
    --------
    >>> found = posterior(BetaBinomial(1.0, 1.0, 3))  # uniform prior: Beta(1 + y, 4 - y)
    >>> [round(float(d), 4) for d in found.doubt], float(found.mean[3])
    ([0.9375, 0.6875, 0.3125, 0.0625], 0.8)
    """
    y = np.arange(model.n + 1)
    a, b = model.a + y, model.b + model.n - y
    return Posterior(
        a / (a + b), betaincinv(a, b, 0.025), betaincinv(a, b, 0.975), betainc(a, b, bar)
    )


def mixture_doubt(counts: np.ndarray, n: int, bar: float = BAR) -> np.ndarray:
    """Probability of ``theta < bar`` for every count, ``(n + 1,)``, when theta may have any
    distribution over latents.

    The distribution is that of highest likelihood on a grid of :data:`GRID` rates, with the prior
    of :func:`fit`; it is found by expectation maximisation from a flat start.

    References
    ----------
    Kiefer & Wolfowitz 1956, Ann. Math. Stat. 27; Laird 1978, "Nonparametric maximum likelihood
    estimation of a mixing distribution", J. Am. Stat. Assoc. 73.

    Examples
    --------
    >>> counts = np.repeat([0, 4], [300, 100])  # every latent has a rate of 0 or of 1
    >>> mixture_doubt(counts, 4)[[0, 4]].round(2).tolist()
    [1.0, 0.0]
    """
    histogram = np.bincount(counts, minlength=n + 1) + PSEUDO_LATENTS / (n + 1)
    theta = np.linspace(0.0, 1.0, GRID)
    likelihood = binom.pmf(np.arange(n + 1)[:, None], n, theta[None])
    weight = np.full(GRID, 1.0 / GRID)
    for _ in range(ITERATIONS):
        weight = weight * (likelihood.T @ (histogram / (likelihood @ weight)))
        weight /= weight.sum()
    belief = likelihood * weight
    return belief[:, theta < bar].sum(1) / belief.sum(1)


def expected_fdr(doubt: np.ndarray) -> np.ndarray:
    """Mean doubt of all latents at least as sure as each one: the Bayesian false discovery rate of
    certifying down to it (Newton et al. 2004, "Detecting differential gene expression with a
    semiparametric hierarchical mixture method", Biostatistics 5, section 4).

    ``doubt`` and the result are ``(n_latents,)``, float64. Latents with equal doubt stand or fall
    together, so the order of latents never decides.

    Examples
    --------
    >>> expected_fdr(np.array([0.2, 0.01, 0.01, 0.06])).round(4).tolist()
    [0.07, 0.01, 0.01, 0.0267]
    """
    doubt = np.asarray(doubt, dtype=np.float64)
    value, inverse, count = np.unique(doubt, return_inverse=True, return_counts=True)
    return (np.cumsum(value * count) / np.cumsum(count))[inverse]


def certified(doubt: np.ndarray, fdr: float = FDR) -> np.ndarray:
    """Which latents are certified, bool ``(n_latents,)`` like ``doubt``: from the surest down while
    their mean doubt stays within ``fdr``.

    Examples
    --------
    >>> certified(np.array([0.2, 0.01, 0.01, 0.06])).tolist()
    [False, True, True, True]
    """
    return expected_fdr(doubt) <= fdr

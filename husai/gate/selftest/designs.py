"""Simulated statistics, each with the interval of the real one: pairs, differences, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from husai.statistics import jackknife_se
from husai.statistics.two_way import two_way

RESAMPLES = 400
"""Bootstrap resamples of a simulated interval; a real one has 10,000, which millions of simulated
ones cannot."""
OOD_FAMILIES = (3, 3, 2)  # the shipped out-of-domain sets: historical figures, bigrams, GLUE
PROBING_FAMILIES = (2, 2, 2, 2, 1, 1, 1, 1)  # the policy's fewest: 12 sets in 8 families
PAIR_FAMILIES = (1,) * 8  # story pairs come from those data sets; one theme a family is the hardest
FIRST_LEVEL = 0.025  # one-sided level of a 95% interval's bound


class Statistic(NamedTuple):
    """How a gated metric is measured, the boundary of its null, and a value that clearly passes."""

    evidence: str
    metric: str
    design: str
    """``pairs``, ``seeds`` (one value each), ``difference`` (of two ensembles' pairs),
    ``seed difference`` (of two ensembles' values) or ``crossed``.
    """
    boundary: float
    clear: float
    sd_seed: float
    sd_rest: float
    n_seeds: int = 8
    families: tuple[int, ...] = ()  # data sets in each family
    sd_family: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.evidence}.{self.metric}"


class Draw(NamedTuple):
    """Values and bounds of one statistic in every campaign, each ``(campaigns,)``."""

    value: np.ndarray
    lcb: np.ndarray
    ucb: np.ndarray
    worst_seed: np.ndarray | None = None
    """Lowest mean of one seed's pairs, for a statistic over pairs."""

    def at(self, basis: str) -> np.ndarray:
        """What a condition on ``point``, ``lcb`` or ``ucb`` compares, ``(campaigns,)``."""
        return {"point": self.value, "lcb": self.lcb, "ucb": self.ucb}[basis]


def draw(
    statistic: Statistic, mean: float, seed_effects: np.ndarray, rng: np.random.Generator
) -> Draw:
    """Simulate one statistic; ``seed_effects`` is ``(campaigns, seeds)`` with variance 1."""
    effects = seed_effects[:, : statistic.n_seeds]
    if statistic.design == "crossed":
        return crossed_bounds(statistic, mean, effects, rng, [FIRST_LEVEL], RESAMPLES)[0]
    value, se, worst = _jackknife(statistic, mean, effects, rng)
    df = statistic.n_seeds - 1
    if statistic.design.endswith("difference"):
        other_effects = rng.standard_normal(effects.shape)
        other_value, other_se, _ = _jackknife(statistic, 0.0, other_effects, rng)
        value, parts = value - other_value, np.stack([se, other_se]) ** 2
        se, total = np.sqrt(parts.sum(0)), parts.sum(0) ** 2
        worst, df = None, total / (parts**2 / df).sum(0)
    half: Any = stats.t.ppf(1 - FIRST_LEVEL, df) * se
    return Draw(value, value - half, value + half, worst)


def _jackknife(
    statistic: Statistic, mean: float, effects: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Mean of one ensemble, its standard error, and its worst seed where it is one of pairs."""
    if "seed" in statistic.design:
        values = mean + statistic.sd_seed * effects
        values = values + statistic.sd_rest * rng.standard_normal(effects.shape)
        return values.mean(1), values.std(1, ddof=1) / math.sqrt(statistic.n_seeds), None
    matrices = pair_matrices(statistic, mean, effects, rng)
    return *jackknife_se(matrices), worst_seed(matrices)


def pair_matrices(
    statistic: Statistic, mean: float, effects: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Pairwise values ``(campaigns, n, n)``: ``mean + a_i + a_j + e_ij``."""
    campaigns, n = effects.shape
    noise = rng.standard_normal((campaigns, n, n))
    symmetric = (noise + noise.transpose(0, 2, 1)) / math.sqrt(2)
    return (
        mean
        + statistic.sd_seed * (effects[:, :, None] + effects[:, None, :])
        + statistic.sd_rest * symmetric
    )


def worst_seed(matrices: np.ndarray) -> np.ndarray:
    """Lowest mean over the pairs of one seed, ``(campaigns,)``, of ``(campaigns, n, n)``."""
    n = matrices.shape[-1]
    own = np.diagonal(matrices, axis1=-2, axis2=-1)
    return ((matrices.sum(-1) - own) / (n - 1)).min(-1)


def crossed_bounds(
    statistic: Statistic,
    mean: float,
    effects: np.ndarray,
    rng: np.random.Generator,
    levels: Sequence[float],
    resamples: int,
) -> list[Draw]:
    """One :class:`Draw` per one-sided level, of the same campaigns: the interval of
    :func:`husai.statistics.crossed_interval`, with one set of resamples for all campaigns.
    """
    size = np.array(statistic.families, dtype=float)
    (_, n), families = effects.shape, len(size)
    member = np.repeat(np.arange(families), statistic.families)
    table = _tables(statistic, mean, effects, member, rng)
    sums = np.stack([table[:, :, member == f].sum(-1) for f in range(families)], axis=-1)
    value = table.mean((1, 2))
    residual = (sums - value[:, None, None] * size) / size.mean()
    family_se = np.sqrt((residual.mean(1) ** 2).sum(1) / (families * (families - 1)))
    seed_se = table.mean(2).std(1, ddof=1) / math.sqrt(n)
    both = two_way(residual, size)
    seed_weight = rng.multinomial(n, np.full(n, 1 / n), resamples)
    family_weight = rng.multinomial(families, np.full(families, 1 / families), resamples)
    weight = (seed_weight[:, :, None] * family_weight[:, None, :]).reshape(resamples, -1) / (
        n * family_weight @ size
    )[:, None]
    ends = [100 * q for level in levels for q in (level, 1 - level)]
    bounds = np.percentile(sums.reshape(len(sums), -1) @ weight.T, ends, axis=1)
    found = []
    for level, low, high in zip(levels, bounds[::2], bounds[1::2], strict=True):
        errors = ((families - 1, family_se), (n - 1, seed_se), (both.df, both.se))
        half = np.maximum.reduce([stats.t.ppf(1 - level, df) * se for df, se in errors])
        wider = high - low > 2 * half
        low, high = np.where(wider, low, value - half), np.where(wider, high, value + half)
        found.append(Draw(value, low, high))
    return found


def _tables(
    statistic: Statistic,
    mean: float,
    effects: np.ndarray,
    member: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Tables ``(campaigns, seeds, data sets)``: ``mean + u_s + v_f + w_d + e_sd``."""
    (campaigns, n), families = effects.shape, len(statistic.families)
    table = (
        mean
        + statistic.sd_seed * effects[:, :, None]
        + statistic.sd_rest * rng.standard_normal((campaigns, n, len(member)))
    )
    by_family = rng.standard_normal((campaigns, 1, families))
    by_dataset = rng.standard_normal((campaigns, 1, len(member)))
    return table + statistic.sd_family * (by_family[:, :, member] + by_dataset) / math.sqrt(2)

"""Simulated campaigns: every gated statistic with the interval that the real one gets, from data with
seed effects.

Pairs of seeds are ``mu + a_i + a_j + e_ij`` with delete-one-seed jackknife-t; seeds x data sets in
families are ``mu + u_s + v_f + w_d + e_sd`` with the crossed interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from husai.statistics import jackknife_se

RESAMPLES = 400
OOD_FAMILIES = (3, 3, 2)  # the shipped out-of-domain sets: historical figures, bigrams, GLUE
PROBING_FAMILIES = PAIR_FAMILIES = (
    1,
) * 8  # the embedded default's confirmation data sets, which the story pairs come from too
SHARED_LOADING = 0.8  # correlation of a seed's quality between gates, in the correlated campaigns


class Statistic(NamedTuple):
    """How one gated metric is measured, its boundary between null and alternative, and a value that
    clearly passes.
    """

    evidence: str
    metric: str
    design: str  # "pairs", "difference" (of two ensembles' pairs) or "crossed"
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


# Standard deviations are about those of the embedded default's own confirmation.
STATISTICS = (
    Statistic("stability", "S", "pairs", 0.30, 0.80, 0.01, 0.01),
    Statistic("stability", "shared_fraction", "pairs", 0.30, 0.80, 0.005, 0.005),
    Statistic("stability", "activation_r", "pairs", 0.50, 0.85, 0.005, 0.01),
    Statistic("random_model", "delta_S", "difference", 0.0, 0.50, 0.01, 0.01, 5),
    Statistic("transcoder", "delta_S", "difference", -0.05, 0.30, 0.02, 0.02, 5),
    Statistic("ood", "excess_drop", "crossed", 0.03, -0.30, 0.005, 0.05, 8, OOD_FAMILIES, 0.045),
    Statistic(
        "saebench", "delta_vs_frozen", "crossed", 0.0, 0.20, 0.01, 0.04, 8, PROBING_FAMILIES, 0.01
    ),
    Statistic(
        "saebench", "delta_vs_dense", "crossed", -0.02, 0.30, 0.005, 0.03, 8, PROBING_FAMILIES, 0.11
    ),
    Statistic(
        "cebench", "delta_vs_frozen", "crossed", 0.0, 0.30, 0.05, 0.05, 8, PAIR_FAMILIES, 0.025
    ),
)
CLEAR_POINTS = {
    "integrity": {
        "leak_excess": 0.0,
        "plateau_gain": 0.0,
        "cos_to_init": 0.3,
        "dead_fraction": 0.0,
        "text_overlap_rows": 0,
    }
    | {"shared_init_pairs": 0},
    "stability": {"assessable": 1, "null_worst": 0.5, "clone_pairs": 0, "untraced_seeds": 0},
}
NOTHING = {
    **dict.fromkeys(("stability.S", "stability.shared_fraction", "stability.activation_r"), 0.0),
    **dict.fromkeys(("random_model.delta_S", "transcoder.delta_S", "ood.excess_drop"), 0.0),
    **dict.fromkeys(
        ("saebench.delta_vs_frozen", "saebench.delta_vs_dense", "cebench.delta_vs_frozen"), 0.0
    ),
}


class Draw(NamedTuple):
    """Values and 95% bounds of one statistic in every campaign, each ``(campaigns,)``."""

    value: np.ndarray
    lcb: np.ndarray
    ucb: np.ndarray


def draw(
    statistic: Statistic, mean: float, seed_effects: np.ndarray, rng: np.random.Generator
) -> Draw:
    """Simulate one statistic; ``seed_effects`` is ``(campaigns, seeds)``, standard normal."""
    effects = seed_effects[:, : statistic.n_seeds]
    if statistic.design == "crossed":
        return _crossed(statistic, mean, effects, rng)
    value, se = _pairs(statistic, mean, effects, rng)
    df: Any = statistic.n_seeds - 1
    if statistic.design == "difference":
        other, other_se = _pairs(statistic, 0.0, rng.standard_normal(effects.shape), rng)
        value, parts = value - other, np.stack([se, other_se]) ** 2
        se, total = np.sqrt(parts.sum(0)), parts.sum(0) ** 2
        df = total / (parts**2 / df).sum(0)
    half = stats.t.ppf(0.975, df) * se
    return Draw(value, value - half, value + half)


def _pairs(
    statistic: Statistic, mean: float, effects: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    campaigns, n = effects.shape
    noise = rng.standard_normal((campaigns, n, n))
    symmetric = (noise + noise.transpose(0, 2, 1)) / math.sqrt(2)
    matrix = (
        mean
        + statistic.sd_seed * (effects[:, :, None] + effects[:, None, :])
        + statistic.sd_rest * symmetric
    )
    return jackknife_se(matrix)


def _crossed(
    statistic: Statistic, mean: float, effects: np.ndarray, rng: np.random.Generator
) -> Draw:
    """The interval of :func:`husai.statistics.crossed_interval`, with one set of resamples for all
    campaigns.
    """
    (campaigns, n), size = effects.shape, np.array(statistic.families, dtype=float)
    families, member = len(size), np.repeat(np.arange(len(size)), statistic.families)
    table = (
        mean
        + statistic.sd_seed * effects[:, :, None]
        + statistic.sd_rest * rng.standard_normal((campaigns, n, len(member)))
    )
    by_family, by_dataset = (
        rng.standard_normal((campaigns, 1, families)),
        rng.standard_normal((campaigns, 1, len(member))),
    )
    table += statistic.sd_family * (by_family[:, :, member] + by_dataset) / math.sqrt(2)
    sums = np.stack([table[:, :, member == f].sum(-1) for f in range(families)], axis=-1)
    value = table.mean((1, 2))
    residual = (sums.mean(1) - value[:, None] * size) / size.mean()
    by_family = stats.t.ppf(0.975, families - 1) * np.sqrt(
        (residual**2).sum(1) / (families * (families - 1))
    )
    half = np.maximum(
        by_family, stats.t.ppf(0.975, n - 1) * table.mean(2).std(1, ddof=1) / math.sqrt(n)
    )
    seed_weight = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
    family_weight = rng.multinomial(families, np.full(families, 1 / families), RESAMPLES)
    weight = (seed_weight[:, :, None] * family_weight[:, None, :]).reshape(RESAMPLES, -1) / (
        n * family_weight @ size
    )[:, None]
    low, high = np.percentile(sums.reshape(campaigns, -1) @ weight.T, [2.5, 97.5], axis=1)
    wider = high - low > 2 * half
    return Draw(value, np.where(wider, low, value - half), np.where(wider, high, value + half))


def least_favourable(statistic: Statistic) -> Statistic:
    """The same statistic with the variances that its interval covers worst: seeds alone for pairs,
    seeds and families alike for tables.
    """
    return statistic._replace(
        sd_seed=0.04, sd_rest=0.005, sd_family=0.04 if statistic.families else 0.0
    )


def campaigns(
    means: Mapping[str, float],
    count: int,
    rng: np.random.Generator,
    correlated: bool = False,
    statistics: Sequence[Statistic] = STATISTICS,
) -> dict[str, Draw]:
    """All statistics of ``count`` campaigns; ``means`` are true values by statistic name, the clear
    value where it is silent.

    With ``correlated`` a seed's quality is shared between the gates: each effect loads on one
    common factor."""
    n = max(s.n_seeds for s in statistics)
    common = rng.standard_normal((count, n))
    out = {}
    for statistic in statistics:
        effects = rng.standard_normal((count, n))
        if correlated:
            sign = -1 if statistic.evidence == "ood" else 1
            effects = SHARED_LOADING * sign * common + math.sqrt(1 - SHARED_LOADING**2) * effects
        out[statistic.name] = draw(
            statistic, means.get(statistic.name, statistic.clear), effects, rng
        )
    return out

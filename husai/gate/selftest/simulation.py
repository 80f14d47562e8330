"""How often the strict policy passes what it must not: simulated campaigns under the null, and
power over the true shared fraction.

Every statistic gets the interval that the real one gets, from data with seed effects: pairs of
seeds ``mu + a_i + a_j + e_ij`` with delete-one-seed jackknife-t, and seeds x data sets in families
``mu + u_s + v_f + w_d + e_sd`` with the crossed interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from husai.evidence import Metric
from husai.gate.evaluate import evaluate
from husai.gate.fixed import records_as_fixed
from husai.gate.policy import Policy
from husai.gate.selftest.designs import (
    OOD_FAMILIES,
    PAIR_FAMILIES,
    PROBING_FAMILIES,
    Draw,
    Statistic,
    draw,
)
from husai.gate.selftest.rates import skewed_rates, successive_rates

CROSS_CHECKED = 40
"""Campaigns of each null that the gate itself judges too, a few seconds for all of them."""
SHARED_LOADING = 0.8  # correlation of a seed's quality between gates, in the correlated campaigns
RARE_CAMPAIGNS = 10_000
"""Most campaigns per kind of skewed seed and per design of successive candidates, five times those
of the other nulls: a sum of 5% is then known to 0.2%, in 5 s for all."""

# Standard deviations are about those of the embedded default's own confirmation.
STATISTICS = (
    Statistic("stability", "S", "pairs", 0.30, 0.80, 0.01, 0.01),
    Statistic("stability", "shared_fraction", "pairs", 0.30, 0.80, 0.005, 0.005),
    Statistic("stability", "shared_fraction_weighted", "pairs", 0.30, 0.80, 0.005, 0.005),
    Statistic("stability", "activation_agreement", "pairs", 0.30, 0.80, 0.005, 0.01),
    Statistic("stability", "explained_variance", "seeds", 0.50, 0.80, 0.005, 0.005),
    Statistic(
        "stability", "explained_variance_vs_frozen", "seed difference", 0.0, 0.40, 0.005, 0.005
    ),
    Statistic("faithfulness", "recovered", "seeds", 0.70, 0.90, 0.01, 0.01),
    Statistic("faithfulness", "recovered_vs_frozen", "seed difference", 0.0, 0.40, 0.01, 0.01),
    Statistic("random_model", "delta_S", "difference", 0.0, 0.50, 0.01, 0.01, 5),
    Statistic(
        "random_model", "delta_probing", "crossed", 0.0, 0.20, 0.01, 0.04, 5, PROBING_FAMILIES, 0.05
    ),
    Statistic("transcoder", "delta_S", "difference", -0.05, 0.30, 0.02, 0.02, 5),
    Statistic("ood", "excess_drop", "crossed", 0.03, -0.30, 0.005, 0.05, 8, OOD_FAMILIES, 0.045),
    Statistic(
        "saebench", "delta_vs_frozen", "crossed", 0.0, 0.20, 0.01, 0.04, 8, PROBING_FAMILIES, 0.01
    ),
    Statistic(
        "saebench", "delta_vs_neurons", "crossed", 0.0, 0.20, 0.01, 0.04, 8, PROBING_FAMILIES, 0.03
    ),
    Statistic(
        "saebench", "delta_vs_pca", "crossed", -0.02, 0.20, 0.01, 0.04, 8, PROBING_FAMILIES, 0.03
    ),
    Statistic(
        "saebench", "delta_vs_dense", "crossed", -0.05, 0.30, 0.005, 0.03, 8, PROBING_FAMILIES, 0.05
    ),
    Statistic(
        "cebench", "delta_vs_frozen", "crossed", 0.0, 0.30, 0.05, 0.05, 8, PAIR_FAMILIES, 0.025
    ),
)
CLEAR_POINTS = {
    "integrity": {"leak_excess": 0.0, "plateau_gain": 0.0, "cos_to_init": 0.3}
    | {"dead_fraction": 0.0, "text_overlap_rows": 0, "shared_init_pairs": 0},
    "stability": {"assessable": 1, "null_worst": 0.5, "clone_pairs": 0, "untraced_seeds": 0}
    | {f"null_{kind}": 0.5 for kind in ("gaussian", "init", "covariance", "crowding", "frozen")}
    | {"l0_per_d_in": 0.1, "dense_fraction": 0.0, "redundancy": 0.0},
}
WORST_SEED = "stability.S_worst_seed"
NOTHING = {s.name: 0.0 for s in STATISTICS}


def least_favourable(statistic: Statistic) -> Statistic:
    """The same with the variances that its interval covers worst: of seeds, and of families."""
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
        found = draw(statistic, means.get(statistic.name, statistic.clear), effects, rng)
        out[statistic.name] = found
        if statistic.name == "stability.S":
            out[WORST_SEED] = Draw(*[found.worst_seed] * 3)
    return out


def passes(policy: Policy, drawn: Mapping[str, Draw]) -> np.ndarray:
    """Whether each campaign passes every gate that counts, ``(campaigns,)`` bool."""
    ok = np.ones(len(next(iter(drawn.values())).value), dtype=bool)
    for condition in (c for gate in policy.gates if gate.counts for c in gate.conditions()):
        found = drawn.get(f"{condition.evidence}.{condition.metric}")
        if found is not None:
            ok &= condition.holds(found.at(condition.basis))
        elif not condition.holds(CLEAR_POINTS[condition.evidence][condition.metric]):
            ok[:] = False
    return ok


def records(policy: Policy, drawn: Mapping[str, Draw], campaign: int) -> list[dict[str, Any]]:
    """One campaign as evidence records, to put it through :func:`husai.gate.evaluate`."""
    kinds: dict[str, dict[str, dict]] = {
        k: {m: Metric(v, v, v, 8) for m, v in points.items()} for k, points in CLEAR_POINTS.items()
    }
    for statistic in STATISTICS:
        found = drawn[statistic.name]
        numbers = (float(x[campaign]) for x in (found.value, found.lcb, found.ucb))
        metric = Metric(*numbers, statistic.n_seeds, statistic.design)
        kinds.setdefault(statistic.evidence, {})[statistic.metric] = metric
    worst = float(drawn[WORST_SEED].value[campaign])
    kinds["stability"]["S_worst_seed"] = Metric(worst, worst, worst, 8, "worst seed")
    about = {"code_hash": "simulated", "config_hash": "simulated", "seeds": list(range(8))}
    head = dict.fromkeys(("subject", "recipe", "recipe_hash"), "simulated")
    return records_as_fixed(policy, kinds, **head, provenance=about)


def rate(passed: np.ndarray) -> Metric:
    """Share of ``passed (n_campaigns,)``, bool, with its exact (Clopper-Pearson) 95% interval."""
    n, k = len(passed), int(passed.sum())
    low = float(stats.beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(stats.beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return Metric(k / n, low, high, n, "Clopper-Pearson")


class NullCase(NamedTuple):
    """A world in which the gate must not pass."""

    name: str
    means: Mapping[str, float]
    correlated: bool = False
    statistics: Sequence[Statistic] = STATISTICS


def null_cases() -> list[NullCase]:
    """Every null that :func:`simulate` tries."""
    boundary = {s.name: s.boundary for s in STATISTICS}
    cases = [NullCase(f"{s.name} alone", {s.name: s.boundary}) for s in STATISTICS]
    for one in STATISTICS:
        changed = [least_favourable(s) if s is one else s for s in STATISTICS]
        name = f"{one.name} alone, least favourable variances"
        cases.append(NullCase(name, {one.name: one.boundary}, statistics=changed))
    return [
        *cases,
        NullCase("all gates at their boundaries, independent", boundary),
        NullCase("all gates at their boundaries, correlated seeds", boundary, True),
        NullCase("nothing there", NOTHING, True),
    ]


def simulate(
    policy: Policy, null_campaigns: int = 2000, power_campaigns: int = 500, seed: int = 0
) -> dict[str, Any]:
    """False-pass rates under the null and the power curve.

    Nulls: one statistic at the boundary of its null while all others clearly pass, with variances
    as measured and with those least favourable to its interval (the gate is an intersection of
    gates, so no other null can pass more often); every statistic at its boundary, independent, and
    with seed quality shared between gates; seeds that share nothing and add nothing to a frozen
    decoder.

    Returns
    -------
    dict
        ``rows`` (``null``, ``rate``), ``false_pass_rate`` (the worst row), ``power``
        (``shared_fraction``, ``rate``), ``cross_checked``: campaigns that :func:`evaluate`
        judged alike, all of those tried; ``skewed_seeds`` and ``successive_candidates``: see
        :mod:`husai.gate.selftest.rates`.
    """
    rng = np.random.default_rng(seed)
    rows, checked, agreed = [], 0, 0
    for case in null_cases():
        drawn = campaigns(case.means, null_campaigns, rng, case.correlated, case.statistics)
        passed = passes(policy, drawn)
        rows.append({"null": case.name, "rate": rate(passed)})
        for index, expected in enumerate(passed[:CROSS_CHECKED]):
            checked += 1
            decision = evaluate(policy, records(policy, drawn, index), "simulated")
            agreed += decision.pass_all == bool(expected)
    worst = max(rows, key=lambda row: row["rate"].value)
    rare = min(RARE_CAMPAIGNS, 5 * null_campaigns)
    power = []
    for shared in np.linspace(0, 1, 21).round(2).tolist():
        drawn = campaigns(true_means(shared), power_campaigns, rng, correlated=True)
        power.append({"shared_fraction": shared, "rate": rate(passes(policy, drawn))})
    return {
        "null_campaigns": null_campaigns,
        "rows": rows,
        "false_pass_rate": {**worst["rate"].to_json(), "null": worst["null"]},
        "power": power,
        "skewed_seeds": skewed_rates(rare, np.random.default_rng(seed)),
        "successive_candidates": successive_rates(rare, np.random.default_rng(seed)),
        "cross_checked": {"campaigns": checked, "agreed": agreed},
        "model": {s.name: s._asdict() for s in STATISTICS}
        | {"seed_correlation": SHARED_LOADING, "seed": seed},
    }


def true_means(shared: float) -> dict[str, float]:
    """True values when a fraction ``shared`` of the latents is common to all seeds and the others
    are unrelated.

    S and the shared fractions equal it (method.md section 1); unrelated latents agree as chance
    does on held-out rows, and a randomised subject has S = 0."""
    equal = ("S", "shared_fraction", "shared_fraction_weighted", "activation_agreement")
    return dict.fromkeys([*(f"stability.{name}" for name in equal), "random_model.delta_S"], shared)

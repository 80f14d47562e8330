"""What each adversary of the self-test is and which condition must catch it; verdicts and the
summary that the report shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from husai.gate.decision import Decision
from husai.gate.evaluate import evaluate
from husai.gate.policy import Policy
from husai.gate.selftest.rates import highest_sum, told


class Adversary(NamedTuple):
    """A way to look good without being reproducible, and the condition of the strict policy that
    must see through it.
    """

    name: str
    what: str
    gate: str
    condition: str


ORACLE = "oracle"
ADVERSARIES = (
    Adversary(
        "frozen_decoder",
        "the decoder never left its initialisation",
        "integrity",
        "integrity.cos_to_init",
    ),
    Adversary(
        "permuted_clone",
        "every seed is the reference with its latents shuffled",
        "integrity",
        "stability.clone_pairs",
    ),
    Adversary(
        "cloned_seed",
        "one seed's decoder copied to all others",
        "integrity",
        "stability.clone_pairs",
    ),
    Adversary(
        "noisy_clone",
        "one seed's SAE with 1% noise under every seed's name",
        "integrity",
        "stability.clone_pairs",
    ),
    Adversary(
        "noisy_permuted_clone",
        "the same, its latents shuffled as well",
        "integrity",
        "stability.untraced_seeds",
    ),
    Adversary(
        "leaky_subject",
        "the subject's activations hold the answer",
        "integrity",
        "integrity.leak_excess",
    ),
    Adversary(
        "undertrained",
        "training stopped long before its plateau",
        "integrity",
        "integrity.plateau_gain",
    ),
    Adversary("random_decoder", "random directions", "reproducibility", "stability.S lcb"),
    Adversary(
        "shared_initialisation",
        "all seeds start from one initialisation",
        "integrity",
        "integrity.shared_init_pairs",
    ),
    Adversary(
        "overscaled",
        "the oracle's features with codes six times too large",
        "is_sae",
        "stability.explained_variance lcb",
    ),
    Adversary(
        "components",
        "principal components with both signs: dense, and found by every seed",
        "is_sae",
        "stability.l0_per_d_in",
    ),
    Adversary(
        "collapsed", "half of the oracle's latents, each twice", "is_sae", "stability.redundancy"
    ),
    Adversary(
        "centroids",
        "k-means centroids of other rows for each seed",
        "is_sae",
        "stability.explained_variance lcb",
    ),
    Adversary(
        "rare_copies",
        "19 of 20 latents are the same junk in every seed, and hardly fire",
        "is_sae",
        "stability.explained_variance lcb",
    ),
    Adversary(
        "read_outs",
        "dense read-outs of the benchmark tasks, fitted on their test rows, beside rare junk",
        "is_sae",
        "stability.explained_variance lcb",
    ),
    Adversary(
        "rescaled",
        "one seed's SAE under every seed's name, rescaled latent by latent",
        "integrity",
        "stability.clone_pairs",
    ),
    Adversary(
        "one_failed_seed",
        "one training in eight found nothing",
        "reproducibility",
        "stability.S_worst_seed",
    ),
)
COLUMNS = [
    "case",
    "verdict",
    "as_it_should",
    "caught_by",
    "failing_gates",
    "S",
    "shared_fraction",
    "reason",
]


def judge(policy: Policy, evidence: Mapping[str, Sequence[Mapping]]) -> list[dict[str, Any]]:
    """One row a case: the oracle must pass every gate, each adversary must fail at its named gate
    and condition.

    ``evidence`` maps the case names (``oracle`` and those of :data:`ADVERSARIES`) to their evidence
    records."""
    rows = [
        _row(
            ORACLE,
            "planted features recovered by every seed",
            evaluate(policy, evidence[ORACLE]),
            None,
        )
    ]
    rows += [_row(a.name, a.what, evaluate(policy, evidence[a.name]), a) for a in ADVERSARIES]
    return rows


def _row(case: str, what: str, decision: Decision, adversary: Adversary | None) -> dict[str, Any]:
    failed = [row for row in decision.rows if not row.passed]
    if adversary is None:
        good, caught, reason = (
            decision.pass_all,
            "",
            "; ".join(f"{row.gate}: {row.condition} {row.reason}" for row in failed),
        )
    else:
        caught = f"{adversary.gate}: {adversary.condition}"
        named = [
            row
            for row in failed
            if (row.gate, row.condition) == (adversary.gate, adversary.condition)
        ]
        measured = [row for row in named if row.value is not None]
        good, reason = (
            bool(measured) and not decision.pass_all,
            measured[0].reason if measured else "the named condition did not fail on a value",
        )
    return {
        "case": case,
        "what": what,
        "verdict": "passed" if decision.pass_all else "rejected",
        "as_it_should": good,
        "caught_by": caught,
        "failing_gates": decision.failing,
        "failing_conditions": [f"{row.gate}: {row.condition}" for row in failed],
        "S": decision.metrics.get("stability.S"),
        "shared_fraction": decision.metrics.get("stability.shared_fraction"),
        "reason": reason,
        "metrics": decision.metrics,
        "lines": decision.lines(),
    }


def summary(
    policy: Policy, rows: list[dict[str, Any]], simulation: Mapping[str, Any], limit: float = 0.05
) -> dict[str, Any]:
    """The body of ``results/gate/selftest.json``, without provenance."""
    wrong = [row["case"] for row in rows if not row["as_it_should"]]
    worst = max(simulation["rows"], key=lambda row: row["rate"].value)
    rate = worst["rate"]
    agreed = simulation["cross_checked"]["agreed"] == simulation["cross_checked"]["campaigns"]
    passed = not wrong and rate.value <= limit and agreed
    passed = passed and highest_sum(simulation) <= limit
    caught = sum(row["as_it_should"] for row in rows if row["case"] != ORACLE)
    oracle = "passed" if rows[0]["as_it_should"] else "WRONGLY REJECTED"
    headline = (
        f"{'The gate can say no' if passed else 'THE GATE FAILED ITS SELF-TEST'}: {caught} of "
        f"{len(ADVERSARIES)} adversaries rejected for the "
        f"right reason, oracle {oracle}; false-pass rate under the null at most "
        f"{100 * rate.value:.1f}% [{100 * rate.lcb:.1f}, {100 * rate.ucb:.1f}] over "
        f"{simulation['null_campaigns']} campaigns ({worst['null']})."
    )
    power = simulation["power"]
    notes = [
        "Adversaries and oracle: real trainings on rows made of planted features, and small "
        "probing, contrastive and transfer tasks on them.",
        "Null rates: each statistic alone at the boundary of its null while all others clearly "
        "pass, with variances as measured and with the "
        "least favourable ones; then all at once; then seeds that share nothing.",
        "Least true shared fraction that passes in at least 80% of campaigns: "
        f"{least_shared(power, 0.8)}.",
        "Simulated decisions repeated by the gate itself: "
        f"{simulation['cross_checked']['agreed']} of {simulation['cross_checked']['campaigns']} "
        "agree.",
        *told(simulation),
    ]
    return {
        "schema": "husai.selftest/1",
        "policy": policy.name,
        "policy_sha256": policy.sha256,
        "headline": headline,
        "passed": passed,
        "wrong": wrong,
        "metrics": {"false_pass_rate": rate}
        | {f"false_pass_rate: {row['null']}": row["rate"] for row in simulation["rows"]},
        "columns": COLUMNS,
        "rows": rows,
        "figures": [_power_figure(power)],
        "notes": notes,
        "simulation": dict(simulation),
    }


def _power_figure(power: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "kind": "line",
        "x": [p["shared_fraction"] for p in power],
        "y": [p["rate"].value for p in power],
        "lcb": [p["rate"].lcb for p in power],
        "ucb": [p["rate"].ucb for p in power],
        "x_label": "true shared fraction",
        "y_label": "share of campaigns that pass",
        "title": "Power of the strict policy",
    }


def least_shared(power: Sequence[Mapping[str, Any]], wanted: float) -> float | None:
    """Smallest simulated shared fraction from which on the pass rate stays at or above ``wanted``;
    None when there is none.
    """
    least = None
    for point in reversed(power):
        if point["rate"].value < wanted:
            break
        least = point["shared_fraction"]
    return least

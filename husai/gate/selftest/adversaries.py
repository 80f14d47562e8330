"""The adversaries of the self-test, the verdicts on them, and the summary that the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from husai.gate.decision import Decision
from husai.gate.evaluate import evaluate
from husai.gate.policy import Policy
from husai.gate.selftest.rates import highest_sum, told


class Adversary(NamedTuple):
    """A way to look good without being reproducible, and the condition that must see through it."""

    name: str
    what: str
    gate: str
    condition: str


ORACLE = "oracle"
CLONES = ("integrity", "stability.clone_pairs")
NO_SAE = ("is_sae", "stability.explained_variance lcb")
ADVERSARIES = (
    Adversary(
        "frozen_decoder",
        "the decoder never left its initialisation",
        *("integrity", "integrity.cos_to_init"),
    ),
    Adversary("permuted_clone", "every seed is the reference with its latents shuffled", *CLONES),
    Adversary("cloned_seed", "one seed's decoder copied to all others", *CLONES),
    Adversary("noisy_clone", "one seed's SAE with 1% noise under every seed's name", *CLONES),
    Adversary(
        "noisy_permuted_clone",
        "the same, its latents shuffled as well",
        *("integrity", "stability.untraced_seeds"),
    ),
    Adversary(
        "leaky_subject",
        "the subject's activations hold the answer",
        *("integrity", "integrity.leak_excess"),
    ),
    Adversary(
        "undertrained",
        "training stopped long before its plateau",
        *("integrity", "integrity.plateau_gain"),
    ),
    Adversary("random_decoder", "random directions", "reproducibility", "stability.S lcb"),
    Adversary(
        "shared_initialisation",
        "all seeds start from one initialisation",
        *("integrity", "integrity.shared_init_pairs"),
    ),
    Adversary("overscaled", "the oracle's features with codes six times too large", *NO_SAE),
    Adversary(
        "components",
        "principal components with both signs: dense, and found by every seed",
        *("is_sae", "stability.l0_per_d_in"),
    ),
    Adversary(
        "collapsed", "half of the oracle's latents, each twice", "is_sae", "stability.redundancy"
    ),
    Adversary("centroids", "k-means centroids of other rows for each seed", *NO_SAE),
    Adversary(
        "rare_copies", "19 of 20 latents are the same junk in every seed, and hardly fire", *NO_SAE
    ),
    Adversary(
        "read_outs",
        "dense read-outs of the benchmark tasks, fitted on their test rows, beside rare junk",
        *NO_SAE,
    ),
    Adversary(
        "rescaled", "one seed's SAE under every seed's name, rescaled latent by latent", *CLONES
    ),
    Adversary(
        "one_failed_seed",
        "one training in eight found nothing",
        *("reproducibility", "stability.S_worst_seed"),
    ),
)
COLUMNS = [
    *("case", "verdict", "as_it_should", "caught_by", "failing_gates"),
    *("S", "shared_fraction", "reason"),
]


def judge(policy: Policy, evidence: Mapping[str, Sequence[Mapping]]) -> list[dict[str, Any]]:
    """One row a case: the oracle must pass every gate, each adversary must fail at its named gate
    and condition.

    ``evidence`` maps the case names (``oracle`` and those of :data:`ADVERSARIES`) to their evidence
    records."""
    what = "planted features recovered by every seed"
    rows = [_row(ORACLE, what, evaluate(policy, evidence[ORACLE]), "")]
    for one in ADVERSARIES:
        caught = f"{one.gate}: {one.condition}"
        rows.append(_row(one.name, one.what, evaluate(policy, evidence[one.name]), caught))
    return rows


def _row(case: str, what: str, decision: Decision, caught: str) -> dict[str, Any]:
    """One case judged; ``caught`` names what must see through it, and is empty for the oracle."""
    failed = {f"{row.gate}: {row.condition}": row for row in decision.rows if not row.passed}
    if not caught:
        good = decision.pass_all
        reason = "; ".join(f"{name} {row.reason}" for name, row in failed.items())
    else:
        row = failed.get(caught)
        measured = row is not None and row.value is not None
        good = measured and not decision.pass_all
        reason = row.reason if measured else "the named condition did not fail on a value"
    return {
        "case": case,
        "what": what,
        "verdict": "passed" if decision.pass_all else "rejected",
        "as_it_should": good,
        "caught_by": caught,
        "failing_gates": decision.failing,
        "failing_conditions": list(failed),
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
    agreed, checked = (simulation["cross_checked"][key] for key in ("agreed", "campaigns"))
    passed = not wrong and agreed == checked and max(rate.value, highest_sum(simulation)) <= limit
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
        f"Simulated decisions repeated by the gate itself: {agreed} of {checked} agree.",
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
    """Least shared fraction from which on the pass rate is at least ``wanted``, if there is one."""
    least = None
    for point in reversed(power):
        if point["rate"].value < wanted:
            break
        least = point["shared_fraction"]
    return least

"""CE-Bench evidence records: one SAE's scores, its paired delta against the frozen-decoder control,
and a recipe over its seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from husai.cebench.means import PairActivations
from husai.cebench.scores import L0_TOLERANCE, SCORES, CEBenchResult, theme_means
from husai.errors import HusaiError
from husai.evidence import Metric, read_metric

OLD_NAMES = {
    "contrastive_score_mean_max": "contrastive_published",
    "independent_score_mean_max": "independence_published",
    "interpretability_score_mean_max": "interpretability_published",
}
GATED = "interpretability_fixed"
"""The score of the paired deltas: the one CE-Bench ranks by, without its I2 = 0 bug."""


def score_fields(result: CEBenchResult, pairs: PairActivations) -> dict:
    """Fields of a record that hold the scores of one SAE: metrics, per-pair arrays, means per
    theme, and CE-Bench's own names.

    ``metrics`` has each of the six scores as the mean over pairs, raw (standard deviations over
    latents) and, with the suffix ``_fraction``, divided by the bound; one SAE gives no interval.
    ``per_pair`` is raw."""
    metrics = {}
    for name in SCORES:
        value = float(np.mean(result.per_pair[name]))
        metrics[name] = Metric(value, n=pairs.n_pairs, method="mean over pairs")
        metrics[f"{name}_fraction"] = Metric(
            value / result.bound, n=pairs.n_pairs, method="mean over pairs / bound"
        )
    metrics["bound"] = Metric(result.bound, method="(d_sae - 1) / sqrt(d_sae)")
    metrics["l0"] = Metric(result.l0, n=int(pairs.offsets[-1]), method="mean over tokens")
    return {
        "metrics": metrics,
        "d_sae": result.d_sae,
        "l0": result.l0,
        "bound": result.bound,
        "n_pairs": pairs.n_pairs,
        "n_tokens": int(pairs.offsets[-1]),
        "pairs_hash": pairs.pairs_hash,
        "themes": pairs.themes,
        "families": pairs.families,
        "per_pair": {name: result.per_pair[name].tolist() for name in SCORES},
        "per_theme": {name: theme_means(result.per_pair[name], pairs.themes) for name in SCORES},
        "custom_metrics": {old: metrics[new].value for old, new in OLD_NAMES.items()},
        "total_rows": pairs.n_pairs,
    }


def mismatch(record: dict, frozen: dict) -> str | None:
    """Why ``frozen`` is no matched control of ``record``: another width, L0 more than
    ``L0_TOLERANCE`` apart; None when it is.
    """
    if record["d_sae"] != frozen["d_sae"]:
        return f"width {frozen['d_sae']} against {record['d_sae']}"
    if abs(frozen["l0"] - record["l0"]) > L0_TOLERANCE * max(record["l0"], 1e-12):
        return (
            f"L0 {frozen['l0']:.2f} against {record['l0']:.2f}, more than {L0_TOLERANCE:.0%} apart"
        )
    return None


def pair_delta(record: dict, frozen: dict) -> np.ndarray:
    """Difference per pair of the gated score as a fraction of the bound, ``(n_pairs,)``.

    Raises
    ------
    HusaiError
        When the two were scored on different pairs.
    """
    if record["pairs_hash"] != frozen["pairs_hash"]:
        raise HusaiError(
            f"CE-Bench: {record['recipe']} was scored on pairs {record['pairs_hash']} and its "
            f"control {frozen['recipe']} on {frozen['pairs_hash']}; scores compare only on the "
            "same pairs: run husai cebench again for both"
        )
    ours, its = (np.array(r["per_pair"][GATED]) / r["bound"] for r in (record, frozen))
    return ours - its


def with_baseline(record: dict, frozen: dict) -> dict:
    """Copy of ``record`` with its deltas against the matched frozen-decoder control.

    ``metrics.delta_vs_frozen`` is the mean paired difference of the fixed interpretability score as
    a fraction of the bound, without value when the control is not matched (``baseline.mismatch``
    says why). ``delta_vs_matched_baseline`` holds the raw published differences under CE-Bench's
    own names, which the ``cycle3`` policy reads."""
    problem, delta = mismatch(record, frozen), float(np.mean(pair_delta(record, frozen)))
    gain = Metric(None if problem else delta, n=record["n_pairs"], method="paired mean over pairs")
    old = {name: _value(frozen, new) for name, new in OLD_NAMES.items()}
    return {
        **record,
        "metrics": {**record["metrics"], "delta_vs_frozen": gain},
        "matched_baseline_metrics": old,
        "delta_vs_matched_baseline": {
            name: _value(record, new) - old[name] for name, new in OLD_NAMES.items()
        },
        "baseline": {
            **{key: frozen[key] for key in ("recipe", "recipe_hash", "d_sae", "l0")},
            "mismatch": problem,
        },
    }


def _value(record: dict, name: str) -> float | None:
    return read_metric(record["metrics"][name]).value


def delta_table(records: Sequence[dict], frozen: Sequence[dict]) -> tuple[np.ndarray, list[str]]:
    """Deltas per seed and theme, ``(n_seeds, n_themes)``, with the themes' families.

    A seed is paired with the control of the same seed where there is one, otherwise with the mean
    of all controls."""
    families = dict(zip(records[0]["themes"], records[0]["families"], strict=True))
    by_seed = {r["seed"]: r for r in frozen}
    rows = []
    for record in records:
        controls = [by_seed[record["seed"]]] if record["seed"] in by_seed else list(frozen)
        delta = np.mean([pair_delta(record, control) for control in controls], axis=0)
        means = theme_means(delta, record["themes"])
        rows.append([means[theme] for theme in families])
    return np.array(rows), list(families.values())


def recipe_metrics(records: Sequence[dict], frozen: Sequence[dict] = ()) -> dict[str, Metric]:
    """Metrics of a recipe over its seeds: scores with jackknife-t intervals, ``delta_vs_frozen``
    crossed over seeds and themes.

    The delta has no value when any control is not matched in width and L0.

    Raises
    ------
    HusaiError
        ``records`` is empty.
    """
    from husai.statistics import crossed_metric, jackknife_t

    if not records:
        raise HusaiError(
            "CE-Bench: no record to summarise; run husai cebench for at least one seed"
        )
    metrics = {}
    for name in records[0]["metrics"]:
        values = [_value(r, name) for r in records]
        if None not in values and not name.startswith("delta"):
            metrics[name] = jackknife_t(values)
    metrics["bound"] = Metric(records[0]["bound"], method="(d_sae - 1) / sqrt(d_sae)")
    if frozen:
        problems = {mismatch(r, f) for r in records for f in frozen} - {None}
        gain = crossed_metric(*delta_table(records, frozen))
        unmatched = Metric(None, n=gain.n, method="; ".join(sorted(problems)))
        metrics["delta_vs_frozen"] = unmatched if problems else gain
    return metrics

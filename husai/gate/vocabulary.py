"""The evidence kinds and metrics a policy may speak of: a typo is a mistake, not a silent fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CHECKS = ("one_version", "one_config", "verified", "derived", "one_attempt")

STABILITY = (
    *("S", "S_all", "S_worst_seed", "S_weighted", "pwmcc", "pwmcc_all", "pwmcc_weighted", "pw_mcc"),
    *("null_gaussian", "null_init", "null_covariance", "null_frozen", "null_crowding"),
    *("null_worst", "null_worst_all", "null_error", "assessable"),
    *("shared_fraction", "shared_fraction_all", "shared_fraction_weighted", "feature_stability"),
    *("activation_r", "null_activation_r", "activation_agreement"),
    *("explained_variance", "explained_variance_vs_frozen", "l0", "l0_vs_frozen", "l0_per_d_in"),
    *("dead_fraction", "dense_fraction", "redundancy", "distinct_latents"),
    *("cos_to_init", "cos_to_init_all", "shared_init_pairs", "clone_pairs", "untraced_seeds"),
    *("effective_rank", "participation_ratio", r"subspace_overlap_r\d+"),
)
METRICS: dict[str, tuple[str, ...]] = {
    "integrity": (
        *("leak_excess", "plateau_gain", "cos_to_init"),
        *("dead_fraction", "text_overlap_rows", "shared_init_pairs"),
    ),
    "stability": STABILITY,
    "random_model": ("delta_S", "delta_probing"),
    "transcoder": ("delta_S", "transcoder_delta"),
    "ood": ("excess_drop", "ood_drop"),
    "saebench": ("delta_vs_frozen", "delta_vs_dense", "delta_vs_neurons", "delta_vs_pca"),
    "cebench": ("delta_vs_frozen", "bound", "interpretability_published", "interpretability_fixed"),
    "faithfulness": ("recovered", "recovered_vs_frozen"),
    "baseline": ("trained_random_delta", "trained_random_delta_lcb"),
    "selection": (
        "external_delta",
        "saebench_delta",
        "saebench_delta_ci95_low",
        "cebench_interp_delta_vs_baseline",
        "cebench_interp_delta_vs_baseline_ci95_low",
    ),
}


def metric_names(declared: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Known metric name patterns by evidence kind, with a policy's own ``declares`` added."""
    known = {kind: tuple(names) for kind, names in METRICS.items()}
    for kind, names in declared.items():
        known[kind] = known.get(kind, ()) + tuple(names)
    return known

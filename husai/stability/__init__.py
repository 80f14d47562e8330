"""Are trained features more reproducible than chance? Measures on decoders ``(d_sae, d_in)``."""

from husai.stability.assignment import Match, hungarian, pw_mcc, shared_fraction
from husai.stability.functional import activation_agreement, agreement_matrix
from husai.stability.measure import compare_weights, measure_stability
from husai.stability.nulls import NullResult, gaussian_decoder, null_pwmcc, worst_null
from husai.stability.reconstruction import evaluate_sae, row_batches
from husai.stability.report import StabilityReport, verdict
from husai.stability.similarity import (
    feature_stability,
    mean_to_others,
    movement,
    pairwise,
    pairwise_best,
    pwmcc,
)
from husai.stability.subspace import (
    activation_covariance,
    default_ranks,
    effective_rank,
    participation_ratio,
    principal_directions,
    subspace_overlap,
    subspace_overlaps,
)
from husai.stability.synthetic import (
    Recovery,
    planted_decoders,
    planted_recovery,
    synthetic_activations,
)
from husai.statistics import assessable, chance_corrected

__all__ = [
    "Match",
    "NullResult",
    "Recovery",
    "StabilityReport",
    "activation_agreement",
    "activation_covariance",
    "agreement_matrix",
    "assessable",
    "chance_corrected",
    "compare_weights",
    "default_ranks",
    "effective_rank",
    "evaluate_sae",
    "feature_stability",
    "gaussian_decoder",
    "hungarian",
    "mean_to_others",
    "measure_stability",
    "movement",
    "null_pwmcc",
    "pairwise",
    "pairwise_best",
    "participation_ratio",
    "planted_decoders",
    "planted_recovery",
    "principal_directions",
    "pw_mcc",
    "pwmcc",
    "row_batches",
    "shared_fraction",
    "subspace_overlap",
    "subspace_overlaps",
    "synthetic_activations",
    "verdict",
    "worst_null",
]

"""Intervals, tests and effect sizes whose units are independent: seeds and data-set families, never
pairs that share one.
"""

from husai.statistics.areas import auc, auc_interval
from husai.statistics.chance import assessable, chance_corrected
from husai.statistics.comparisons import cohens_d, difference_pvalue, holm, pseudo_values
from husai.statistics.ensemble import (
    clone_pairs,
    coincidence_limit,
    ensemble_metrics,
    matrix_interval,
)
from husai.statistics.intervals import (
    Difference,
    difference,
    jackknife_difference,
    jackknife_se,
    jackknife_t,
    leave_one_out,
    t_quantile,
)
from husai.statistics.quality import corrected
from husai.statistics.recovered import recovered_interval
from husai.statistics.resampling import bootstrap_percentile, crossed_interval, crossed_metric

__all__ = [
    "Difference",
    "assessable",
    "auc",
    "auc_interval",
    "bootstrap_percentile",
    "chance_corrected",
    "clone_pairs",
    "cohens_d",
    "coincidence_limit",
    "corrected",
    "crossed_interval",
    "crossed_metric",
    "difference",
    "difference_pvalue",
    "ensemble_metrics",
    "holm",
    "jackknife_difference",
    "jackknife_se",
    "jackknife_t",
    "leave_one_out",
    "matrix_interval",
    "pseudo_values",
    "recovered_interval",
    "t_quantile",
]

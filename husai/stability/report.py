"""One ensemble's stability as data: the matrices, the nulls, the corrected value with its interval,
and a verdict in words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from husai.evidence import Metric
from husai.stability.nulls import NullResult, worst_null
from husai.stability.quality import Weighted
from husai.statistics import (
    assessable,
    chance_corrected,
    clone_pairs,
    corrected,
    ensemble_metrics,
    matrix_interval,
)
from husai.statistics.ensemble import OVERLAP, PER_SEED, SINGLE
from husai.statistics.nulls import NullMean, null_means

CLAIM_SEEDS = 5
S_BAR = 0.30
SHARED_BAR = 0.30
"""What a table calls reproducible: the fewest seeds of any gate of the strict policy, and its
bars."""


@dataclass(frozen=True)
class StabilityReport:
    """What :func:`husai.stability.measure_stability` found for one ensemble of n SAEs.

    Matrices are ``(n, n)`` float64 tensors, symmetric; those without ``_all`` leave dead latents
    out."""

    seeds: list[int]
    d_in: int
    """Width of the space the decoders live in."""
    d_sae: list[int]
    pwmcc: torch.Tensor
    pwmcc_all: torch.Tensor
    pw_mcc: torch.Tensor
    shared: torch.Tensor
    shared_all: torch.Tensor
    reappearance: torch.Tensor
    """Share of features with a match in the other SAE, averaged over both directions."""
    sigma: list[torch.Tensor]
    """Per SAE and living feature: fraction of the other seeds in which it reappears."""
    subspace: dict[int, torch.Tensor]
    """Overlap of the top singular subspaces at each rank."""
    nulls: dict[str, NullResult]
    nulls_all: dict[str, NullResult]
    """Those of ``pwmcc_all``; they differ where dead latents are left out of ``nulls``."""
    activation_r: torch.Tensor | None = None
    explained_variance: list[float] | None = None
    l0: list[float] | None = None
    dead_fraction: list[float] | None = None
    cos_to_init: list[float] | None = None
    cos_to_init_all: list[float] | None = None
    effective_rank: float | None = None
    participation_ratio: float | None = None
    shared_init_pairs: int | None = None
    """Pairs of seeds that started from one decoder; None when the starts are unknown."""
    same_index: torch.Tensor | None = None
    """Rows of a pair that match best at their own index, of all with a direction; 1 on average
    between independent trainings.
    """
    start_trace: list[float] | None = None
    """Per SAE, how far it resembles the start of its seed row by row; see
    :func:`husai.stability.origin.start_trace`.
    """
    start_trace_limit: list[float] | None = None
    """What :attr:`start_trace` is for a decoder that is its own start: the most it can be."""
    quality: dict[str, list[float]] = field(default_factory=dict)
    """Further values per SAE, see :func:`husai.stability.quality.per_seed_quality`."""
    frozen_quality: dict[str, list[float]] = field(default_factory=dict)
    """Explained variance and L0 per SAE of the frozen control; empty without one."""
    weighted: Weighted | None = None
    """Agreement weighted by what each latent explains; None for a transcoder."""
    activation_null: NullResult | None = None
    """Activation agreement of unrelated dictionaries with the same encoder rule and L0."""
    extra: dict = field(default_factory=dict)

    @property
    def clone_pairs(self) -> int:
        """Pairs that are no two trainings; see :func:`husai.statistics.clone_pairs`."""
        same = None if self.same_index is None else self.same_index.numpy()
        return clone_pairs(self.pwmcc_all.numpy(), same)

    @property
    def worst(self) -> NullResult:
        """The null that S is measured against."""
        return worst_null(self.nulls.values())

    @property
    def assessable(self) -> bool:
        """False when chance alone scores above 0.9."""
        return assessable(self.worst)

    def s_matrix(self) -> torch.Tensor:
        """Chance-corrected value ``(n, n)`` of every pair, against the worst null."""
        return chance_corrected(self.pwmcc, self.worst)

    def s_interval(self, null: NullResult | None = None) -> Metric:
        """S with its delete-one-seed jackknife-t interval; undefined when the null is above 0.9."""
        return s_of(self.pwmcc, null or self.worst)

    def metrics(self) -> dict[str, Metric]:
        """``{name: metric}`` of a record; pairwise values with jackknife-t intervals over seeds."""
        single = {name: getattr(self, name) for name in SINGLE}
        return ensemble_metrics(self._stored()) | {
            name: Metric(float(value)) for name, value in single.items() if value is not None
        }

    def details(self) -> dict:
        """Everything behind the metrics as JSON values: matrices, per-seed values, nulls, the
        distribution of sigma.
        """
        return {
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            **self._stored(),
            "worst_null": self.worst.kind,
            "feature_stability_histogram": sigma_histogram(self.sigma),
            "verdict": verdict(self.s_interval(), matrix_interval(self.shared.numpy()), self.worst),
            **self.extra,
        }

    def _stored(self) -> dict:
        """Pairwise values, values per seed and nulls as JSON values: what
        :func:`husai.statistics.ensemble_metrics` needs.
        """
        names = ("pwmcc", "pwmcc_all", "pw_mcc", "shared", "shared_all", "reappearance")
        found = {name: getattr(self, name) for name in (*names, "activation_r", "same_index")}
        matrices = {name: m.tolist() for name, m in found.items() if m is not None}
        matrices |= {f"{OVERLAP}{rank}": m.tolist() for rank, m in self.subspace.items()}
        if self.weighted is not None:
            matrices["pwmcc_weighted"] = self.weighted.pwmcc.tolist()
            matrices["shared_weighted"] = self.weighted.shared.tolist()
        names = (*PER_SEED, "start_trace", "start_trace_limit")
        per_seed = {name: getattr(self, name) for name in names} | self.quality
        null = self.activation_null
        return {
            "pairwise": matrices,
            "per_seed": {"seed": self.seeds}
            | {name: values for name, values in per_seed.items() if values is not None},
            "nulls": {kind: null._asdict() for kind, null in self.nulls.items()},
            "nulls_all": {kind: null._asdict() for kind, null in self.nulls_all.items()},
            "activation_nulls": {} if null is None else {null.kind: null._asdict()},
            "frozen": self.frozen_quality,
        }


def s_of(pwmcc: torch.Tensor, null: NullResult) -> Metric:
    """Chance-corrected stability of a pairwise matrix ``(n, n)`` on the CPU with its interval;
    undefined when the null is not assessable.
    """
    error = null_means({"gaussian": null._asdict()})["gaussian"].error
    return corrected(pwmcc.numpy(), NullMean(null.mean, error, 0), null.kind)


def sigma_histogram(sigma: list[torch.Tensor]) -> dict[str, list[float]]:
    """Share of features, over all SAEs, that reappear in exactly 0, 1, ... of the other seeds;
    ``sigma`` holds ``(n_living,)`` per SAE, see :func:`husai.stability.feature_stability`.
    """
    n = len(sigma)
    seeds = torch.cat([(s * (n - 1)).round().long() for s in sigma])
    counts = torch.bincount(seeds, minlength=n).double()
    return {"seeds": list(range(n)), "share": (counts / counts.sum()).tolist()}


def verdict(s: Metric, shared: Metric, null: NullResult) -> str:
    """The result in words, by the bars of the ``strict`` policy (S and shared fraction: lower bound
    at least 0.30).
    """
    bars = f"S and the shared fraction must both be at least {S_BAR:.2f} with 95% confidence"
    if not assessable(null):
        return (
            f"not assessable: unrelated dictionaries already score {null.mean:.3f} "
            f"({null.kind} null), so agreement here says nothing"
        )
    if not math.isfinite(s.value):
        return "not assessable: no pair of independent SAEs to compare"
    if not math.isfinite(s.lcb):
        return (
            f"no interval: {s.n} independent SAEs are too few (3 give an interval, "
            f"{CLAIM_SEEDS} a claim); the value alone is no evidence"
        )
    if s.lcb >= S_BAR and shared.lcb >= SHARED_BAR:
        if s.n < CLAIM_SEEDS:
            return (
                f"reproducible on these {s.n} SAEs, too few for a claim ({CLAIM_SEEDS} are needed)"
            )
        return "reproducible"
    if s.lcb > 0:
        return f"above chance, but not reproducible enough to release ({bars})"
    return (
        f"less alike than the {null.kind} null" if s.ucb < 0 else "not distinguishable from chance"
    )

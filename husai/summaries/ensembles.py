"""The baseline ensembles: each subject's stability record seen through the baseline's seeds."""

from __future__ import annotations

from collections.abc import Sequence

from husai.errors import RecipeFailed
from husai.evidence import Metric
from husai.planning.specs import BaselineSpec
from husai.stability.record import StabilityRecord, failed_records, interval, read_records

PLATEAU_BAR = 0.005
"""Gain in explained variance over the last fifth of training at the full rate below which it has
come to rest: the bar of the strict policy."""


class BaselineEnsemble:
    """The baseline ensemble of one subject: its stability record seen through the baseline's
    seeds.
    """

    def __init__(self, record: StabilityRecord, seeds: Sequence[int]):
        self.record, self.seeds, self.data = record, list(seeds), record.data
        self.subject = record.data["subject"]
        self.worst = record.worst_null(seeds=seeds)
        self.null = record.null(self.worst, seeds=seeds)
        self.s = record.s_interval(seeds, self.null)
        self.final = [f for f in record.data.get("final", []) if f["seed"] in set(seeds)]

    def per_seed(self, name: str) -> Metric:
        """Mean of one value per seed, with its interval."""
        return interval(self.record.per_seed(name, self.seeds))

    @property
    def plateau(self) -> float | None:
        """Largest relative gain in explained variance over the last fifth of training at the full
        rate; None when it was not followed.
        """
        return max((f["plateau_gain"] for f in self.final), default=None)

    def verdict(self) -> str:
        """The result in words."""
        if set(self.seeds) == set(self.record.seeds):
            return self.data.get("verdict", "")
        from husai.stability import NullResult, verdict

        shared = interval(self.record.matrix("shared", self.seeds))
        return verdict(self.s, shared, NullResult(self.null, 0.0, (self.null,), self.worst))


def ensembles(spec: BaselineSpec, inputs: Sequence[str]) -> list[BaselineEnsemble]:
    """The baseline ensemble of every subject, the configured order kept.

    Raises
    ------
    RecipeFailed
        Where one could not be trained or measured: every later stage builds on them.
    """
    failed = [f"{name}: failed: {reason}" for name, reason in failed_records(inputs).items()]
    if failed:
        raise RecipeFailed(f"baseline: {'; '.join(failed)}; change the training of this subject")
    return [BaselineEnsemble(record, spec.baseline.seeds) for record in read_records(inputs)]


def span(found: Metric) -> str:
    """A metric with its interval, three digits after the point."""
    return f"{found.value:.3f} [{found.lcb:.3f}, {found.ucb:.3f}]"

"""Reading stability evidence for the stage summaries: metrics of any subset of its seeds, with the
subset's own intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from husai.errors import HusaiError, RecipeFailed
from husai.evidence import Metric, read_metric
from husai.provenance import failure, read_json
from husai.recipe import Recipe
from husai.statistics import assessable, chance_corrected, corrected, t_quantile
from husai.statistics import matrix_interval as interval
from husai.statistics.intervals import as_array, square
from husai.statistics.nulls import NullMean, null_mean, null_means, pair_matrix


class StabilityRecord:
    """One ``results/stability/{subject}/{recipe}.json``.

    Attributes
    ----------
    path : Path
    data : dict
        The record as written by the stability job.
    recipe : Recipe
    seeds : list of int
    """

    def __init__(self, path: str | Path):
        self.path, self.data = Path(path), read_json(path)
        if self.data.get("kind") != "stability":
            raise HusaiError(
                f"{path}: expected stability evidence, found kind {self.data.get('kind')!r}; run "
                "the stability job again"
            )
        if failure(self.data):
            raise RecipeFailed(f"{path}: {failure(self.data)}")
        self.recipe = Recipe.from_dict(self.data["recipe_fields"])
        self.seeds = [int(s) for s in self.data["per_seed"]["seed"]]

    @property
    def id(self) -> str:
        """Readable name of the recipe."""
        return self.data["recipe"]

    def metric(self, name: str) -> Metric | None:
        """A metric over all seeds, or None when it was not measured."""
        found = self.data["metrics"].get(name)
        return None if found is None else read_metric(found)

    def value(self, name: str) -> float:
        """Value of a metric over all seeds; NaN when it was not measured."""
        found = self.metric(name)
        return float("nan") if found is None or found.value is None else float(found.value)

    def _index(self, seeds: Iterable[int] | None) -> list[int]:
        wanted = set(self.seeds if seeds is None else seeds)
        missing = wanted - set(self.seeds)
        if missing:
            raise HusaiError(
                f"{self.path}: seeds {sorted(missing)} were not measured; run the train and "
                "stability jobs of this recipe again"
            )
        return [i for i, seed in enumerate(self.seeds) if seed in wanted]

    def matrix(self, name: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """Pairwise matrix ``(n, n)`` of the given seeds (all by default)."""
        index = self._index(seeds)
        return square(self.data["pairwise"][name])[np.ix_(index, index)]

    def pairs(self, name: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """The upper triangle of :meth:`matrix`: one value per pair of seeds."""
        return upper(self.matrix(name, seeds))

    def per_seed(self, name: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """One value per seed: explained_variance, l0, dead_fraction or cos_to_init; NaN where it
        was not measured.
        """
        values, index = self.data["per_seed"].get(name), self._index(seeds)
        return np.full(len(index), np.nan) if values is None else as_array(values)[index]

    def null_matrix(
        self, kind: str, seeds: Iterable[int] | None = None, nulls: str = "nulls"
    ) -> np.ndarray:
        """Pairwise values ``(n, n)`` of a null for the given seeds: as many random draws, or these
        seeds' own initialisations.

        A frozen control has seeds of its own and enters whole. ``nulls`` is ``nulls_all`` for those
        with dead latents.

        Raises
        ------
        HusaiError
            The null, or one of the seeds, was not measured.
        """
        if kind not in self.data[nulls]:
            raise HusaiError(
                f"{self.path}: the {kind} null was not measured; measured were "
                f"{', '.join(self.data[nulls])}"
            )
        matrix, index = pair_matrix(self.data[nulls][kind]["pairs"]), self._index(seeds)
        if kind == "frozen" or len(matrix) != len(self.seeds):
            return matrix
        index = index if kind == "init" else range(len(index))
        return matrix[np.ix_(index, index)]

    def null(
        self,
        kind: str = "worst",
        among: Iterable[str] | None = None,
        seeds: Iterable[int] | None = None,
    ) -> float:
        """Mean over pairs of a null; ``worst`` is the highest of all, or of those in ``among``."""
        kind = self.worst_null(among, seeds) if kind == "worst" else kind
        return self.null_mean(kind, seeds).value

    def null_mean(self, kind: str, seeds: Iterable[int] | None = None) -> NullMean:
        """A null of the given seeds with its standard error; further draws of it, where there are
        any, belong to no seed.
        """
        draws = self.data["nulls"].get(kind, {}).get("draws") or ()
        found = null_mean(upper(self.null_matrix(kind, seeds)), draws)
        if np.isnan(found.error):
            found = found._replace(error=null_means(self.data["nulls"])[kind].error)
        return found

    def worst_null(
        self, among: Iterable[str] | None = None, seeds: Iterable[int] | None = None
    ) -> str:
        """Kind of the highest null, of those measured or of those named in ``among``."""
        kinds = [kind for kind in self.data["nulls"] if among is None or kind in set(among)]
        return max(kinds, key=lambda kind: self.null_mean(kind, seeds).value)

    def s_matrix(self, seeds: Iterable[int] | None = None, null: float | None = None) -> np.ndarray:
        """Chance-corrected agreement of every pair, ``(n, n)`` float64, against the worst null
        unless another value is given.
        """
        null = self.null(seeds=seeds) if null is None else null
        return chance_corrected(self.matrix("pwmcc", seeds), null)

    def s_interval(
        self, seeds: Iterable[int] | None = None, null: float | NullMean | None = None
    ) -> Metric:
        """S with its jackknife-t interval, the error of the null in it (none for a plain number);
        undefined where the null is above what can be assessed.
        """
        if null is None:
            null = self.null_mean(self.worst_null(seeds=seeds), seeds)
        null = null if isinstance(null, NullMean) else NullMean(float(null), 0.0, 0)
        return corrected(self.matrix("pwmcc", seeds), null)

    def conservative_delta(
        self, seeds: Iterable[int] | None = None, among: Iterable[str] | None = None
    ) -> float:
        """Lower bound of PWMCC less the upper bound of the worst null, both jackknife-t; ``-inf``
        where the null is not assessable.
        """
        kind = self.worst_null(among, seeds)
        null, draws = self.null_mean(kind, seeds), self.data["nulls"][kind].get("draws")
        if not assessable(null.value):
            return float("-inf")
        lowest = interval(self.matrix("pwmcc", seeds)).lcb
        if draws:
            return lowest - (null.value + t_quantile(null.units - 1) * null.error)
        return lowest - interval(self.null_matrix(kind, seeds)).ucb


def upper(matrix: np.ndarray) -> np.ndarray:
    """The values above the diagonal of a matrix ``(n, n)``, in the order of :func:`pair_matrix`:
    ``(n * (n - 1) / 2,)``.
    """
    return matrix[np.triu_indices(len(matrix), 1)]


def condition_row(
    record: StabilityRecord, seeds: Sequence[int] | None = None, nulls: Iterable[str] | None = None
) -> dict:
    """One row of a summary table: settings, stability against the worst null, quality, all over the
    given seeds.

    ``nulls`` names those the worst is taken of, where conditions are compared that do not all have
    the same; by default all measured."""
    recipe, seeds = record.recipe, list(seeds or record.seeds)
    worst = record.null_mean(record.worst_null(nulls, seeds), seeds)
    quality = {
        name: interval(record.per_seed(name, seeds))
        for name in ("explained_variance", "l0", "dead_fraction", "cos_to_init")
    }
    return {
        "recipe": record.id,
        "d_sae": recipe.d_sae,
        "k": record.data.get("resolved", {}).get("k", recipe.k),
        "n_seeds": len(seeds),
        "S": record.s_interval(seeds, worst),
        "pwmcc": interval(record.matrix("pwmcc", seeds)),
        "null_worst": Metric(worst.value, n=1, method="mean of the worst null"),
        "shared_fraction": interval(record.matrix("shared", seeds)),
        **quality,
    }


def common_nulls(records: Iterable[StabilityRecord]) -> list[str]:
    """Kinds of null that every record has: what conditions can be compared by fairly."""
    kinds = [list(r.data["nulls"]) for r in records]
    return [kind for kind in kinds[0] if all(kind in other for other in kinds)]


def load_records(
    paths: Iterable[str | Path], subject: str | None = None
) -> dict[str, StabilityRecord]:
    """``{recipe id: record}`` of :func:`read_records`, of one subject where one is named."""
    return {r.id: r for r in read_records(paths) if subject in (None, r.data["subject"])}


def read_records(paths: Iterable[str | Path]) -> list[StabilityRecord]:
    """The stability evidence among ``paths``, in order, without recipes that failed."""
    return [StabilityRecord(p) for p in _stability(paths) if not failure(read_json(p))]


def failed_records(paths: Iterable[str | Path], subject: str | None = None) -> dict[str, str]:
    """``{recipe id: reason}`` of recipes that failed, of one subject where one is named."""
    records = [read_json(p) for p in _stability(paths)]
    return {
        r["recipe"]: reason
        for r in records
        if subject in (None, r["subject"]) and (reason := failure(r))
    }


def _stability(paths: Iterable[str | Path]) -> list[Path]:
    return [p for p in map(Path, paths) if "stability" in p.parts]

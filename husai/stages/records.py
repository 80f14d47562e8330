"""Reading stability evidence for the stage summaries: metrics of any subset of its seeds, with the subset's own intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from husai.errors import HusaiError, RecipeFailed
from husai.provenance import metric, read_json
from husai.recipe import Recipe
from husai.stages.failed import failure
from husai.statistics import Interval, assessable, chance_corrected, jackknife_t


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
            raise HusaiError(f"{path}: expected stability evidence, found kind {self.data.get('kind')!r}; run the stability job again")
        if failure(self.data):
            raise RecipeFailed(f"{path}: {failure(self.data)}")
        self.recipe = Recipe.from_dict(self.data["recipe_fields"])
        self.seeds = [int(s) for s in self.data["per_seed"]["seed"]]

    @property
    def id(self) -> str:
        """Readable name of the recipe."""
        return self.data["recipe"]

    def metric(self, name: str) -> dict | None:
        """A metric over all seeds, or None when it was not measured."""
        return self.data["metrics"].get(name)

    def value(self, name: str) -> float:
        """Value of a metric over all seeds; NaN when it was not measured."""
        found = self.metric(name)
        return float("nan") if found is None or found["value"] is None else float(found["value"])

    def _index(self, seeds: Iterable[int] | None) -> list[int]:
        wanted = self.seeds if seeds is None else [s for s in self.seeds if s in set(seeds)]
        missing = set(seeds or ()) - set(self.seeds)
        if missing:
            raise HusaiError(
                f"{self.path}: seeds {sorted(missing)} were not measured; run the train and stability jobs of this recipe again"
            )
        return [self.seeds.index(s) for s in wanted]

    def matrix(self, name: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """Pairwise matrix ``(n, n)`` of the given seeds (all by default)."""
        index = self._index(seeds)
        values = np.array([[np.nan if v is None else v for v in row] for row in self.data["pairwise"][name]], dtype=np.float64)
        return values[np.ix_(index, index)]

    def pairs(self, name: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """The upper triangle of :meth:`matrix`: one value per pair of seeds."""
        matrix = self.matrix(name, seeds)
        return matrix[np.triu_indices(len(matrix), 1)]

    def per_seed(self, name: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """One value per seed: explained_variance, l0, dead_fraction or cos_to_init; NaN where it was not measured."""
        values = self.data["per_seed"].get(name)
        index = self._index(seeds)
        return np.full(len(index), np.nan) if values is None else np.array(values, dtype=np.float64)[index]

    def null(self, kind: str = "worst", among: Iterable[str] | None = None) -> float:
        """Mean of a null; ``worst`` is the highest of those measured, or of those named in ``among``."""
        nulls = {name: n["mean"] for name, n in self.data["nulls"].items()}
        if kind == "worst":
            return max(mean for name, mean in nulls.items() if among is None or name in set(among))
        if kind not in nulls:
            raise HusaiError(f"{self.path}: the {kind} null was not measured; measured were {', '.join(nulls)}")
        return nulls[kind]

    def s_matrix(self, seeds: Iterable[int] | None = None, null: float | None = None) -> np.ndarray:
        """Chance-corrected agreement of every pair, against the worst null unless another value is given."""
        return chance_corrected(self.matrix("pwmcc", seeds), self.null() if null is None else null)

    def s_interval(self, seeds: Iterable[int] | None = None, null: float | None = None) -> Interval:
        """S with its jackknife-t interval; undefined where the null is above what can be assessed."""
        null = self.null() if null is None else null
        if not assessable(null):
            return Interval(float("nan"), float("-inf"), float("inf"), len(self._index(seeds)), f"not assessable: null {null:.3f}")
        return interval(self.s_matrix(seeds, null))


def interval(matrix: np.ndarray) -> Interval:
    """Jackknife-t of a pairwise matrix, or of one value per seed; an undefined entry gives an undefined value without bounds."""
    values = np.asarray(matrix, dtype=np.float64)
    defined = values[~np.eye(len(values), dtype=bool)] if values.ndim == 2 else values
    if not np.isfinite(defined).all():
        return Interval(float("nan"), float("-inf"), float("inf"), len(values), "undefined")
    return jackknife_t(values)


def condition_row(record: StabilityRecord, seeds: Sequence[int] | None = None, nulls: Iterable[str] | None = None) -> dict:
    """One row of a summary table: settings, stability against the worst null, quality, all over the given seeds.

    ``nulls`` names those the worst is taken of, where conditions are compared that do not all have the same; by default all measured.
    """
    recipe, seeds = record.recipe, list(seeds or record.seeds)
    worst = record.null(among=nulls)
    quality = {
        name: interval(record.per_seed(name, seeds)).metric() for name in ("explained_variance", "l0", "dead_fraction", "cos_to_init")
    }
    return {
        "recipe": record.id,
        "d_sae": recipe.d_sae,
        "k": record.data.get("resolved", {}).get("k", recipe.k),
        "n_seeds": len(seeds),
        "S": record.s_interval(seeds, worst).metric(),
        "pwmcc": interval(record.matrix("pwmcc", seeds)).metric(),
        "null_worst": metric(worst, n=1, method="mean over pairs of the worst null"),
        "shared_fraction": interval(record.matrix("shared", seeds)).metric(),
        **quality,
    }


def common_nulls(records: Iterable[StabilityRecord]) -> list[str]:
    """Kinds of null that every record has: what conditions can be compared by without favouring one."""
    kinds = [list(r.data["nulls"]) for r in records]
    return [kind for kind in kinds[0] if all(kind in other for other in kinds)]


def load_records(paths: Iterable[str | Path], subject: str | None = None) -> dict[str, StabilityRecord]:
    """``{recipe id: record}`` of :func:`read_records`, of one subject where one is named."""
    return {r.id: r for r in read_records(paths) if subject in (None, r.data["subject"])}


def read_records(paths: Iterable[str | Path]) -> list[StabilityRecord]:
    """The stability evidence among ``paths``, in their order; that of recipes that failed is left out."""
    return [StabilityRecord(p) for p in _stability(paths) if not failure(read_json(p))]


def failed_records(paths: Iterable[str | Path]) -> dict[str, str]:
    """``{recipe id: reason}`` of the recipes among ``paths`` that failed."""
    records = [read_json(p) for p in _stability(paths)]
    return {r["recipe"]: reason for r in records if (reason := failure(r))}


def _stability(paths: Iterable[str | Path]) -> list[Path]:
    return [p for p in map(Path, paths) if "stability" in p.parts]

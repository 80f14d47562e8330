"""External records of one recipe over its seeds, as the frontier and scaling tables read them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError
from husai.provenance import failure
from husai.recipe import Recipe


class RecipeRecords:
    """External records of one recipe over its seeds, in the order of the seeds; ``failure`` says
    why when the recipe failed.
    """

    def __init__(self, name: str, saebench: Sequence[dict], cebench: Sequence[dict]):
        self.saebench, self.cebench = list(saebench), list(cebench)
        recipe_dir = Path("results/saes") / saebench[0]["subject"] / name
        self.described = provenance.read_json(recipe_dir / "recipe.json")
        self.recipe = Recipe.from_dict(self.described["recipe"])
        self.resolved = Recipe.from_dict(self.described.get("resolved") or self.described["recipe"])
        self.seeds = [r["seed"] for r in self.saebench]
        self.failure = failure(self.described) or next(
            filter(None, map(seed_failure, (*self.saebench, *self.cebench))), None
        )
        if self.seeds != [r["seed"] for r in self.cebench]:
            raise HusaiError(
                f"{self.recipe.id}: SAEBench measured seeds {self.seeds}, CE-Bench "
                f"{[r['seed'] for r in self.cebench]}; rerun the missing one"
            )

    @property
    def l0(self) -> float:
        """Target L0 after calibration."""
        return self.resolved.matched_l0

    @property
    def shape(self) -> tuple[str, int, float]:
        """What a matched control shares: hook, width and L0."""
        return self.resolved.hook_name, self.resolved.d_sae, self.l0

    @property
    def dense_k(self) -> int:
        """The k at which the recipe is compared with the dense probe."""
        return self.saebench[0]["probing"]["dense_k"]

    def final(self, name: str) -> list[float]:
        """A training result per seed."""
        by_seed = {f["seed"]: f[name] for f in self.described["final"]}
        return [by_seed[s] for s in self.seeds]


def seed_failure(record: dict) -> str | None:
    """Why the measurement of one SAE failed; None when it did not."""
    reason = failure(record)
    return f"{record['kind']} of seed {record['seed']}: {reason}" if reason else None


def load_measured(inputs: Sequence[str]) -> dict[str, RecipeRecords]:
    """``{recipe id: Measured}`` from the external records among ``inputs``."""
    found: dict[str, dict[str, list[dict]]] = defaultdict(lambda: {"saebench": [], "cebench": []})
    for path in map(Path, inputs):
        if path.stem in ("saebench", "cebench") and path.parent.name.startswith("seed"):
            found[path.parent.parent.name][path.stem].append(provenance.read_json(path))
    return {name: RecipeRecords(name, **records) for name, records in found.items()}


def control_of(measured: RecipeRecords, pool: dict[str, RecipeRecords]) -> RecipeRecords:
    """The frozen-decoder control of the same hook, width and L0.

    Raises
    ------
    HusaiError
        ``pool`` holds no such control.
    """
    for other in pool.values():
        if other.resolved.frozen_decoder and other.shape == measured.shape:
            return other
    raise HusaiError(
        f"{measured.recipe.id}: no frozen-decoder control of hook {measured.recipe.hook_name}, "
        f"d_sae {measured.recipe.d_sae}, L0 {measured.l0:g}"
    )

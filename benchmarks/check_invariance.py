"""Do figures depend on the number of threads or on companion seeds? The baseline recipes of a
finished run, trained and measured again.

Usage: python benchmarks/check_invariance.py [--results results] [--subjects modular language]
[--steps N] [--seeds N] [--threads 1 2]

Each recipe is trained with every number of threads and its stability measured with the same number;
one seed is also trained alone. Prints the largest difference of any metric of the stability record,
and whether the weights are equal bit for bit. Exit status 1 above 1e-4."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from husai.activations import ActivationStore
from husai.compute import use_threads
from husai.config import load
from husai.planning.plan import Plan
from husai.recipe import Recipe
from husai.sae import train_ensemble
from husai.stability import measure_stability

LIMIT = 1e-4
ROOT = Path(__file__).parents[1]


def measured(recipe: Recipe, seeds: list[int], data, held_out, threads: int):
    """The trained ensemble and the values of its stability record."""
    use_threads(threads)
    result = train_ensemble(recipe, seeds, data, held_out=held_out)
    report = measure_stability(
        result.saes, held_out, seeds=seeds, initial_decoders=result.initial_decoders
    )
    return result, {name: found.value for name, found in report.metrics().items()}


def check(recipe: Recipe, seeds: list[int], folder: Path, threads: list[int]) -> dict:
    """Differences between numbers of threads, and between a seed trained alone and with
    companions.
    """
    data, held_out = (
        ActivationStore.open(folder / split).tensor() for split in ("train", "held_out")
    )
    runs = [measured(recipe, seeds, data, held_out, n) for n in threads]
    first, metrics = runs[0]
    differences = {
        name: max(abs(found[name] - value) for _, found in runs)
        for name, value in metrics.items()
        if value == value
    }
    worst = max(differences, key=differences.get)
    alone = train_ensemble(recipe, seeds[-1:], data, held_out=held_out)
    return {
        "recipe": f"{recipe.subject}/{recipe.id}",
        "steps": recipe.steps,
        "threads": threads,
        "metrics": len(differences),
        "largest_difference": differences[worst],
        "of": worst,
        "same_weights": all(
            torch.equal(a.W_dec, b.W_dec)
            for other, _ in runs
            for a, b in zip(first.saes, other.saes, strict=True)
        ),
        "same_weights_alone": torch.equal(alone.saes[0].W_dec, first.saes[-1].W_dec),
    }


def main() -> int:
    """Check every subject of the baseline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="results of a finished run (default %(default)s)",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[str(ROOT / "config/config.yaml")],
        help="its configuration files",
    )
    parser.add_argument("--subjects", nargs="+", help="default: all of the baseline")
    parser.add_argument("--steps", type=int, help="training steps (default: as configured)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds trained (default %(default)s)")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1, 2],
        help="numbers of threads compared (default 1 2)",
    )
    args = parser.parse_args()
    recipes, seeds = Plan(load(args.config)).baseline
    largest = 0.0
    for recipe in recipes:
        if recipe.frozen_decoder or (args.subjects and recipe.subject not in args.subjects):
            continue
        folder = args.results / "subjects" / recipe.subject / "activations" / recipe.hook_name
        found = check(
            replace(recipe, steps=args.steps or recipe.steps),
            list(seeds[: args.seeds]),
            folder,
            args.threads,
        )
        print(json.dumps(found), flush=True)
        largest = max(largest, found["largest_difference"])
    return int(largest > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

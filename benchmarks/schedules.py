"""How long and how fast should an SAE be trained? Steps against learning rate.

    make run && python benchmarks/schedules.py [RUN] [--folder .bench/schedules]

Trains recipes of `config/config.yaml` with other numbers of steps and other learning rates, with
the seeds of the frontier, on the activations of a finished run: selection data alone. Prints
stability, explained variance and L0, and the gain before the learning rate falls: the mean of the
seeds, and the largest, which the strict policy wants below 0.005. What it made is kept: started
again, it goes on where it was. Fifteen minutes of one core."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from husai.compute import use_threads
from husai.config import load
from husai.evidence import read_metric
from husai.jobs.stability import stability_job
from husai.jobs.train_recipe import train_job
from husai.planning.plan import Plan
from husai.planning.specs import TrainSpec
from husai.provenance import read_json

CONFIG = Path(__file__).parents[1] / "config/config.yaml"
SCHEDULES = (
    ("relu", 3000, 1.0e-3, 1.94),
    ("relu", 2000, 1.5e-3, 1.94),
    ("relu", 1500, 2.0e-3, 1.94),
    ("relu", 1000, 5.0e-3, 1.85),
    ("relu", 1000, 8.0e-3, 1.8),
    ("relu", 1500, 8.0e-3, 1.8),
    ("relu", 1000, 1.2e-2, 1.8),
    ("topk", 1000, 2.0e-3, None),
    ("topk", 1000, 5.0e-3, None),
    ("topk", 1000, 8.0e-3, None),
    ("matryoshka", 1000, 2.0e-3, None),
    ("matryoshka", 1000, 5.0e-3, None),
    ("matryoshka", 1000, 8.0e-3, None),
)
"""Architecture, steps, learning rate, and the sparsity coefficient that gives an L0 of 32 there."""
SHOWN = ("S", "shared_fraction", "explained_variance", "l0")


def measured(recipe, seeds: list[int], store: Path, out: Path) -> dict:
    """The stability record of a recipe, trained unless it was."""
    path = out / "stability.json"
    if not path.is_file():
        train_job(TrainSpec(recipe=recipe, seeds=seeds), store, out, device="cpu")
        stability_job(out, store, path)
    return read_json(path)


def row(record: dict, architecture: str, steps: int, rate: float) -> str:
    """A line of the table."""
    shown = [read_metric(record["metrics"][name]) for name in SHOWN]
    cells = [f"{m.value:.3f} [{m.lcb:.3f}, {m.ucb:.3f}]" for m in shown[:3]]
    gains = [final["plateau_gain"] for final in record["final"]]
    cells += [f"{shown[3].value:.1f}", f"{sum(gains) / len(gains):.4f}", f"{max(gains):.4f}"]
    return f"| {architecture} | {steps} | {rate:g} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("."), help="a finished run")
    parser.add_argument("--folder", type=Path, default=Path(".bench/schedules"))
    args = parser.parse_args()
    use_threads(1)  # as the default trains
    plan = Plan(config := load([CONFIG]))
    plain = {r.architecture: r for r in plan.frontier if not r.frozen_decoder}
    print(
        "| recipe | steps | learning rate | S | shared | EV | L0 | gain | largest |\n|" + "---|" * 9
    )
    for architecture, steps, rate, coefficient in SCHEDULES:
        schedule = {"steps": steps, "learning_rate": rate, "sparsity_coefficient": coefficient}
        tag = f"steps{steps}-lr{rate:g}"
        recipe = replace(plain[architecture], tag=tag, **schedule)
        store = args.run / f"results/subjects/{recipe.subject}/activations/{recipe.hook_name}"
        record = measured(recipe, config.frontier.seeds, store, args.folder / recipe.id)
        print(row(record, architecture, steps, rate), flush=True)


if __name__ == "__main__":
    main()

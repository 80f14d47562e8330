"""Ground truth for the baseline: SAEs trained on activations made from a known dictionary, scored
on how much of it they find (``husai train --planted``).
"""

from __future__ import annotations

from argparse import Namespace

from husai.evidence import Metric, new_record
from husai.jobs.measured import write_record
from husai.recipe import Recipe

ROWS, HELD_OUT = 40_000, 4_096
"""Rows trained on: some 20 passes in 800 steps, with every planted feature active thousands of
times; and rows for measuring, as many as the default configuration holds out."""


def run(args: Namespace) -> None:
    """Train TopK SAEs, k the true L0, on planted features and write evidence of kind ``planted``.

    Metrics: ``recovery`` (mean max cosine of the true features, chance-corrected: 0 random
    directions, 1 all found), its raw value, ``S`` between seeds, and explained variance. Says
    whether S is high because the SAEs found the truth.
    """
    from husai.compute import resolve_device
    from husai.planning.specs import PlantedSpec, read_spec
    from husai.progress import Progress
    from husai.sae import train_ensemble
    from husai.stability import measure_stability
    from husai.stability.synthetic import planted_recovery, synthetic_activations

    spec = read_spec(PlantedSpec, args.spec)
    rows, truth = synthetic_activations(
        ROWS + HELD_OUT, spec.d_in, spec.n_features, spec.l0, seed=0
    )
    data, held_out = rows[:ROWS], rows[ROWS:]
    recipe = Recipe(
        "planted",
        "synthetic",
        "topk",
        spec.d_sae,
        k=spec.l0,
        steps=spec.steps,
        batch_size=1024,
        learning_rate=2.0e-3,
    )
    progress = Progress(recipe.steps, "planted features: steps")
    result = train_ensemble(
        recipe,
        spec.seeds,
        data,
        held_out=held_out,
        device=resolve_device(args.device),
        dtype=args.dtype,
        progress=progress.update,
    )
    report = measure_stability(
        result.saes, held_out, seeds=spec.seeds, initial_decoders=result.initial_decoders
    )
    metrics = _metrics(report, [planted_recovery(sae.W_dec, truth) for sae in result.saes])
    config = spec.values()
    about = {"config": config, "seeds": spec.seeds, "spec": config}
    record = new_record("planted", "planted", recipe.id, recipe.hash, metrics, **about)
    write_record(args.out, record)


def _metrics(report, found: list) -> dict[str, Metric]:
    """Recovery over seeds, and what says how stable and how good the SAEs are."""
    from husai.statistics import jackknife_t

    measured = report.metrics()
    metrics = {
        "recovery": jackknife_t([f.recovery for f in found]),
        "mean_max_cosine": jackknife_t([f.mean_max_cosine for f in found]),
        "recovery_null": Metric(found[0].null, method="gaussian decoders of the same shape"),
    }
    shown = ("S", "pwmcc", "null_worst", "shared_fraction", "explained_variance", "dead_fraction")
    metrics |= {name: measured[name] for name in shown}
    return metrics

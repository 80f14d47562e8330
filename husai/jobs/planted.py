"""Ground truth for the baseline: SAEs trained on activations made from a known dictionary, scored
on how much of it they find.
"""

from __future__ import annotations

from pathlib import Path

from husai import provenance
from husai.evidence import Metric, new_record
from husai.recipe import Recipe

ROWS, HELD_OUT = 40_000, 4_096


def planted_job(spec: dict, out: Path, *, device: str = "auto", dtype: str = "float32") -> dict:
    """Train TopK SAEs on planted features and write evidence of kind ``planted``.

    Parameters
    ----------
    spec : dict
        ``d_in``, ``n_features``, ``l0`` of the data; ``d_sae``, ``steps``, ``seeds`` of the SAEs (k
        is the true L0).

    Notes
    -----
    Metrics: ``recovery`` (mean max cosine of the true features, chance-corrected: 0
    random directions, 1 all found), its raw value, ``S`` between seeds, and explained variance.
    Says whether S is high because the SAEs found the truth."""
    from husai.compute import resolve_device
    from husai.progress import Progress
    from husai.sae import train_ensemble
    from husai.stability import measure_stability
    from husai.stability.synthetic import planted_recovery, synthetic_activations
    from husai.statistics import jackknife_t

    rows, truth = synthetic_activations(
        ROWS + HELD_OUT, spec["d_in"], spec["n_features"], spec["l0"], seed=0
    )
    data, held_out = rows[:ROWS], rows[ROWS:]
    recipe = Recipe(
        "planted",
        "synthetic",
        "topk",
        spec["d_sae"],
        k=spec["l0"],
        steps=spec["steps"],
        batch_size=1024,
        learning_rate=2.0e-3,
    )
    progress = Progress(recipe.steps, "planted features: steps")
    result = train_ensemble(
        recipe,
        spec["seeds"],
        data,
        held_out=held_out,
        device=resolve_device(device),
        dtype=dtype,
        progress=progress.update,
    )
    report = measure_stability(
        result.saes, held_out, seeds=spec["seeds"], initial_decoders=result.initial_decoders
    )
    found = [planted_recovery(sae.W_dec, truth) for sae in result.saes]
    measured = report.metrics()
    metrics = {
        "recovery": jackknife_t([f.recovery for f in found]),
        "mean_max_cosine": jackknife_t([f.mean_max_cosine for f in found]),
        "recovery_null": Metric(found[0].null, method="gaussian decoders of the same shape"),
        **{
            name: measured[name]
            for name in (
                "S",
                "pwmcc",
                "null_worst",
                "shared_fraction",
                "explained_variance",
                "dead_fraction",
            )
        },
    }
    record = new_record(
        "planted",
        "planted",
        recipe.id,
        recipe.hash,
        metrics,
        config=spec,
        seeds=spec["seeds"],
        spec=spec,
    )
    with provenance.job(
        out.with_suffix(".manifest.json"), config=spec, seeds=spec["seeds"]
    ) as work:
        provenance.write_json(out, record)
        work.writes(out)
    return record

"""Evidence about the ensembles of the self-test, measured as the real stages measure it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from husai import provenance
from husai.cebench.bound import score_bound
from husai.evidence import SCHEMA, Metric
from husai.gate.selftest import ground_truth
from husai.gate.selftest.worlds import (
    D_SAE,
    N_ANSWERS,
    N_STORIES,
    N_TASKS,
    SEEDS,
    Ensemble,
    World,
    as_tensor,
)
from husai.sae import SAE, Recipe, evaluate_sae
from husai.stability import StabilityReport, measure_stability
from husai.statistics import crossed_interval, jackknife_difference, jackknife_t


def stability(
    ensemble: Ensemble, held_out: torch.Tensor, frozen: Ensemble | None, target=None
) -> StabilityReport:
    """Stability of an ensemble against the worst of its own nulls."""
    extra = {
        "initial_decoders": ensemble.initial,
        "frozen": frozen.saes if frozen else None,
        "target": target,
    }
    return measure_stability(ensemble.saes, held_out, seeds=SEEDS[: len(ensemble.saes)], **extra)


def records(
    name: str,
    recipe: Recipe,
    ensemble: Ensemble,
    world: World,
    frozen: Ensemble,
    randomised: StabilityReport,
    transcoder: StabilityReport,
) -> list[dict]:
    """All evidence of one case under one recipe hash."""
    held = as_tensor(world.held_out.x)
    report = stability(ensemble, held, frozen)
    found = report.metrics()
    versus = {
        kind: {"delta_S": _difference(report, other)}
        for kind, other in (("random_model", randomised), ("transcoder", transcoder))
    }
    kinds = {
        "integrity": integrity(ensemble, world, found),
        "stability": found,
        **versus,
        **probing(ensemble, frozen, world),
        "cebench": contrastive(ensemble, frozen, world),
    }
    config = {"case": name, "recipe": recipe.to_dict()}
    recipe_hash = provenance.hash_json(config)[:16]
    about = provenance.provenance(config, SEEDS)
    head = {
        "schema": SCHEMA,
        "subject": "planted",
        "recipe": name,
        "recipe_hash": recipe_hash,
        "inputs": [],
    }
    return [
        {**head, "kind": kind, "metrics": metrics, "provenance": about}
        for kind, metrics in kinds.items()
    ]


def _difference(a: StabilityReport, b: StabilityReport) -> dict:
    """S of one ensemble less S of another, each against its own null; undefined where a null leaves
    nothing to assess.
    """
    if not (a.assessable and b.assessable):
        return Metric(None, n=len(a.seeds), method="not assessable")
    return jackknife_difference(a.s_matrix().numpy(), b.s_matrix().numpy())


def integrity(
    ensemble: Ensemble, world: World, stability_metrics: dict[str, dict]
) -> dict[str, dict]:
    """Leak probe on the subject, plateau, movement, dead latents, disjoint rows, independent
    starts.
    """
    n, evaluation = len(SEEDS), np.concatenate([rows.x for rows in world.task_rows])
    alive = [
        evaluate_sae(sae, as_tensor(world.held_out.x))["dead_fraction"] for sae in ensemble.saes
    ]
    return {
        "leak_excess": Metric(
            ground_truth.leak_excess(world.held_out.x, world.answers, N_ANSWERS),
            n=n,
            method="held-out ridge probe",
        ),
        "plateau_gain": Metric(ensemble.plateau_gain, n=n, method="mean over seeds"),
        "cos_to_init": stability_metrics["cos_to_init"],
        "dead_fraction": jackknife_t(np.array([float(a) for a in alive])),
        "text_overlap_rows": Metric(
            float(ground_truth.shared_rows(world.train.x, evaluation)), n=n, method="count"
        ),
        "shared_init_pairs": stability_metrics["shared_init_pairs"],
    }


def _encode(sae: SAE) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: sae.encode(as_tensor(x)).numpy().astype(np.float64)


def probing(ensemble: Ensemble, frozen: Ensemble, world: World) -> dict[str, dict[str, dict]]:
    """``saebench`` and ``ood`` metrics: probes for planted features at fixed k, in the domain and
    out of it.
    """
    labels = [ground_truth.task_labels(rows, N_TASKS) for rows in world.task_rows]

    def scores(encode: Callable, k: int | None) -> np.ndarray:
        z = [encode(rows.x) for rows in world.task_rows]
        return ground_truth.probe_scores(
            z[0], labels[0], list(zip(z[1:], labels[1:], strict=True)), k
        )

    own = np.stack([scores(_encode(sae), ground_truth.GATE_K) for sae in ensemble.saes])
    control = np.stack([scores(_encode(sae), ground_truth.GATE_K) for sae in frozen.saes])
    dense = scores(lambda x: x.astype(np.float64), None)
    neurons = scores(lambda x: x.astype(np.float64), ground_truth.GATE_K)
    axes = ground_truth.principal_axes(world.train.x)
    components = scores(lambda x: x.astype(np.float64) @ axes, ground_truth.GATE_K)
    tasks = list(range(N_TASKS))
    drop = (own[:, 0] - own[:, 1]) - (dense[0] - dense[1])
    saebench = {
        "delta_vs_frozen": crossed_interval(own[:, 0] - control[:, 0], tasks),
        "delta_vs_neurons": crossed_interval(own[:, 0] - neurons[0], tasks),
        "delta_vs_pca": crossed_interval(own[:, 0] - components[0], tasks),
        "delta_vs_dense": crossed_interval(own[:, 0] - dense[0], tasks),
    }
    return {"saebench": saebench, "ood": {"excess_drop": crossed_interval(drop, tasks)}}


def contrastive(ensemble: Ensemble, frozen: Ensemble, world: World) -> dict[str, dict]:
    """``cebench`` metrics: score as a fraction of its bound, less that of the frozen-decoder SAE of
    the same seed.
    """
    bound = score_bound(D_SAE)
    own, control = (
        np.stack([ground_truth.contrastive_scores(_encode(sae), world.stories) for sae in e.saes])
        for e in (ensemble, frozen)
    )
    return {
        "delta_vs_frozen": crossed_interval((own - control) / bound, list(range(N_STORIES))),
        "bound": Metric(bound, n=len(SEEDS), method="(n - 1) / sqrt(n)"),
        "interpretability_fixed": Metric(
            float(own.mean()), n=len(SEEDS), method="mean over seeds and pairs"
        ),
    }

"""Evidence about the ensembles of the self-test, measured as the real stages measure it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from husai import provenance
from husai.cebench.bound import score_bound
from husai.evidence import Metric
from husai.gate.fixed import records_as_fixed
from husai.gate.policy import Policy
from husai.gate.selftest import ground_truth, worlds
from husai.gate.selftest.worlds import SEEDS, TrainedSAEs, World, as_tensor
from husai.sae import SAE, Recipe, evaluate_sae
from husai.sae.fold import fold_norms
from husai.stability import StabilityReport, measure_stability
from husai.statistics import crossed_interval, jackknife_difference, jackknife_t
from husai.statistics.recovered import faithfulness_metrics, losses_of


def stability(
    ensemble: TrainedSAEs, held_out: torch.Tensor, frozen: TrainedSAEs | None, target=None
) -> StabilityReport:
    """Stability of an ensemble on the rows ``held_out (n_rows, d_in)`` against the worst of its own
    nulls; ``target (n_rows, d_out)`` is what transcoders reconstruct.
    """
    seeds, controls = SEEDS[: len(ensemble.saes)], frozen.saes if frozen else None
    extra = {"initial_decoders": ensemble.initial, "frozen": controls, "target": target}
    return measure_stability(ensemble.saes, held_out, seeds=seeds, **extra)


def records(
    name: str,
    recipe: Recipe,
    ensemble: TrainedSAEs,
    world: World,
    frozen: TrainedSAEs,
    randomised: StabilityReport,
    transcoder: StabilityReport,
    random_scores: np.ndarray,
    policy: Policy,
) -> list[dict]:
    """All evidence of one case under one recipe hash; ``random_scores (n_random, n_tasks)``, from
    :func:`random_scores`, are compared with those of as many of the first seeds.
    """
    held = as_tensor(world.held_out.x)
    report = stability(ensemble, held, frozen)
    found = report.metrics()
    versus = {
        kind: {"delta_S": _difference(report, other)}
        for kind, other in (("random_model", randomised), ("transcoder", transcoder))
    }
    probed, own = probing(ensemble, frozen, world)
    versus["random_model"]["delta_probing"] = crossed_interval(
        own[: len(random_scores)] - random_scores, list(range(worlds.N_TASKS))
    )
    kinds = {
        "integrity": integrity(ensemble, world, found),
        "stability": found,
        **versus,
        **probed,
        "cebench": contrastive(ensemble, frozen, world),
        "faithfulness": faithfulness(ensemble, frozen, world),
    }
    config = {"case": name, "recipe": recipe.to_dict()}
    head = {"subject": "planted", "recipe": name}
    head |= {"recipe_hash": provenance.hash_json(config)[:16]}
    return records_as_fixed(policy, kinds, **head, provenance=provenance.provenance(config, SEEDS))


def _difference(a: StabilityReport, b: StabilityReport) -> dict:
    """S of one ensemble less S of another; undefined where a null leaves nothing to assess."""
    if not (a.assessable and b.assessable):
        return Metric(None, n=len(a.seeds), method="not assessable")
    return jackknife_difference(a.s_matrix().numpy(), b.s_matrix().numpy())


def integrity(
    ensemble: TrainedSAEs, world: World, stability_metrics: dict[str, dict]
) -> dict[str, dict]:
    """Leak probe, plateau, movement, dead latents, disjoint rows, independent starts."""
    n, held = len(SEEDS), as_tensor(world.held_out.x)
    dead = [float(evaluate_sae(sae, held)["dead_fraction"]) for sae in ensemble.saes]
    leak = ground_truth.leak_excess(world.held_out.x, world.answers, worlds.N_ANSWERS)
    evaluation = np.concatenate([rows.x for rows in world.task_rows])
    overlap = float(ground_truth.shared_rows(world.train.x, evaluation))
    return {
        "leak_excess": Metric(leak, n=n, method="held-out ridge probe"),
        "plateau_gain": Metric(ensemble.plateau_gain, n=n, method="mean over seeds"),
        "cos_to_init": stability_metrics["cos_to_init"],
        "dead_fraction": jackknife_t(np.array(dead)),
        "text_overlap_rows": Metric(overlap, n=n, method="count"),
        "shared_init_pairs": stability_metrics["shared_init_pairs"],
    }


def _encode(sae: SAE) -> Callable[[np.ndarray], np.ndarray]:
    folded = fold_norms(sae)  # as it is judged: the scale of a latent is no feature of it
    return lambda x: folded.encode(as_tensor(x)).numpy().astype(np.float64)


def probing(
    ensemble: TrainedSAEs, frozen: TrainedSAEs, world: World
) -> tuple[dict[str, dict[str, Metric]], np.ndarray]:
    """``saebench`` and ``ood`` metrics: probes for planted features at fixed k, in the domain and
    out of it; beside them the AUC in the domain, ``(n_seeds, n_tasks)``.

    These SAEs have fewer latents than the larger k that the dense probe is compared at.
    """
    labels = [ground_truth.task_labels(rows, worlds.N_TASKS) for rows in world.task_rows]

    def scores(encode: Callable, k: int | None) -> np.ndarray:
        z = [encode(rows.x) for rows in world.task_rows]
        tests = list(zip(z[1:], labels[1:], strict=True))
        return ground_truth.probe_scores(z[0], labels[0], tests, k)

    def of_saes(one: TrainedSAEs, k: int | None) -> np.ndarray:
        return np.stack([scores(_encode(sae), k) for sae in one.saes])

    k, axes = ground_truth.GATE_K, ground_truth.principal_axes(world.train.x)
    own, control, wide = of_saes(ensemble, k), of_saes(frozen, k), of_saes(ensemble, None)
    dense = scores(lambda x: x.astype(np.float64), None)
    neurons = scores(lambda x: x.astype(np.float64), k)
    components = scores(lambda x: x.astype(np.float64) @ axes, k)
    deltas = {
        "delta_vs_frozen": own[:, 0] - control[:, 0],
        "delta_vs_neurons": own[:, 0] - neurons[0],
        "delta_vs_pca": own[:, 0] - components[0],
        "delta_vs_dense": wide[:, 0] - dense[0],
    }
    tasks = list(range(worlds.N_TASKS))
    saebench = {name: crossed_interval(delta, tasks) for name, delta in deltas.items()}
    drop = (own[:, 0] - own[:, 1]) - (dense[0] - dense[1])
    metrics = {"saebench": saebench, "ood": {"excess_drop": crossed_interval(drop, tasks)}}
    return metrics, own[:, 0]


def random_scores(randomised: TrainedSAEs, world: World) -> np.ndarray:
    """AUC ``(n_seeds, n_tasks)`` of the same probes on SAEs of the randomised subject, whose
    activations say nothing about the tasks.
    """
    labels = [ground_truth.task_labels(rows, worlds.N_TASKS) for rows in world.task_rows[:2]]
    rows = [
        ground_truth.gaussian_twin(rows.x, seed)
        for seed, rows in enumerate(world.task_rows[:2], start=31)
    ]
    found = []
    for sae in randomised.saes:
        z = [_encode(sae)(x) for x in rows]
        tests = [(z[1], labels[1])]
        found.append(ground_truth.probe_scores(z[0], labels[0], tests, ground_truth.GATE_K)[0])
    return np.stack(found)


def faithfulness(ensemble: TrainedSAEs, frozen: TrainedSAEs, world: World) -> dict[str, Metric]:
    """``faithfulness`` metrics: what the planted subject loses when reconstructions of held-out
    rows take the place of its activations."""
    x = world.held_out.x

    def losses(of: TrainedSAEs) -> dict[str, list]:
        rows = [sae(as_tensor(x)).numpy() for sae in of.saes]
        texts = [ground_truth.splicing_losses(x, found, world.features) for found in rows]
        return losses_of([{"texts": one} for one in texts])

    return faithfulness_metrics(losses(ensemble), losses(frozen))


def contrastive(ensemble: TrainedSAEs, frozen: TrainedSAEs, world: World) -> dict[str, dict]:
    """``cebench`` metrics: score as a fraction of its bound, less that of the frozen control."""
    bound = score_bound(worlds.D_SAE)
    own, control = (
        np.stack([ground_truth.contrastive_scores(_encode(sae), world.stories) for sae in e.saes])
        for e in (ensemble, frozen)
    )
    return {
        "delta_vs_frozen": crossed_interval((own - control) / bound, list(range(worlds.N_STORIES))),
        "bound": Metric(bound, n=len(SEEDS), method="(n - 1) / sqrt(n)"),
        "interpretability_fixed": Metric(
            float(own.mean()), n=len(SEEDS), method="mean over seeds and pairs"
        ),
    }

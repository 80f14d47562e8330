"""The job of ``gate selftest``: trains the oracle and the adversaries on planted features, measures
them, and judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from husai import provenance
from husai.cebench.bound import score_bound
from husai.gate.ledger import GateFailed
from husai.gate.policy import load_policy
from husai.gate.selftest import planted
from husai.gate.selftest.simulation import simulate
from husai.gate.selftest.trial import judge, summary
from husai.progress import log
from husai.sae import SAE, Recipe, evaluate_sae, train_ensemble
from husai.stability import StabilityReport, measure_stability
from husai.statistics import crossed_interval, jackknife_difference, jackknife_t

D_IN, N_FEATURES, D_SAE, L0 = 32, 40, 40, 3
N_TRAIN, N_HELD_OUT, N_TASKS, N_STORIES, N_ANSWERS = 12_000, 2_000, 12, 20, 10
SEEDS = list(range(8))
RECIPE = Recipe(
    "planted",
    "planted",
    "topk",
    D_SAE,
    k=L0,
    steps=500,
    batch_size=256,
    learning_rate=6.0e-3,
    auxk_coefficient=0.0,
    dead_after_rows=3_000,
)


@dataclass(frozen=True)
class Ensemble:
    """Trained SAEs, where they started, and the mean relative gain over the last part of their
    training.
    """

    saes: list[SAE]
    initial: list[torch.Tensor]
    plateau_gain: float


@dataclass(frozen=True)
class World:
    """The planted subject and everything measured once: rows, tasks, stories, and the baselines of
    the benchmarks.
    """

    train: planted.Rows
    held_out: planted.Rows
    task_rows: tuple[
        planted.Rows, planted.Rows, planted.Rows
    ]  # probe training, in-domain test, out-of-domain test
    stories: list[tuple[np.ndarray, np.ndarray]]
    answers: np.ndarray


def selftest_job(
    spec: dict, out: str | Path, *, device: str = "cpu", fail: bool = False
) -> dict[str, Any]:
    """Write ``results/gate/selftest.json``.

    Parameters
    ----------
    spec : dict
        ``null_campaigns`` (at least 2000 for the report), optional ``power_campaigns`` and
        ``steps`` of the trainings.
    out : path
        File to write; ``selftest.manifest.json`` goes beside it.
    fail : bool
        Raise :class:`GateFailed` (exit 2), after writing, when the gate did not behave as it
        should.
    """
    out = Path(out)
    with provenance.job(out.with_suffix(".manifest.json"), config=spec, seeds=SEEDS) as work:
        policy = load_policy("strict")
        evidence = cases(device, int(spec.get("steps", RECIPE.steps)))
        rows = judge(policy, evidence)
        log("gate selftest: simulating campaigns")
        simulation = simulate(
            policy, int(spec.get("null_campaigns", 2000)), int(spec.get("power_campaigns", 500))
        )
        body = summary(policy, rows, simulation) | {
            "provenance": provenance.provenance(spec, SEEDS)
        }
        provenance.write_json(out, body)
        work.writes(out)
    log(f"gate selftest: {body['headline']}")
    if fail and not body["passed"]:
        raise GateFailed(f"{body['headline']} See {out}")
    return body


def cases(device: str = "cpu", steps: int = RECIPE.steps) -> dict[str, list[dict]]:
    """Evidence records of the oracle and of every adversary, from real trainings."""
    recipe = replace(RECIPE, steps=steps)
    world = build_world()
    x, held = _tensor(world.train.x), _tensor(world.held_out.x)
    train = _trainer(device)
    log("gate selftest: training oracle, frozen decoder, randomised subject, transcoder")
    oracle = train(recipe, SEEDS, x, held)
    frozen = train(replace(recipe, frozen_decoder=True), SEEDS, x, held)
    twin = (
        planted.gaussian_twin(world.train.x, seed=5),
        planted.gaussian_twin(world.held_out.x, seed=6),
    )
    randomised = train(recipe, SEEDS[:5], _tensor(twin[0]), _tensor(twin[1]))
    turn = torch.linalg.qr(torch.randn((D_IN, D_IN), generator=torch.Generator().manual_seed(7))).Q
    transcoder = train(
        replace(recipe, architecture="transcoder", target_hook_name="out"),
        SEEDS[:5],
        x,
        held,
        x @ turn,
        held @ turn,
    )
    log("gate selftest: training the adversaries")
    leaky_world = replace(world, train=_leaky(world.train, 11), held_out=_leaky(world.held_out, 12))
    leaky = train(recipe, SEEDS, _tensor(leaky_world.train.x), _tensor(leaky_world.held_out.x))
    ensembles = {
        "oracle": oracle,
        "frozen_decoder": frozen,
        "permuted_clone": _clones(oracle, shuffle=True),
        "cloned_seed": _clones(oracle, shuffle=False),
        "noisy_clone": _clones(oracle, shuffle=False, noise=0.01),
        "noisy_permuted_clone": _clones(oracle, shuffle=True, noise=0.01),
        "leaky_subject": leaky,
        "undertrained": train(replace(recipe, steps=max(steps // 16, 10)), SEEDS, x, held),
        "random_decoder": _random(oracle),
        "shared_initialisation": _one_start(train, recipe, x, held),
    }
    others = {
        "frozen": frozen,
        "randomised": stability(randomised, _tensor(twin[1]), None),
        "transcoder": stability(transcoder, held, None, held @ turn),
    }
    measure = {name: leaky_world if name == "leaky_subject" else world for name in ensembles}
    return {
        name: records(name, recipe, ensemble, measure[name], **others)
        for name, ensemble in ensembles.items()
    }


def build_world() -> World:
    """Rows, probing tasks (in and out of domain) and story pairs, all disjoint draws from one
    planted dictionary.
    """
    features = planted.dictionary(N_FEATURES, D_IN, seed=0)
    tasks = (
        planted.planted_rows(features, 1000, L0, seed=21),
        planted.planted_rows(features, 1000, L0, seed=22),
        planted.planted_rows(features, 1000, L0, seed=23, noise=0.08, magnitude=(0.4, 1.8)),
    )
    stories = []
    for index in range(N_STORIES):
        theme = index * N_FEATURES // N_STORIES
        about = planted.planted_rows(features, 24, L0, seed=100 + index, always=theme).x
        other = planted.planted_rows(features, 48, L0, seed=200 + index)
        stories.append((about, other.x[~other.active[:, theme]][:24]))
    train, held_out = (
        planted.planted_rows(features, N_TRAIN, L0, seed=1),
        planted.planted_rows(features, N_HELD_OUT, L0, seed=2),
    )
    answers = np.random.default_rng(3).integers(0, N_ANSWERS, N_HELD_OUT)
    return World(train, held_out, tasks, stories, answers)


def _leaky(rows: planted.Rows, seed: int) -> planted.Rows:
    """The same rows with the answer written into them; for the held-out rows the answers of the
    leak probe.
    """
    answers = np.random.default_rng(3 if len(rows.x) == N_HELD_OUT else seed).integers(
        0, N_ANSWERS, len(rows.x)
    )
    directions = planted.dictionary(N_ANSWERS, D_IN, seed=4)
    return planted.Rows((rows.x + 0.4 * directions[answers]).astype(np.float32), rows.codes)


def _tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def _trainer(device: str) -> Callable[..., Ensemble]:
    def train(
        recipe: Recipe, seeds: Sequence[int], x, held_out, target=None, held_out_target=None
    ) -> Ensemble:
        targets = {} if target is None else {"target": target, "held_out_target": held_out_target}
        found = train_ensemble(
            recipe,
            list(seeds),
            x,
            held_out=held_out,
            device=device,
            curve_points=3,
            sparse=False,
            **targets,
        )
        return Ensemble(
            found.saes,
            list(found.initial_decoders),
            float(np.mean([f["plateau_gain"] for f in found.final])),
        )

    return train


def _clones(oracle: Ensemble, shuffle: bool, noise: float = 0.0) -> Ensemble:
    """The first SAE under every seed's name, its latents in another order for each when
    ``shuffle``, its weights changed by ``noise``.

    Noise is relative: each decoder row, and each latent's encoder weights, get a random vector of
    ``noise`` times their length."""
    saes, generator = [], torch.Generator().manual_seed(31)
    for _ in SEEDS:
        order = torch.randperm(D_SAE, generator=generator) if shuffle else torch.arange(D_SAE)
        first = oracle.saes[0]
        rows = [_noisy(m, noise, generator) if noise else m for m in (first.W_enc.T, first.W_dec)]
        saes.append(_with(first, rows[0][order].T.contiguous(), rows[1][order], first.b_enc[order]))
    return replace(oracle, saes=saes)


def _noisy(rows: torch.Tensor, noise: float, generator: torch.Generator) -> torch.Tensor:
    step = torch.nn.functional.normalize(torch.randn(rows.shape, generator=generator), dim=1).to(
        rows
    )
    return rows + noise * rows.norm(dim=1, keepdim=True) * step


def _with(sae: SAE, W_enc: torch.Tensor, W_dec: torch.Tensor, b_enc: torch.Tensor) -> SAE:
    return SAE(sae.architecture, W_enc, W_dec, b_enc, sae.b_dec, k=sae.k)


def _random(oracle: Ensemble) -> Ensemble:
    """Random directions, read with their own transpose; said to have started from yet other random
    directions.
    """
    saes = []
    for seed, sae in zip(SEEDS, oracle.saes, strict=True):
        rows = torch.randn((D_SAE, D_IN), generator=torch.Generator().manual_seed(900 + seed))
        rows = torch.nn.functional.normalize(rows, dim=1).to(sae.W_dec)
        saes.append(_with(sae, rows.T.contiguous(), rows, torch.zeros_like(sae.b_enc)))
    return replace(oracle, saes=saes)


def _one_start(
    train: Callable[..., Ensemble], recipe: Recipe, x: torch.Tensor, held_out: torch.Tensor
) -> Ensemble:
    """Eight trainings of one seed's initialisation, each on other rows: alike because of where they
    began.
    """
    parts = [train(recipe, [0], part, held_out) for part in x.chunk(len(SEEDS))]
    gain = float(np.mean([p.plateau_gain for p in parts]))
    return Ensemble([p.saes[0] for p in parts], [p.initial[0] for p in parts], gain)


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
    held = _tensor(world.held_out.x)
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
        "schema": provenance.EVIDENCE_SCHEMA,
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
        return provenance.metric(None, n=len(a.seeds), method="not assessable")
    return jackknife_difference(a.s_matrix().numpy(), b.s_matrix().numpy()).metric()


def integrity(
    ensemble: Ensemble, world: World, stability_metrics: dict[str, dict]
) -> dict[str, dict]:
    """Leak probe on the subject, plateau, movement, dead latents, disjoint rows, independent
    starts.
    """
    n, evaluation = len(SEEDS), np.concatenate([rows.x for rows in world.task_rows])
    alive = [evaluate_sae(sae, _tensor(world.held_out.x))["dead_fraction"] for sae in ensemble.saes]
    return {
        "leak_excess": provenance.metric(
            planted.leak_excess(world.held_out.x, world.answers, N_ANSWERS),
            n=n,
            method="held-out ridge probe",
        ),
        "plateau_gain": provenance.metric(ensemble.plateau_gain, n=n, method="mean over seeds"),
        "cos_to_init": stability_metrics["cos_to_init"],
        "dead_fraction": jackknife_t(np.array([float(a) for a in alive])).metric(),
        "text_overlap_rows": provenance.metric(
            float(planted.shared_rows(world.train.x, evaluation)), n=n, method="count"
        ),
        "shared_init_pairs": stability_metrics["shared_init_pairs"],
    }


def _encode(sae: SAE) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: sae.encode(_tensor(x)).numpy().astype(np.float64)


def probing(ensemble: Ensemble, frozen: Ensemble, world: World) -> dict[str, dict[str, dict]]:
    """``saebench`` and ``ood`` metrics: probes for planted features at fixed k, in the domain and
    out of it.
    """
    labels = [planted.task_labels(rows, N_TASKS) for rows in world.task_rows]

    def scores(encode: Callable, k: int | None) -> np.ndarray:
        z = [encode(rows.x) for rows in world.task_rows]
        return planted.probe_scores(z[0], labels[0], list(zip(z[1:], labels[1:], strict=True)), k)

    own = np.stack([scores(_encode(sae), planted.GATE_K) for sae in ensemble.saes])
    control = np.stack([scores(_encode(sae), planted.GATE_K) for sae in frozen.saes])
    dense = scores(lambda x: x.astype(np.float64), None)
    tasks = list(range(N_TASKS))
    drop = (own[:, 0] - own[:, 1]) - (dense[0] - dense[1])
    saebench = {
        "delta_vs_frozen": crossed_interval(own[:, 0] - control[:, 0], tasks).metric(),
        "delta_vs_dense": crossed_interval(own[:, 0] - dense[0], tasks).metric(),
    }
    return {"saebench": saebench, "ood": {"excess_drop": crossed_interval(drop, tasks).metric()}}


def contrastive(ensemble: Ensemble, frozen: Ensemble, world: World) -> dict[str, dict]:
    """``cebench`` metrics: score as a fraction of its bound, less that of the frozen-decoder SAE of
    the same seed.
    """
    bound = score_bound(D_SAE)
    own, control = (
        np.stack([planted.contrastive_scores(_encode(sae), world.stories) for sae in e.saes])
        for e in (ensemble, frozen)
    )
    return {
        "delta_vs_frozen": crossed_interval(
            (own - control) / bound, list(range(N_STORIES))
        ).metric(),
        "bound": provenance.metric(bound, n=len(SEEDS), method="(n - 1) / sqrt(n)"),
        "interpretability_fixed": provenance.metric(
            float(own.mean()), n=len(SEEDS), method="mean over seeds and pairs"
        ),
    }

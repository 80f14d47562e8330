"""``gate selftest``: trains, measures and judges the oracle and the adversaries; then simulates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from husai import provenance
from husai.gate.ledger import GateFailed
from husai.gate.policy import Policy
from husai.gate.policy_files import load_policy
from husai.gate.selftest import counterfeits, ground_truth, worlds
from husai.gate.selftest.adversaries import judge, summary
from husai.gate.selftest.measurements import random_scores, records, stability
from husai.gate.selftest.simulation import simulate
from husai.gate.selftest.worlds import D_IN, RECIPE, SEEDS, TrainedSAEs, World, as_tensor
from husai.progress import log
from husai.sae import Recipe


def selftest_job(
    spec: dict,
    out: str | Path,
    *,
    beside: Mapping[str, Any] | None = None,
    device: str = "cpu",
    fail: bool = False,
) -> dict[str, Any]:
    """Write ``results/gate/selftest.json``.

    Parameters
    ----------
    spec : dict
        ``null_campaigns`` (at least 2000 for the report), optional ``power_campaigns`` and
        ``steps`` of the trainings.
    out : path
        File to write; ``selftest.manifest.json`` goes beside it.
    beside : mapping
        What else the file is to hold.
    fail : bool
        Raise :class:`GateFailed` (exit 2), after writing, when the gate did not behave as it
        should.
    """
    out = Path(out)
    with provenance.job(out.with_suffix(".manifest.json"), config=spec, seeds=SEEDS) as work:
        policy = load_policy("strict")
        evidence = cases(policy, device, int(spec.get("steps", RECIPE.steps)))
        rows = judge(policy, evidence)
        log("gate selftest: simulating campaigns")
        simulation = simulate(
            policy, int(spec.get("null_campaigns", 2000)), int(spec.get("power_campaigns", 500))
        )
        body = summary(policy, rows, simulation) | dict(beside or {})
        body["provenance"] = provenance.provenance(spec, SEEDS)
        provenance.write_json(out, body)
        work.writes(out)
    log(f"gate selftest: {body['headline']}")
    if fail and not body["passed"]:
        raise GateFailed(f"{body['headline']} See {out}")
    return body


def cases(policy: Policy, device: str = "cpu", steps: int = RECIPE.steps) -> dict[str, list[dict]]:
    """Evidence records of the oracle and of every adversary, from real trainings."""
    recipe = replace(RECIPE, steps=steps)
    world = worlds.build_world()
    x, held = as_tensor(world.train.x), as_tensor(world.held_out.x)
    train = partial(worlds.train, device=device)
    log("gate selftest: training oracle, frozen decoder, randomised subject, transcoder")
    oracle = train(recipe, SEEDS, x, held)
    frozen = train(replace(recipe, frozen_decoder=True), SEEDS, x, held)
    twin = as_tensor(ground_truth.gaussian_twin(world.train.x, seed=5))
    held_twin = as_tensor(ground_truth.gaussian_twin(world.held_out.x, seed=6))
    randomised = train(recipe, SEEDS[:5], twin, held_twin)
    turn = torch.linalg.qr(torch.randn((D_IN, D_IN), generator=torch.Generator().manual_seed(7))).Q
    other = replace(recipe, architecture="transcoder", target_hook_name="out")
    targets = {"target": x @ turn, "held_out_target": held @ turn}
    transcoder = train(other, SEEDS[:5], x, held, **targets)
    log("gate selftest: training the adversaries")
    leaky_rows = {"train": worlds.leaky(world.train, 11)}
    leaky_rows |= {"held_out": worlds.leaky(world.held_out, 12)}
    leaky_world = replace(world, **leaky_rows)
    ensembles = {"oracle": oracle} | _adversaries(train, recipe, world, leaky_world, oracle, frozen)
    others = {
        "frozen": frozen,
        "randomised": stability(randomised, held_twin, None),
        "transcoder": stability(transcoder, held, None, held @ turn),
        "random_scores": random_scores(randomised, world),
        "policy": policy,
    }
    measure = {name: leaky_world if name == "leaky_subject" else world for name in ensembles}
    return {
        name: records(name, recipe, ensemble, measure[name], **others)
        for name, ensemble in ensembles.items()
    }


def _adversaries(
    train: Callable[..., TrainedSAEs],
    recipe: Recipe,
    world: World,
    leaky_world: World,
    oracle: TrainedSAEs,
    frozen: TrainedSAEs,
) -> dict[str, TrainedSAEs]:
    """Every adversary, by name."""
    x, held = as_tensor(world.train.x), as_tensor(world.held_out.x)
    leaky_rows = as_tensor(leaky_world.train.x), as_tensor(leaky_world.held_out.x)
    short = replace(recipe, steps=max(recipe.steps // 16, 10))
    return {
        "frozen_decoder": frozen,
        "permuted_clone": worlds.clones(oracle, shuffle=True),
        "cloned_seed": worlds.clones(oracle, shuffle=False),
        "noisy_clone": worlds.clones(oracle, shuffle=False, noise=0.01),
        "noisy_permuted_clone": worlds.clones(oracle, shuffle=True, noise=0.01),
        "leaky_subject": train(recipe, SEEDS, *leaky_rows),
        "undertrained": train(short, SEEDS, x, held),
        "random_decoder": worlds.random_directions(oracle),
        "shared_initialisation": worlds.one_start(train, recipe, x, held),
        "overscaled": worlds.overscaled(oracle),
        "components": worlds.components(oracle, x),
        "collapsed": worlds.collapsed(oracle),
        "one_failed_seed": worlds.one_failed(oracle),
        "centroids": counterfeits.centroids(oracle, x),
        "rare_copies": counterfeits.rare_copies(oracle, x),
        "read_outs": counterfeits.read_outs(oracle, world),
        "rescaled": counterfeits.rescaled(oracle),
    }

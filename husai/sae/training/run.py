"""One run of training: members advanced together, curves taken along the way, the state saved, and
the exported SAEs with their final figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from husai.activations import Rows
from husai.recipe import Recipe
from husai.sae.architectures import SAE
from husai.sae.training.members import Ensemble, Member
from husai.sae.training.resume import Checkpoint
from husai.sae.training.workers import Workers
from husai.stability import evaluate_sae, mean_to_others, pairwise

CURVE_POINTS = 20
"""Rows of a curve; each costs one evaluation, about a step and a half."""
CURVE_ROWS = 4096
"""Held-out rows behind a point of a curve; final figures use all of them."""
STEPS_AT_ONCE = 10
"""Steps that the threads take before they wait for each other. Fewer would leave threads idle at
the end of each round; more would make progress and checkpoints come late.
"""
PLATEAU_START = 0.8
PLATEAU_GAIN = 0.005
"""A run has reached its plateau when the last 20% of its steps raised the explained variance by
less than 0.5%.
"""
QUALITY = ("explained_variance", "l0", "dead_fraction")


def run_members(
    recipe: Recipe,
    members: Sequence[Member],
    data: Rows,
    held_out: Rows,
    target: Rows | None = None,
    held_out_target: Rows | None = None,
    reference: torch.Tensor | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    sparse: bool | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, str], None] | None = None,
    curve_points: int = CURVE_POINTS,
) -> tuple[list[SAE], torch.Tensor, list[dict[str, Any]], list[dict[str, Any]]]:
    """Train any members (seeds, coefficients) together: SAEs, initial decoders, curve rows and
    final figures.

    On a CPU each of torch's threads computes one member at a time, so no figure depends on their
    number."""
    checkpoint = checkpoint or Checkpoint(None, recipe, members, dtype, [])
    with Workers(len(members), torch.device(device)) as workers:
        ensemble = Ensemble(recipe, members, data, target, reference, device, dtype, sparse)
        curves = checkpoint.load(ensemble)
        points = curve_steps(recipe.steps, curve_points)
        recorded = {row["step"] for row in curves}
        try:
            while True:
                if ensemble.done in points and ensemble.done not in recorded:
                    curves += _curve_rows(ensemble, held_out, held_out_target, workers)
                checkpoint.save(ensemble, curves)
                if ensemble.done >= recipe.steps:
                    break
                stops = (*points, ensemble.done + STEPS_AT_ONCE, checkpoint.next_due(ensemble.done))
                steps = min(stop for stop in stops if stop > ensemble.done) - ensemble.done
                workers.advance(ensemble.lanes, steps)
                if progress is not None:
                    progress(steps, recipe.id)
        finally:
            for lane in ensemble.lanes:
                lane.close()
        saes = workers.map(lambda i: ensemble.export(i, held_out), range(len(members)))
        final = _final_rows(ensemble, saes, curves, held_out, held_out_target, workers)
    return [s.to("cpu") for s in saes], ensemble.initial_decoders.float().cpu(), curves, final


def curve_steps(steps: int, points: int = CURVE_POINTS) -> set[int]:
    """Steps after which curves are taken: the start, ``points`` evenly spaced ones, the one at 80%
    and the end.
    """
    return {0, steps, _plateau_start(steps)} | {round(steps * i / points) for i in range(1, points)}


def plateau_gain(curve: Sequence[tuple[int, float]], steps: int) -> float:
    """Relative gain in explained variance over the last 20% of the steps: ``(EV_end - EV_80) /
    |EV_end|`` from ``(step, EV)`` pairs.
    """
    by_step = dict(curve)
    start, end = by_step[_plateau_start(steps)], by_step[steps]
    return (end - start) / abs(end) if end else float("inf")


def _plateau_start(steps: int) -> int:
    return int(PLATEAU_START * steps)


def _curve_rows(
    ensemble: Ensemble, held_out: Rows, held_out_target: Rows | None, workers: Workers
) -> list[dict[str, Any]]:
    losses = [loss for lane in ensemble.lanes for loss in lane.take_losses()]
    cosines, agreement = ensemble.cosine_to_initial(), _agreement(ensemble)

    def measure(i: int) -> dict[str, Any]:
        sae = ensemble.export(i, held_out, CURVE_ROWS)
        return evaluate_sae(sae, held_out, held_out_target, max_rows=CURVE_ROWS)

    measured = workers.map(measure, range(len(ensemble.members)))
    return [
        {
            "seed": member.seed,
            "step": ensemble.done,
            "loss": losses[i],
            **{name: measured[i][name] for name in QUALITY},
            "cos_to_init": float(cosines[i]),
            "pwmcc": agreement[i],
            "member": i,
        }
        for i, member in enumerate(ensemble.members)
    ]


def _agreement(ensemble: Ensemble) -> list[float | None]:
    """Each member's mean PWMCC with the others, all latents: the trajectory of stability; None for
    a single member.
    """
    if len(ensemble.members) < 2:
        return [None] * len(ensemble.members)
    return mean_to_others(pairwise(list(ensemble.parameters["W_dec"].detach().float()))).tolist()


def _final_rows(
    ensemble: Ensemble,
    saes: list[SAE],
    curves: list[dict],
    held_out: Rows,
    held_out_target: Rows | None,
    workers: Workers,
) -> list[dict[str, Any]]:
    cosines, rows = ensemble.cosine_to_initial(), []
    measured = workers.map(lambda sae: evaluate_sae(sae, held_out, held_out_target), saes)
    for i, (member, found) in enumerate(zip(ensemble.members, measured, strict=True)):
        curve = [(r["step"], r["explained_variance"]) for r in curves if r["member"] == i]
        gain = plateau_gain(curve, ensemble.recipe.steps)
        rows.append(
            {
                "seed": member.seed,
                **{name: found[name] for name in QUALITY},
                "cos_to_init": float(cosines[i]),
                "plateau_gain": gain,
                "plateau": gain < PLATEAU_GAIN,
                "sparsity_coefficient": member.coefficient or None,
            }
        )
    return rows

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
from husai.sae.training.optimiser import full_rate
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
PLATEAU_SHARE = 0.2
PLATEAU_GAIN = 0.005
"""A run has reached its plateau when a fifth of its steps at the full learning rate, those before
the decay, raised the explained variance by less than 0.5%. Under a falling rate any run comes to
rest."""
NO_PLATEAU = 1.0
"""Stands for the gain where the decay leaves no such fifth: nothing shows that training had
ended."""
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
    *,
    checkpoint: Checkpoint,
    progress: Callable[[int, str], None] | None = None,
    curve_points: int = CURVE_POINTS,
) -> tuple[list[SAE], torch.Tensor, list[dict[str, Any]], list[dict[str, Any]]]:
    """Train any members (seeds, coefficients) together: SAEs, initial decoders, curve rows and
    final figures.

    On a CPU each of torch's threads computes one member at a time, so no figure depends on their
    number."""
    with Workers(len(members), torch.device(device)) as workers:
        ensemble = Ensemble(recipe, members, data, target, reference, device, dtype, sparse)
        curves = checkpoint.load(ensemble)
        points = curve_steps(recipe, curve_points)
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


def curve_steps(recipe: Recipe, points: int = CURVE_POINTS) -> set[int]:
    """Steps after which curves are taken: the start, ``points`` evenly spaced ones, those that the
    plateau is judged by, and the end.
    """
    steps = recipe.steps
    evenly = {round(steps * i / points) for i in range(1, points)}
    return {0, steps, *plateau_span(recipe)} | evenly


def plateau_span(recipe: Recipe) -> tuple[int, int] | tuple[()]:
    """First and last step of the fifth of the training that ends where the learning rate begins to
    fall; nothing where that is not all at the full rate.
    """
    warm, falls = full_rate(recipe.steps, recipe.warmup_fraction, recipe.decay_fraction)
    start = falls - round(recipe.steps * PLATEAU_SHARE)
    return (start, falls) if warm <= start < falls else ()


def plateau_gain(curve: Sequence[tuple[int, float]], recipe: Recipe) -> float:
    """Relative gain in explained variance over :func:`plateau_span`, ``(EV_end - EV_start) /
    |EV_end|`` from ``(step, EV)`` pairs; :data:`NO_PLATEAU` where there is no such span.
    """
    span, by_step = plateau_span(recipe), dict(curve)
    if not span or not by_step[span[1]]:
        return NO_PLATEAU
    start, end = (by_step[step] for step in span)
    return (end - start) / abs(end)


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
        gain = plateau_gain(curve, ensemble.recipe)
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

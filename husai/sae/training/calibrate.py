"""The search for the sparsity coefficient that gives ReLU and JumpReLU SAEs a recipe's L0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from husai.activations import Rows, width
from husai.errors import HusaiError, RecipeFailed
from husai.progress import log
from husai.recipe import FIXED_K, Recipe
from husai.sae.training.members import Member
from husai.sae.training.resume import Checkpoint
from husai.sae.training.run import run_members

TOLERANCE = 0.05
"""Relative distance of the L0 reached from its target that counts as met; matched comparisons are
made at this tolerance.
"""
AIM = 0.03
"""The search ends when it is this close: below the tolerance, as other seeds differ from the one
that the search trains.
"""
COARSE_COEFFICIENTS = 8
COARSE_DECADES = 3.0
"""The first grid spans the coefficients between nearly all and nearly no latents active; its points
lie a factor of 2.7 apart, near enough for log-log interpolation.
"""
COARSE_STEPS = 0.25
"""Share of the steps for the grid: it has to order coefficients and show how L0 falls with them;
the later trials train in full."""
FULL_TRIALS = 12
"""Full trainings at most. One to three are enough where L0 falls smoothly with the coefficient; the
others are for JumpReLU, whose L0 may jump.
"""
CALIBRATION_SEED = 0
"""The seed that the search trains; L0 hardly differs between seeds at one coefficient, and a fixed
one makes the coefficient the same whichever seeds are asked for.
"""


class TriedCoefficient(NamedTuple):
    """One coefficient that was tried."""

    coefficient: float
    l0: float
    """Held-out mean number of active latents per row, at the end of training."""


def match_l0(
    recipe: Recipe,
    data: Rows,
    held_out: Rows,
    *,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    checkpoint_dir: str | Path | None = None,
    required: bool = True,
) -> float:
    """Sparsity coefficient at which a ``relu`` or ``jumprelu`` recipe reaches ``recipe.l0_target``.

    A coarse grid over three decades is trained as one ensemble for a quarter of the steps; then
    one coefficient after another is trained in full, each where what is known puts the target,
    until one is within 3% of it. With ``required=False`` a target that is not reached within 5% is
    logged and the nearest coefficient returned; whoever reads the results must then compare the L0
    reached with the target.

    Raises
    ------
    HusaiError
        Not a ReLU or JumpReLU recipe, or no numeric ``l0_target``.
    RecipeFailed
        A required target that is not reached within 5%; says which L0 were.
    """
    target = recipe.l0_target
    if recipe.architecture in FIXED_K or not isinstance(target, (int, float)):
        raise HusaiError(
            f"recipe {recipe.id}: L0 is matched for relu and jumprelu with a numeric l0_target, "
            f"got l0_target = {target!r}"
        )

    def tried(recipe: Recipe, coefficients: Sequence[float], number: int) -> list[TriedCoefficient]:
        """One training of each; its checkpoint lets an interrupted search repeat nothing."""
        members = [Member(CALIBRATION_SEED, c) for c in coefficients]
        where = None if checkpoint_dir is None else Path(checkpoint_dir, f"l0-search-{number}")
        checkpoint = Checkpoint(where, recipe, members, dtype, [data, held_out])
        made = {"device": device, "dtype": dtype, "checkpoint": checkpoint, "curve_points": 1}
        *_, final = run_members(recipe, members, data, held_out, **made)
        return [TriedCoefficient(c, row["l0"]) for c, row in zip(coefficients, final, strict=True)]

    steps = max(1, min(recipe.steps, max(100, round(COARSE_STEPS * recipe.steps))))
    coarse = tried(replace(recipe, steps=steps), _grid(recipe, data), 0)
    known: list[TriedCoefficient] = []
    for number in range(1, FULL_TRIALS + 1):
        known += tried(recipe, [next_coefficient(coarse, known, target)], number)
        best = min(known, key=lambda t: abs(t.l0 - target))
        if abs(best.l0 - target) <= AIM * target:
            break
    log(
        f"{recipe.id}: sparsity coefficient {best.coefficient:.4g} gives L0 {best.l0:.2f} (target "
        f"{target:g})"
    )
    if abs(best.l0 - target) > TOLERANCE * target:
        reached = ", ".join(dict.fromkeys(f"{t.l0:.1f}" for t in sorted(known, key=lambda t: t.l0)))
        problem = (
            f"recipe {recipe.id}: l0_target {target:g} not reached; got L0 {reached}; train "
            "longer or choose another target"
        )
        if required:
            raise RecipeFailed(problem)
        log(f"warning: {problem}")
    return best.coefficient


def check_l0(recipe: Recipe, final: Sequence[dict]) -> None:
    """Refuse an ensemble whose given coefficient does not give the L0 that the recipe names;
    ``final`` are held-out metrics of each member.

    Raises
    ------
    RecipeFailed
        The members' mean L0 is more than 5% away from ``recipe.l0_target``.
    """
    reached = sum(row["l0"] for row in final) / len(final)
    if abs(reached - recipe.l0_target) > TOLERANCE * recipe.l0_target:
        raise RecipeFailed(
            f"recipe {recipe.id}: sparsity_coefficient {recipe.sparsity_coefficient:g} gave L0 "
            f"{reached:.2f}, not {recipe.l0_target:g}; leave it out to have it searched"
        )


def interpolate(trials: Sequence[TriedCoefficient], target: float) -> float:
    """Coefficient at which L0 is ``target``, by log-log interpolation between the two nearest
    trials that enclose it.

    Outside the range tried it is extrapolated from the nearest trial, by at most a factor of 4.
    """
    ordered = sorted(trials, key=lambda t: t.coefficient)
    above = [t for t in ordered if t.l0 >= target]
    below = [t for t in ordered if t.l0 < target]
    if not above:
        nearest = min(below, key=lambda t: target - t.l0)
        return nearest.coefficient * max(0.25, (max(nearest.l0, 1e-3) / target))
    if not below:
        nearest = min(above, key=lambda t: t.l0 - target)
        return nearest.coefficient * min(4.0, nearest.l0 / target)
    low, high = min(above, key=lambda t: t.l0), max(below, key=lambda t: t.l0)
    span = math.log(low.l0) - math.log(max(high.l0, 1e-3))
    share = (math.log(low.l0) - math.log(target)) / span
    return math.exp((1 - share) * math.log(low.coefficient) + share * math.log(high.coefficient))


def next_coefficient(
    coarse: Sequence[TriedCoefficient], known: Sequence[TriedCoefficient], target: float
) -> float:
    """Coefficient to train in full next: between full trials that enclose the target, else where
    the grid's curve puts it when moved to go through the nearest full trial."""
    if not known:
        return interpolate(coarse, target)
    if min(t.l0 for t in known) < target <= max(t.l0 for t in known):
        return interpolate(known, target)
    nearest = min(known, key=lambda t: abs(t.l0 - target))
    moved = nearest.coefficient / interpolate(coarse, nearest.l0)
    return moved * interpolate(coarse, target)


def _grid(recipe: Recipe, data: Rows) -> list[float]:
    """Coefficients down from one that leaves next to nothing active: the scale of the largest
    projection (L1) or of its square (L0).
    """
    d_in, last = width(data), COARSE_COEFFICIENTS - 1
    largest = 2.0 * math.sqrt(d_in) if recipe.architecture == "relu" else float(d_in)
    return [largest * 10 ** (-COARSE_DECADES * i / last) for i in range(COARSE_COEFFICIENTS)]

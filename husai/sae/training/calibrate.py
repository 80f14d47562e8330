"""The search for the sparsity coefficient that gives ReLU and JumpReLU SAEs the L0 of a recipe's
``l0_target``.
"""

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
"""Share of the steps for the grid: it has to order coefficients and show how L0 falls with them; the
later trials train in full.
"""
FULL_TRIALS = 12
"""Full trainings at most. One to three are enough where L0 falls smoothly with the coefficient; the
others are for JumpReLU, whose L0 may jump.
"""
CALIBRATION_SEED = 0
"""The seed that the search trains; L0 hardly differs between seeds at one coefficient, and a fixed
one makes the coefficient the same whichever seeds are asked for.
"""


class Trial(NamedTuple):
    """One coefficient that was tried."""

    coefficient: float
    l0: float
    """Held-out mean number of active latents per row, at the end of training."""


def match_l0(
    recipe: Recipe,
    data: Rows,
    held_out: Rows,
    *,
    seed: int = CALIBRATION_SEED,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    checkpoint_dir: str | Path | None = None,
    required: bool = True,
) -> float:
    """Sparsity coefficient at which a ``relu`` or ``jumprelu`` recipe reaches ``recipe.l0_target``.

    A coarse grid over three decades is trained as one ensemble for a quarter of the steps; then
    one coefficient after another is trained in full, each where what is known puts the target,
    until one is within 3% of it. With
    ``required=False`` a target that is not reached within 5% is logged and the nearest coefficient
    returned; whoever reads the results must then compare the L0 reached with the target.

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
    largest = _largest_coefficient(recipe, data)
    grid = [
        largest * 10 ** (-COARSE_DECADES * i / (COARSE_COEFFICIENTS - 1))
        for i in range(COARSE_COEFFICIENTS)
    ]
    short = replace(
        recipe, steps=max(1, min(recipe.steps, max(100, round(COARSE_STEPS * recipe.steps))))
    )
    rounds = _Rounds(data, held_out, seed, device, dtype, checkpoint_dir)
    coarse = rounds.train(short, grid)
    known: list[Trial] = []
    for _ in range(FULL_TRIALS):
        known += rounds.train(recipe, [next_coefficient(coarse, known, target)])
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
    """Refuse an ensemble whose given coefficient does not give the L0 that the recipe names.

    Parameters
    ----------
    final : sequence of dict
        Held-out metrics of each member, with ``l0``.

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


def interpolate(trials: Sequence[Trial], target: float) -> float:
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


def next_coefficient(coarse: Sequence[Trial], known: Sequence[Trial], target: float) -> float:
    """Coefficient to train in full next: between full trials that enclose the target, else where the
    grid's curve puts it when moved to go through the nearest full trial.
    """
    if not known:
        return interpolate(coarse, target)
    if min(t.l0 for t in known) < target <= max(t.l0 for t in known):
        return interpolate(known, target)
    nearest = min(known, key=lambda t: abs(t.l0 - target))
    moved = nearest.coefficient / interpolate(coarse, nearest.l0)
    return moved * interpolate(coarse, target)


class _Rounds:
    """Trains one set of coefficients after another; each keeps its own checkpoint, so that an
    interrupted search repeats nothing.
    """

    def __init__(self, data: Rows, held_out: Rows, seed: int, device, dtype, directory):
        self.data, self.held_out, self.seed = data, held_out, seed
        self.device, self.dtype = device, dtype
        self.directory, self.count = directory, 0

    def train(self, recipe: Recipe, coefficients: Sequence[float]) -> list[Trial]:
        members = [Member(self.seed, c) for c in coefficients]
        where = None if self.directory is None else Path(self.directory) / f"l0-search-{self.count}"
        checkpoint = Checkpoint(where, recipe, members, self.dtype, [self.data, self.held_out])
        _, _, _, final = run_members(
            recipe,
            members,
            self.data,
            self.held_out,
            device=self.device,
            dtype=self.dtype,
            checkpoint=checkpoint,
            curve_points=1,
        )
        self.count += 1
        return [Trial(c, row["l0"]) for c, row in zip(coefficients, final, strict=True)]


def _largest_coefficient(recipe: Recipe, data: Rows) -> float:
    """A coefficient that leaves next to nothing active: the scale of the largest projection (L1) or
    of its square (L0).
    """
    d_in = width(data)
    return 2.0 * math.sqrt(d_in) if recipe.architecture == "relu" else float(d_in)

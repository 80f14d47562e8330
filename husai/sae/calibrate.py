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

from husai.errors import HusaiError, RecipeFailed
from husai.progress import log
from husai.recipe import FIXED_K, Recipe

TOLERANCE = 0.05
AIM = 0.03
COARSE_COEFFICIENTS = 8
COARSE_STEPS = 0.25
FINE_ROUNDS = 6
FIRST_RATIO = 1.35
CALIBRATION_SEED = 0


class Trial(NamedTuple):
    """One coefficient that was tried."""

    coefficient: float
    l0: float
    """Held-out mean number of active latents per row, at the end of training."""


def match_l0(
    recipe: Recipe,
    data,
    held_out,
    *,
    seed: int = CALIBRATION_SEED,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    checkpoint_dir: str | Path | None = None,
    required: bool = True,
) -> float:
    """Sparsity coefficient at which a ``relu`` or ``jumprelu`` recipe reaches ``recipe.l0_target``.

    A coarse grid over three decades is trained as one ensemble for a quarter of the steps; then
    three coefficients at a time, again as one ensemble, for all the steps, around the log-log
    interpolation of what is known, until one of them is within 3% of the target. With
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
        largest * 10 ** (-3.0 * i / (COARSE_COEFFICIENTS - 1)) for i in range(COARSE_COEFFICIENTS)
    ]
    short = replace(
        recipe, steps=max(1, min(recipe.steps, max(100, round(COARSE_STEPS * recipe.steps))))
    )
    rounds = _Rounds(data, held_out, seed, device, dtype, checkpoint_dir)
    coarse = rounds.train(short, grid)
    known: list[Trial] = []
    for _ in range(FINE_ROUNDS):
        known += rounds.train(
            recipe, next_coefficients(known, interpolate(known or coarse, target), target)
        )
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


def next_coefficients(known: Sequence[Trial], centre: float, target: float) -> list[float]:
    """Three coefficients to try next: the estimate and, when trials enclose the target, its
    geometric means with both ends.
    """
    above = [t.coefficient for t in known if t.l0 >= target]
    below = [t.coefficient for t in known if t.l0 < target]
    if above and below:
        low, high = max(above), min(below)
        if low < centre < high:
            return [math.sqrt(low * centre), centre, math.sqrt(centre * high)]
    if not known:
        return [centre / FIRST_RATIO, centre, centre * FIRST_RATIO]
    step = FIRST_RATIO if above else 1 / FIRST_RATIO
    return [centre / math.sqrt(step), centre, centre * step]


class _Rounds:
    """Trains one set of coefficients after another; each keeps its own checkpoint, so that an
    interrupted search repeats nothing.
    """

    def __init__(self, data, held_out, seed: int, device, dtype: str, directory: str | Path | None):
        self.data, self.held_out, self.seed, self.device, self.dtype = (
            data,
            held_out,
            seed,
            device,
            dtype,
        )
        self.directory, self.count = directory, 0

    def train(self, recipe: Recipe, coefficients: Sequence[float]) -> list[Trial]:
        from husai.sae.ensemble import run_members
        from husai.sae.resume import Checkpoint
        from husai.sae.training import Member

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


def _largest_coefficient(recipe: Recipe, data) -> float:
    """A coefficient that leaves next to nothing active: the scale of the largest projection (L1) or
    of its square (L0).
    """
    d_in = data.shape[1] if isinstance(data, torch.Tensor) else data.d
    return 2.0 * math.sqrt(d_in) if recipe.architecture == "relu" else float(d_in)

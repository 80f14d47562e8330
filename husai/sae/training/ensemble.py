"""Training every seed of a recipe as one computation: what may be asked, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from husai.activations import Rows, width
from husai.errors import HusaiError
from husai.recipe import FIXED_K, Recipe
from husai.sae.architectures import SAE
from husai.sae.training.arithmetic import FORMATS
from husai.sae.training.calibrate import check_l0, match_l0
from husai.sae.training.members import Member
from husai.sae.training.resume import Checkpoint
from husai.sae.training.run import CURVE_POINTS, run_members


class EnsembleResult(NamedTuple):
    """Result of :func:`train_ensemble`."""

    saes: list[SAE]
    """One per seed, raw units, on the CPU."""
    initial_decoders: torch.Tensor
    """Untrained decoders (S, d_sae, d_out), unit rows."""
    curves: list[dict[str, Any]]
    """Rows ``{seed, step, loss, explained_variance, l0, dead_fraction, cos_to_init, pwmcc}``; loss
    is the mean training loss since the last row, pwmcc the mean agreement with the other seeds, the
    rest is on (up to 4096) held-out rows."""
    final: list[dict[str, Any]]
    """Per seed: ``{seed, explained_variance, l0, dead_fraction, cos_to_init, plateau_gain, plateau,
    sparsity_coefficient}``, all held-out rows; ``plateau_gain`` is the relative gain in explained
    variance over the last fifth of the steps before the learning rate falls, ``plateau`` whether it
    is < 0.5%."""
    resolved: Recipe
    """The recipe with the sparsity coefficient that was used."""


def train_ensemble(
    recipe: Recipe,
    seeds: Sequence[int],
    data: Rows,
    *,
    held_out: Rows,
    target: Rows | None = None,
    held_out_target: Rows | None = None,
    reference: torch.Tensor | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    progress: Callable[[int, str], None] | None = None,
    curve_points: int = CURVE_POINTS,
    sparse: bool | None = None,
    l0_required: bool = True,
) -> EnsembleResult:
    """Train the SAEs of ``recipe`` for all ``seeds`` together.

    Parameters
    ----------
    recipe : Recipe
        With ``l0_target`` and no ``sparsity_coefficient`` the coefficient is searched first
        (:func:`husai.sae.training.calibrate.match_l0`).
    seeds : sequence of int
        Distinct; each fixes a member's initialisation and, unless the recipe shares it, its data
        order.
    data, held_out : Tensor (n, d_in) or ActivationStore
        Training rows, and rows for curves, final figures and the BatchTopK threshold.
    target, held_out_target : Tensor (n, d_out) or ActivationStore or None
        What a transcoder reconstructs, row for row.
    reference : Tensor (d_sae, d_out) or None
        Decoder of the reference seed, needed by a consistency objective.
    device : str or torch.device
    dtype : str
        ``float32``, ``tf32`` or ``bfloat16`` (rounded products, float32 weights; for GPUs) or
        ``float64``.
    checkpoint_dir : path or None
        Where to keep the state of training; an interrupted call repeated with the same arguments
        goes on from there and on a CPU ends with bit-identical weights. The caller deletes it once
        the results are stored.
    checkpoint_every : int or None
        Steps between two saves; None is a twentieth of the run.
    progress : callable or None
        Called as ``progress(n_steps, note)`` after every few steps.
    curve_points : int
        Rows of the curves per seed, besides step 0 and those that the plateau is judged by.
    sparse : bool or None
        Force the k-sparse or the dense kernels of the TopK family; None chooses by the measured
        crossover.
    l0_required : bool
        Whether an ``l0_target`` that cannot be met within 5% is an error, or logged and the nearest
        coefficient used.

    Raises
    ------
    HusaiError
        A recipe that is not resolved, rows that do not fit, or a loss that became NaN (names the
        step and the seed).
    """
    rows = {"data": data, "held_out": held_out}
    rows |= {"target": target, "held_out_target": held_out_target}
    _check(recipe, seeds, rows, reference, dtype)
    where = {"device": device, "dtype": dtype}
    given = recipe.l0_target is not None and recipe.sparsity_coefficient is not None
    if recipe.architecture not in FIXED_K and recipe.sparsity_coefficient is None:
        search = {**where, "checkpoint_dir": checkpoint_dir, "required": l0_required}
        coefficient = match_l0(recipe, data, held_out, **search)
        recipe = replace(recipe, sparsity_coefficient=coefficient)
    members = [Member(int(seed), recipe.sparsity_coefficient or 0.0) for seed in seeds]
    checkpoint = Checkpoint(
        checkpoint_dir, recipe, members, dtype, [*rows.values(), reference], checkpoint_every
    )
    told = {"checkpoint": checkpoint, "progress": progress, "curve_points": curve_points}
    saes, initial_decoders, curves, final = run_members(
        recipe, members, **rows, reference=reference, **where, sparse=sparse, **told
    )
    if given and l0_required:
        check_l0(recipe, final)
    curves = [{name: value for name, value in row.items() if name != "member"} for row in curves]
    return EnsembleResult(saes, initial_decoders, curves, final, recipe)


def _check(recipe: Recipe, seeds, rows: dict[str, Rows | None], reference, dtype: str) -> None:
    """Refuse what cannot be trained, in one line."""
    where = f"recipe {recipe.id}"
    if recipe.needs_calibration:
        raise HusaiError(
            f"{where}: k or l0_target is 'calibrated'; resolve it from "
            "results/calibration/selected.json first"
        )
    if not seeds or len(set(seeds)) != len(list(seeds)):
        raise HusaiError(f"{where}: seeds must be distinct and at least one, got {list(seeds)}")
    if dtype not in FORMATS:
        raise HusaiError(f"{where}: dtype '{dtype}' is not one of {', '.join(FORMATS)}")
    data, held_out = rows["data"], rows["held_out"]
    for name, target_name in (("data", "target"), ("held_out", "held_out_target")):
        own, target = rows[name], rows[target_name]
        if isinstance(own, torch.Tensor) and own.ndim != 2:
            raise HusaiError(f"{where}: {name} must be rows (n, d), got shape {tuple(own.shape)}")
        if (recipe.architecture == "transcoder") != (target is not None):
            raise HusaiError(
                f"{where}: {target_name} belongs to, and is needed by, architecture transcoder"
            )
        if target is not None and len(target) != len(own):
            raise HusaiError(
                f"{where}: {name} has {len(own)} rows but {target_name} {len(target)}; they "
                "must match row for row"
            )
    if width(data) != width(held_out):
        raise HusaiError(
            f"{where}: data is {width(data)} wide but held_out {width(held_out)}; give two "
            "splits of one hook"
        )
    if recipe.consistency_weight:
        shape = (recipe.d_sae, width(data if rows["target"] is None else rows["target"]))
        found = None if reference is None else tuple(reference.shape)
        if found != shape:
            raise HusaiError(
                f"{where}: the consistency objective needs the reference decoder, {shape}, got "
                f"{found}"
            )

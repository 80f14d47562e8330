"""Training every seed of a recipe as one computation: curves, plateau detection, resume, and the
exported SAEs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from husai.errors import HusaiError
from husai.recipe import FIXED_K, Recipe
from husai.sae.architectures import SAE
from husai.sae.arithmetic import FORMATS
from husai.sae.resume import Checkpoint
from husai.sae.training import Member, Rows, Trainer
from husai.sae.workers import Workers
from husai.stability import evaluate_sae, mean_to_others, pairwise

CURVE_POINTS = 20
CURVE_ROWS = 4096
STEPS_AT_ONCE = 10
PLATEAU_GAIN = 0.005


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
    variance over the last 20% of the steps, ``plateau`` whether it is < 0.5%."""
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
        (:func:`husai.sae.calibrate.match_l0`).
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
        Rows of the curves per seed, besides step 0 and the one at 80% of the steps.
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
    _check(recipe, seeds, data, held_out, target, held_out_target, reference, dtype)
    rows = {
        "data": data,
        "held_out": held_out,
        "target": target,
        "held_out_target": held_out_target,
    }
    if recipe.architecture not in FIXED_K and recipe.sparsity_coefficient is None:
        from husai.sae.calibrate import match_l0

        coefficient = match_l0(
            recipe,
            data,
            held_out,
            device=device,
            dtype=dtype,
            checkpoint_dir=checkpoint_dir,
            required=l0_required,
        )
        recipe = replace(recipe, sparsity_coefficient=coefficient)
    members = [Member(int(seed), recipe.sparsity_coefficient or 0.0) for seed in seeds]
    checkpoint = Checkpoint(
        checkpoint_dir, recipe, members, dtype, [*rows.values(), reference], checkpoint_every
    )
    trained = run_members(
        recipe,
        members,
        **rows,
        reference=reference,
        device=device,
        dtype=dtype,
        sparse=sparse,
        checkpoint=checkpoint,
        progress=progress,
        curve_points=curve_points,
    )
    saes, initial_decoders, curves, final = trained
    curves = [{name: value for name, value in row.items() if name != "member"} for row in curves]
    return EnsembleResult(saes, initial_decoders, curves, final, recipe)


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
    with Workers(len(members), torch.device(device)) as workers:
        trainer = Trainer(recipe, members, data, target, reference, device, dtype, sparse)
        curves: list[dict[str, Any]] = [] if checkpoint is None else checkpoint.load(trainer)
        points = curve_steps(recipe.steps, curve_points)
        recorded = {row["step"] for row in curves}
        try:
            while True:
                if trainer.done in points and trainer.done not in recorded:
                    curves += _curve_rows(trainer, held_out, held_out_target, workers)
                if checkpoint is not None:
                    checkpoint.save(trainer, curves)
                if trainer.done >= recipe.steps:
                    break
                stops = [
                    *points,
                    trainer.done + STEPS_AT_ONCE,
                    *([] if checkpoint is None else [checkpoint.next_due(trainer.done)]),
                ]
                steps = min(stop for stop in stops if stop > trainer.done) - trainer.done
                trainer.advance(steps, workers)
                if progress is not None:
                    progress(steps, recipe.id)
        finally:
            trainer.close()
        saes = workers.map(lambda i: trainer.export(i, held_out), range(len(members)))
        final = _final_rows(trainer, saes, curves, held_out, held_out_target, workers)
    return [s.to("cpu") for s in saes], trainer.initial_decoders.float().cpu(), curves, final


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
    return int(0.8 * steps)


def _curve_rows(
    trainer: Trainer, held_out: Rows, held_out_target: Rows | None, workers: Workers
) -> list[dict[str, Any]]:
    losses, cosines, agreement = (
        trainer.take_losses(),
        trainer.cosine_to_initial(),
        _agreement(trainer),
    )

    def measure(i: int) -> dict[str, Any]:
        return evaluate_sae(
            trainer.export(i, held_out, CURVE_ROWS), held_out, held_out_target, max_rows=CURVE_ROWS
        )

    rows = []
    for i, found in enumerate(workers.map(measure, range(len(trainer.members)))):
        member = trainer.members[i]
        row = {"seed": member.seed, "step": trainer.done, "loss": losses[i]}
        row |= {name: found[name] for name in ("explained_variance", "l0", "dead_fraction")}
        rows.append({**row, "cos_to_init": float(cosines[i]), "pwmcc": agreement[i], "member": i})
    return rows


def _agreement(trainer: Trainer) -> list[float | None]:
    """Each member's mean PWMCC with the others, all latents: the trajectory of stability; None for
    a single member.
    """
    if len(trainer.members) < 2:
        return [None] * len(trainer.members)
    return mean_to_others(pairwise(list(trainer.parameters["W_dec"].detach().float()))).tolist()


def _final_rows(
    trainer: Trainer,
    saes: list[SAE],
    curves: list[dict],
    held_out: Rows,
    held_out_target: Rows | None,
    workers: Workers,
) -> list[dict[str, Any]]:
    cosines, rows = trainer.cosine_to_initial(), []
    measured = workers.map(lambda sae: evaluate_sae(sae, held_out, held_out_target), saes)
    for i, (member, found) in enumerate(zip(trainer.members, measured, strict=True)):
        gain = plateau_gain(
            [(r["step"], r["explained_variance"]) for r in curves if r["member"] == i],
            trainer.recipe.steps,
        )
        row = {"seed": member.seed} | {
            name: found[name] for name in ("explained_variance", "l0", "dead_fraction")
        }
        row |= {
            "cos_to_init": float(cosines[i]),
            "plateau_gain": gain,
            "plateau": gain < PLATEAU_GAIN,
        }
        rows.append({**row, "sparsity_coefficient": member.coefficient or None})
    return rows


def _check(
    recipe: Recipe, seeds, data, held_out, target, held_out_target, reference, dtype
) -> None:
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
    pairs = (
        ("data", data, "target", target),
        ("held_out", held_out, "held_out_target", held_out_target),
    )
    for name, rows, target_name, target_rows in pairs:
        if isinstance(rows, torch.Tensor) and rows.ndim != 2:
            raise HusaiError(f"{where}: {name} must be rows (n, d), got shape {tuple(rows.shape)}")
        if (recipe.architecture == "transcoder") != (target_rows is not None):
            raise HusaiError(
                f"{where}: {target_name} belongs to, and is needed by, architecture transcoder"
            )
        if target_rows is not None and len(target_rows) != len(rows):
            raise HusaiError(
                f"{where}: {name} has {len(rows)} rows but {target_name} {len(target_rows)}; they "
                "must match row for row"
            )
    if _width(data) != _width(held_out):
        raise HusaiError(
            f"{where}: data is {_width(data)} wide but held_out {_width(held_out)}; give two "
            "splits of one hook"
        )
    if recipe.consistency_weight:
        shape = (recipe.d_sae, _width(data if target is None else target))
        if reference is None or tuple(reference.shape) != shape:
            found = None if reference is None else tuple(reference.shape)
            raise HusaiError(
                f"{where}: the consistency objective needs the reference decoder, {shape}, got "
                f"{found}"
            )


def _width(rows: Rows) -> int:
    return rows.shape[1] if isinstance(rows, torch.Tensor) else rows.d

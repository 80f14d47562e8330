"""The members of an ensemble: one set of stacked parameters, trained in lanes, and what can be read
off them along the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from husai.activations import ActivationStore, BatchReader
from husai.activations.batches import free_bytes
from husai.compute import single_threaded
from husai.errors import RecipeFailed
from husai.recipe import Recipe
from husai.sae.architectures import SAE
from husai.sae.arithmetic import FORMATS, Arithmetic, choose
from husai.sae.export import exported
from husai.sae.initialise import initial_parameters, measure_units, member_generator
from husai.sae.lane import Lane
from husai.sae.threshold import batch_top_k_threshold
from husai.sae.workers import Workers

Rows = torch.Tensor | ActivationStore
SHARED_ORDER_SEED = 0


class Member(NamedTuple):
    """One SAE of an ensemble."""

    seed: int
    coefficient: float = 0.0
    """Sparsity coefficient (ReLU, JumpReLU)."""

    def __str__(self) -> str:
        return f"seed {self.seed}" + (
            f" (sparsity coefficient {self.coefficient:g})" if self.coefficient else ""
        )


class Trainer:
    """Trains the members of one recipe together.

    On a CPU each member has a lane of its own, and lanes run side by side; on a GPU all members
    share one, whose steps are replayed as a CUDA graph when they are small, except while latents
    are dead: how many is known to the host alone. A member sees the same rows and the same
    arithmetic either way: on a CPU, inside :class:`husai.sae.workers.Workers`, its weights are
    bit-identical to training it alone, on any number of threads, as long as its slices of the
    stacked weights are aligned alike (widths that are multiples of 16).

    Parameters
    ----------
    recipe : Recipe
        Resolved: no calibrated field.
    members : sequence of Member
    data, target : Tensor (n, d) or ActivationStore
        Training rows and, for a transcoder, what to reconstruct.
    reference : Tensor (d_sae, d_out) or None
        Decoder to align to when the recipe has a consistency weight.
    device, dtype
        Where, and in which of ``float32``, ``tf32``, ``bfloat16`` (products only) or ``float64``,
        to compute. A rounded format is used if its gradients pass the check of
        :func:`husai.sae.arithmetic.choose`, and float32 otherwise.
    sparse : bool or None
        Kernels of the TopK family; None chooses by the measured crossover.
    """

    def __init__(
        self,
        recipe: Recipe,
        members: Sequence[Member],
        data: Rows,
        target: Rows | None = None,
        reference: torch.Tensor | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        sparse: bool | None = None,
    ):
        self.recipe, self.members, self.device = recipe, list(members), torch.device(device)
        self.dtype = FORMATS[dtype].weights
        with (
            single_threaded()
        ):  # on a GPU too the start of training must not depend on the threads of the CPU
            self.units = measure_units(recipe, data, target)
            per_member = [
                initial_parameters(recipe, m.seed, self.units, self.dtype) for m in self.members
            ]
        self.parameters = {
            name: torch.stack([p[name] for p in per_member]).to(self.device)
            for name in per_member[0]
        }
        self.initial_decoders = self.parameters["W_dec"].clone()
        aligned = recipe.consistency_weight and not recipe.frozen_decoder
        self.lanes = self._make_lanes(data, target, reference if aligned else None)
        arithmetic = choose(self.lanes[0].settings, FORMATS[dtype], self.lanes[0].problem(), sparse)
        for lane in self.lanes:
            lane.compute_in(arithmetic)

    @property
    def done(self) -> int:
        """Steps taken by every member."""
        return self.lanes[0].done

    @property
    def arithmetic(self) -> Arithmetic:
        """Kernels and number format in use."""
        return self.lanes[0].arithmetic

    def step(self) -> None:
        """One optimiser step of every member, in the calling thread."""
        for lane in self.lanes:
            lane.step()

    def advance(self, steps: int, workers: Workers) -> None:
        """``steps`` optimiser steps of every member, members side by side."""
        workers.advance(self.lanes, steps)

    def take_losses(self) -> list[float]:
        """Mean training loss of each member since the last call.

        Raises
        ------
        RecipeFailed
            A loss or a weight was NaN or infinite; names the step and the member.
        """
        taken = [lane.take_losses() for lane in self.lanes]
        for member, step in zip(
            self.members, [step for _, bad in taken for step in bad], strict=True
        ):
            if step >= 0:
                raise RecipeFailed(
                    f"{self.recipe.id}: the loss of {member} became NaN or infinite at step "
                    f"{step}; lower learning_rate "
                    f"({self.recipe.learning_rate:g}), or check the activations for extreme rows"
                )
        return [loss for losses, _ in taken for loss in losses]

    def cosine_to_initial(self) -> torch.Tensor:
        """Median over latents of the cosine of a decoder row to its initial row, per member: (S,)
        on the CPU.
        """
        cosine = torch.nn.functional.cosine_similarity(
            self.parameters["W_dec"], self.initial_decoders, dim=-1
        )
        return cosine.median(dim=1).values.cpu()

    @torch.no_grad()
    def export(self, index: int, calibration_rows: Rows | None = None, max_rows: int = 8192) -> SAE:
        """Member ``index`` as an :class:`SAE` in raw units, float32.

        A BatchTopK member gets the threshold at which it has k active latents per row of
        ``calibration_rows``."""
        own = {name: value[index] for name, value in self.parameters.items()}
        sae = exported(self.recipe, self.members[index].seed, own, self.units)
        if self.recipe.architecture == "batchtopk" and calibration_rows is not None:
            sae.threshold.fill_(
                batch_top_k_threshold(sae, calibration_rows, self.recipe.k, max_rows)
            )
        return sae

    def state(self) -> dict[str, Any]:
        """Everything the remaining steps depend on, as tensors and plain values."""
        return {"parameters": self.parameters, "lanes": [lane.state() for lane in self.lanes]}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`, bit-identically on a CPU."""
        for name, value in self.parameters.items():
            value.copy_(state["parameters"][name])
        for lane, saved in zip(self.lanes, state["lanes"], strict=True):
            lane.restore(saved)

    def close(self) -> None:
        """Stop background threads and forget recorded steps; training can go on afterwards."""
        for lane in self.lanes:
            lane.close()

    def _make_lanes(
        self, data: Rows, target: Rows | None, reference: torch.Tensor | None
    ) -> list[Lane]:
        recipe, members = self.recipe, self.members
        data, target = (_on_device(rows, recipe.n_rows, self.device) for rows in (data, target))
        shared = {
            "n_rows": recipe.n_rows,
            "device": self.device,
            "dtype": self.dtype,
            "target": target,
        }
        coefficient = torch.tensor(
            [m.coefficient for m in members], dtype=self.dtype, device=self.device
        )

        def lane(own: slice) -> Lane:
            seeds = (
                [SHARED_ORDER_SEED] if recipe.shared_data_order else [m.seed for m in members[own]]
            )
            readers = [
                BatchReader(
                    data, recipe.batch_size, member_generator(s, "rows").initial_seed(), **shared
                )
                for s in seeds
            ]
            return Lane(
                recipe,
                self.units,
                {n: v[own] for n, v in self.parameters.items()},
                coefficient[own],
                readers,
                reference,
            )

        n = len(members)
        return [
            lane(own)
            for own in (
                [slice(s, s + 1) for s in range(n)] if self.device.type == "cpu" else [slice(0, n)]
            )
        ]


def _on_device(rows: Rows | None, n_rows: int | None, device: torch.device) -> Rows | None:
    """The first ``n_rows`` rows of a tensor, on the GPU when they take at most half of its free
    memory; readers place stores themselves.
    """
    if (
        device.type != "cuda"
        or not isinstance(rows, torch.Tensor)
        or rows.device.type == device.type
    ):
        return rows
    rows = rows if n_rows is None else rows[:n_rows]
    return (
        rows.to(device) if rows.numel() * rows.element_size() <= free_bytes(device) // 2 else rows
    )

"""The members of an ensemble: one set of stacked parameters, the lanes that train them, and what
can be read off them along the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from husai.activations import BatchReader, Rows
from husai.compute import free_bytes, single_threaded
from husai.recipe import BATCH_TOP_K, Recipe
from husai.sae.architectures import SAE
from husai.sae.export import exported
from husai.sae.threshold import batch_top_k_threshold
from husai.sae.training.arithmetic import FORMATS, Arithmetic, choose
from husai.sae.training.initialise import initial_parameters, measure_units, member_generator
from husai.sae.training.lane import Lane

SHARED_ORDER_SEED = 0
"""Seed of the order of the rows when a recipe makes its members share one; any number would do, but
it must be the same in every run.
"""


class Member(NamedTuple):
    """One SAE of an ensemble."""

    seed: int
    coefficient: float = 0.0
    """Sparsity coefficient (ReLU, JumpReLU)."""

    def __str__(self) -> str:
        told = f" (sparsity coefficient {self.coefficient:g})" if self.coefficient else ""
        return f"seed {self.seed}{told}"


class Ensemble:
    """The members of one recipe in training: parameters stacked over members, and the lanes that
    change them.

    On a CPU each member has a lane of its own, and lanes run side by side; on a GPU all members
    share one, whose steps are replayed as a CUDA graph when they are small, except while latents
    are dead: how many is known to the host alone. A member sees the same rows and the same
    arithmetic either way: on a CPU, inside :class:`husai.sae.training.workers.Workers`, its weights
    are bit-identical to training it alone, on any number of threads, as long as its slices of the
    stacked weights are aligned alike (widths that are multiples of 16).

    Arguments are those of :func:`husai.sae.train_ensemble`; the recipe is resolved. A rounded
    ``dtype`` is used if its gradients pass the check of
    :func:`husai.sae.training.arithmetic.choose`, and float32 otherwise.

    Attributes
    ----------
    parameters : dict
        Name to Tensor (S, ...), in normalised units (see ``initialise``).
    initial_decoders : Tensor (S, d_sae, d_out)
    lanes : list of Lane
        They train slices of ``parameters``, in the order of the members.
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
        # One thread on a GPU too: where training starts must not depend on the CPU's threads.
        with single_threaded():
            units = self.units = measure_units(recipe, data, target)
            starts = [initial_parameters(recipe, m.seed, units, self.dtype) for m in self.members]
        self.parameters = {
            name: torch.stack([s[name] for s in starts]).to(self.device) for name in starts[0]
        }
        self.initial_decoders = self.parameters["W_dec"].clone()
        consistent = recipe.consistency_weight and not recipe.frozen_decoder
        self.lanes = self._make_lanes(data, target, reference if consistent else None)
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

    def cosine_to_initial(self) -> torch.Tensor:
        """Median cosine of decoder rows to their initial rows, per member: (S,) on the CPU."""
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
        if self.recipe.architecture in BATCH_TOP_K and calibration_rows is not None:
            level = batch_top_k_threshold(sae, calibration_rows, self.recipe.k, max_rows)
            sae.threshold.fill_(level)
        return sae

    def _make_lanes(
        self, data: Rows, target: Rows | None, reference: torch.Tensor | None
    ) -> list[Lane]:
        recipe, n = self.recipe, len(self.members)
        data, target = (_on_device(rows, recipe.n_rows, self.device) for rows in (data, target))

        def reader(seed: int) -> BatchReader:
            order = member_generator(seed, "rows").initial_seed()
            own = (recipe.batch_size, order, recipe.n_rows, self.device, self.dtype)
            return BatchReader(data, *own, target=target)

        def lane(own: slice) -> Lane:
            members = self.members[own]
            parameters = {name: value[own] for name, value in self.parameters.items()}
            shared = [SHARED_ORDER_SEED] if recipe.shared_data_order else None
            readers = [reader(seed) for seed in shared or [m.seed for m in members]]
            return Lane(recipe, self.units, parameters, members, readers, reference)

        if self.device.type == "cpu":
            return [lane(slice(i, i + 1)) for i in range(n)]
        return [lane(slice(0, n))]


def _on_device(rows: Rows | None, n_rows: int | None, device: torch.device) -> Rows | None:
    """The first ``n_rows`` rows of a tensor, on the GPU when they take at most half of its free
    memory; readers place stores themselves.
    """
    moves = device.type == "cuda" and isinstance(rows, torch.Tensor)
    if not moves or rows.device.type == device.type:
        return rows
    rows = rows if n_rows is None else rows[:n_rows]
    fits = rows.numel() * rows.element_size() <= free_bytes(device) // 2
    return rows.to(device) if fits else rows

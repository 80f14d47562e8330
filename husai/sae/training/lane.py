"""One lane of an ensemble: members that share every kernel of a step, with their rows, their
optimiser and their place in the schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from husai.activations import BatchReader
from husai.errors import RecipeFailed
from husai.recipe import FIXED_K, Recipe
from husai.sae import kernels
from husai.sae.training.arithmetic import Arithmetic, Problem, tf32
from husai.sae.training.constraints import align, align_gradients, keep_near
from husai.sae.training.gradients import Gradients, Parameters, Settings, gradients
from husai.sae.training.graphs import ReplayedStep, recorder_for
from husai.sae.training.initialise import Units
from husai.sae.training.objectives import ConsistencyPenalty, auxk, matryoshka_groups, weight_decay
from husai.sae.training.optimiser import Optimiser, learning_rate_factor

SPARSITY_WARMUP = 0.1
"""Fraction of the steps over which the sparsity coefficient rises to its full value: applied at
once it kills latents before they have found a direction.
"""
DEAD_CHECK_STEPS = 20
"""Steps between two searches for dead latents. On a GPU each search waits for the device, and
``dead_after_rows`` is hundreds of steps long, so 20 steps more or less change little.
"""


class Lane:
    """Members computed together: all of an ensemble on a GPU, one on a CPU, where its working set
    then stays in cache.

    Lanes share nothing that a step changes, so they can be at different steps and run side by side.
    ``parameters`` are the members' own slices (S, ...) of the ensemble's, changed in place. There
    is a reader per member, or a single one when members share the order of the rows; ``reference``
    (d_sae, d_out) is a decoder to align to.
    """

    def __init__(
        self,
        recipe: Recipe,
        units: Units,
        parameters: Parameters,
        members: Sequence[Any],
        readers: Sequence[BatchReader],
        reference: torch.Tensor | None = None,
    ):
        kernels.quiet()
        self.recipe, self.units, self.parameters = recipe, units, parameters
        self.members, self.readers, self.size = list(members), readers, len(members)
        self.device, self.dtype = parameters["W_dec"].device, parameters["W_dec"].dtype
        self.coefficient = self._tensor([m.coefficient for m in members], self.dtype)
        self.settings = Settings(
            recipe.architecture,
            recipe.k,
            frozen_decoder=recipe.frozen_decoder,
            groups=matryoshka_groups(recipe.d_sae) if recipe.architecture == "matryoshka" else (),
            count_fired=recipe.architecture in FIXED_K and recipe.auxk_coefficient > 0,
        )
        held = {"W_enc": recipe.frozen_encoder, "W_dec": recipe.frozen_decoder}
        frozen = [name for name, is_held in held.items() if is_held]
        self._optimiser = Optimiser(parameters, recipe.gradient_clip, frozen)
        self._start = parameters["W_dec"].clone() if recipe.soft_frozen else None
        self._consistency = None
        if reference is not None:
            weight, interval = recipe.consistency_weight, recipe.consistency_interval
            self._consistency = ConsistencyPenalty(
                self._tensor(reference, self.dtype), weight, interval
            )
        self.rows_since_fired = self._tensor(0, torch.int64).repeat(self.size, recipe.d_sae)
        self.dead: list[torch.Tensor | None] = [None] * self.size
        self._loss_sum = self._tensor([0.0] * self.size, torch.float64)
        self._bad_step = self._tensor([-1] * self.size, torch.int64)
        whitening = units.whitening
        self._whitening = None if whitening is None else self._tensor(whitening, self.dtype)
        self._centre_in = self._tensor(units.centre_in * units.scale_in, self.dtype)
        # Torch's fused Adam reads a rate on a GPU as float32; on a CPU float64 is itself.
        rate = torch.float64 if self.device.type == "cpu" else torch.float32
        kinds = (rate, self.dtype, torch.int64)
        # What changes from step to step by plan, () each: learning rate, share of the sparsity
        # coefficient, number of the step. A recorded step reads them.
        self._rate, self._ramp, self._step = (self._tensor(0, kind) for kind in kinds)
        self._loss_steps = self.done = 0
        self._replayed: ReplayedStep | None = None

    def _tensor(self, values: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(values).to(device=self.device, dtype=dtype)

    def compute_in(self, arithmetic: Arithmetic) -> None:
        """Use ``arithmetic`` from the next step on."""
        self.arithmetic, self._replayed = arithmetic, None
        kernels = {"sparse": arithmetic.sparse, "fused": arithmetic.fused}
        self.settings = self.settings._replace(matmul_dtype=arithmetic.products, **kernels)

    @torch.no_grad()
    def step(self) -> None:
        """One optimiser step. Nothing in it waits for the device, but for the search for dead
        latents once in a while.
        """
        recipe = self.recipe
        if self.settings.count_fired and self.done % DEAD_CHECK_STEPS == 0:
            self._find_dead()
        if self._consistency is not None:
            self._consistency.renew(self.done, self.parameters["W_dec"])
        factor = learning_rate_factor(
            self.done, recipe.steps, recipe.warmup_fraction, recipe.decay_fraction
        )
        self._rate.fill_(recipe.learning_rate * factor)
        rising = (self.done + 1) / max(1, round(SPARSITY_WARMUP * recipe.steps))
        self._ramp.fill_(min(1.0, rising))
        self._step.fill_(self.done)
        batches = [next(reader) for reader in self.readers]
        if recipe.architecture == "transcoder":
            batches = [batch[i] for i in (0, 1) for batch in batches]
        if self._replayed is None:
            size = self.size * recipe.batch_size * recipe.d_sae
            self._replayed = ReplayedStep(self._update, recorder_for(self.device, size))
        run = self._replayed if all(dead is None for dead in self.dead) else self._update
        with tf32(self.arithmetic.tf32):
            run(*batches)
        self.done += 1
        self._loss_steps += 1

    def _update(self, *batches: torch.Tensor) -> None:
        """The arithmetic of a step on the readers' inputs, then their targets; changes tensors in
        place and nothing else.
        """
        n = len(self.readers)
        loss, found = self._gradients(*self._normalised(batches[:n], batches[n:]))
        self._optimiser.step(found, self._rate)
        if self._start is not None:
            keep_near(self.parameters["W_dec"], self._start, self.recipe.soft_frozen)
        if self.recipe.aligned:
            align(self.parameters)
        self._loss_sum.add_(loss)
        seen = self._bad_step
        seen.copy_(torch.where((seen < 0) & ~torch.isfinite(loss), self._step, seen))

    def _gradients(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, Parameters]:
        """Losses (S,) and gradients on centred rows."""
        p = self.parameters
        result: Gradients = gradients(self.settings, p, x, y, self.coefficient * self._ramp)
        loss, found = result.loss, result.by_name
        if result.fired is not None:
            self.rows_since_fired.add_(x.shape[1]).masked_fill_(result.fired, 0)
            weight, centred = self.recipe.auxk_coefficient, self.recipe.architecture != "transcoder"
            for i, dead in enumerate(self.dead):
                if dead is not None:
                    own, gradient = ({n: v[i] for n, v in q.items()} for q in (p, found))
                    loss[i] += auxk(own, gradient, x[i], result.residual[i], dead, weight, centred)
        if self._consistency is not None:
            loss = loss + self._consistency.add(p["W_dec"], found["W_dec"])
        if self.recipe.weight_decay:
            loss = loss + weight_decay(p, found, self.recipe.weight_decay)
        if self.recipe.aligned:
            align_gradients(p, found)
        return loss, found

    def _normalised(
        self, inputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Centred input and target (S, B, d) in normalised units; one batch stands for all members
        when the order is shared.
        """
        b_dec = self.parameters["b_dec"].unsqueeze(1)
        x = _stacked(inputs, self.size)
        if self._whitening is not None:
            x = (x - self._centre_in) @ self._whitening - b_dec
            return x, x
        if self.recipe.architecture != "transcoder":
            x = torch.add(b_dec.neg(), x, alpha=self.units.scale_in)
            return x, x
        x = torch.add(-self._centre_in, x, alpha=self.units.scale_in)
        return x, torch.add(b_dec.neg(), _stacked(targets, self.size), alpha=self.units.scale_out)

    def _find_dead(self) -> None:
        """Note which latents have not fired for too many rows."""
        dead = self.rows_since_fired > self.recipe.dead_after_rows
        has = dead.any(1).tolist()
        self.dead = [dead[s].nonzero().view(-1) if has[s] else None for s in range(self.size)]

    def take_losses(self) -> list[float]:
        """Mean training loss of each member since the last call, NaN when there was no step.

        Raises
        ------
        RecipeFailed
            A loss or a weight was NaN or infinite; names the step and the member.
        """
        sound = [torch.isfinite(p).flatten(1).all(1) for p in self.parameters.values()]
        broken = ~torch.stack(sound).all(0)
        bad = torch.where((self._bad_step < 0) & broken, self.done, self._bad_step)
        for member, step in zip(self.members, bad.tolist(), strict=True):
            if step >= 0:
                raise RecipeFailed(
                    f"{self.recipe.id}: the loss of {member} became NaN or infinite at step "
                    f"{step}; lower learning_rate ({self.recipe.learning_rate:g}), or check the "
                    "activations for extreme rows"
                )
        if not self._loss_steps:
            return [float("nan")] * self.size
        losses = (self._loss_sum / self._loss_steps).tolist()
        self._loss_sum.zero_()
        self._loss_steps = 0
        return losses

    def problem(self) -> Problem:
        """A step like those to come: the sampled rows, as many as a batch has on a GPU."""
        batch_size, sample = self.recipe.batch_size, self.units.sample_in
        repeats = -(-batch_size // len(sample)) if self.device.type == "cuda" else 1
        x, y = (
            rows.to(device=self.device, dtype=self.dtype)
            .repeat(repeats, 1)[:batch_size]
            .expand(self.size, -1, -1)
            for rows in (sample, self.units.sample_out)
        )
        return Problem(self.parameters, x, y, self.coefficient)

    def state(self) -> dict[str, Any]:
        """Everything the remaining steps depend on, as tensors and plain values."""
        return {
            "parameters": self.parameters,
            "done": self.done,
            "arithmetic": tuple(self.arithmetic),
            "optimiser": self._optimiser.state(),
            "readers": [r.state() for r in self.readers],
            "rows_since_fired": self.rows_since_fired,
            "dead": self.dead,
            "assignment": None if self._consistency is None else self._consistency.assignment,
            "loss": (self._loss_sum, self._loss_steps, self._bad_step),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`, bit-identically on a CPU."""
        for name, value in self.parameters.items():
            value.copy_(state["parameters"][name])
        self.compute_in(Arithmetic(*state["arithmetic"]))
        self._optimiser.restore(state["optimiser"])
        for reader, saved in zip(self.readers, state["readers"], strict=True):
            reader.restore(saved)
        self.rows_since_fired.copy_(state["rows_since_fired"])
        self.dead = [None if d is None else d.to(self.device) for d in state["dead"]]
        if self._consistency is not None and state["assignment"] is not None:
            self._consistency.assign(state["assignment"])
        loss_sum, self._loss_steps, bad_step = state["loss"]
        self._loss_sum.copy_(loss_sum)
        self._bad_step.copy_(bad_step)
        self.done = state["done"]

    def close(self) -> None:
        """Stop the readers' threads and forget a recorded step; training can go on afterwards."""
        self._replayed = None
        for reader in self.readers:
            reader.close()


def _stacked(batches: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    return batches[0].expand(size, -1, -1) if len(batches) == 1 else torch.stack(list(batches))

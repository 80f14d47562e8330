"""The training loop of an ensemble: members stacked in one set of parameters, each with its own initialisation, rows and coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from husai.activations import ActivationStore, BatchReader
from husai.errors import RecipeFailed
from husai.sae.architectures import SAE
from husai.sae.evaluate import batch_top_k_threshold
from husai.sae.gradients import Gradients, Settings, choose_kernels, gradients
from husai.sae.initialise import initial_parameters, measure_units, member_generator
from husai.sae.objectives import Consistency, auxk
from husai.sae.optimiser import Optimiser, learning_rate_factor
from husai.sae.recipe import Recipe

Rows = torch.Tensor | ActivationStore
FORMATS = {
    "float32": (torch.float32, None),
    "tf32": (torch.float32, None),
    "bfloat16": (torch.float32, torch.bfloat16),
    "float64": (torch.float64, None),
}
SPARSITY_WARMUP = 0.1
DEAD_CHECK_STEPS = 20
SHARED_ORDER_SEED = 0


class Member(NamedTuple):
    """One SAE of an ensemble."""

    seed: int
    coefficient: float = 0.0
    """Sparsity coefficient (ReLU, JumpReLU)."""

    def __str__(self) -> str:
        return f"seed {self.seed}" + (f" (sparsity coefficient {self.coefficient:g})" if self.coefficient else "")


class Trainer:
    """Trains the members of one recipe together.

    On a CPU each member's step is computed on its own (its working set then stays in cache), on a GPU all members share every kernel. A
    member sees the same rows and the same arithmetic either way: on a CPU its weights are bit-identical to training it alone as long as the
    number of threads is the same and the member's slices of the stacked weights are aligned alike (widths that are multiples of 16).

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
        Where, and in which of ``float32``, ``tf32``, ``bfloat16`` (products only) or ``float64``, to compute.
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
        self.dtype, matmul_dtype = FORMATS[dtype]
        self.use_tf32 = dtype == "tf32"
        self.units = measure_units(recipe, data, target)
        per_member = [initial_parameters(recipe, m.seed, self.units, self.dtype) for m in self.members]
        self.parameters = {name: torch.stack([p[name] for p in per_member]).to(self.device) for name in per_member[0]}
        self.initial_decoders = self.parameters["W_dec"].clone()
        self.coefficient = torch.tensor([m.coefficient for m in self.members], dtype=self.dtype, device=self.device)
        use_auxk = recipe.architecture in ("topk", "batchtopk", "transcoder") and recipe.auxk_coefficient > 0
        self.settings = Settings(recipe.architecture, recipe.k, bool(sparse), recipe.frozen_decoder, matmul_dtype, use_auxk)
        S = len(self.members)
        self.groups = [slice(s, s + 1) for s in range(S)] if self.device.type == "cpu" else [slice(0, S)]
        self._optimisers = [self._optimiser(group) for group in self.groups]
        self._readers = self._make_readers(data, target)
        self._consistency = None
        if recipe.consistency_weight and not recipe.frozen_decoder:
            matrix = reference.to(device=self.device, dtype=self.dtype)
            self._consistency = Consistency(matrix, recipe.consistency_weight, recipe.consistency_interval)
        self._rows_since_fired = torch.zeros(S, recipe.d_sae, dtype=torch.int64, device=self.device)
        self._dead: list[torch.Tensor | None] = [None] * S
        self._loss_sum = torch.zeros(S, dtype=torch.float64, device=self.device)
        self._bad_step = torch.full((S,), -1, dtype=torch.int64, device=self.device)
        self._centre_in = (self.units.centre_in * self.units.scale_in).to(device=self.device, dtype=self.dtype)
        self._loss_steps = self.done = 0
        if sparse is None:
            self._choose_kernels()

    @torch.no_grad()
    def step(self) -> None:
        """One optimiser step of every member."""
        if self.settings.count_fired and self.done % DEAD_CHECK_STEPS == 0:
            self._find_dead()
        if self._consistency is not None:
            self._consistency.renew(self.done, self.parameters["W_dec"])
        recipe = self.recipe
        rate = recipe.learning_rate * learning_rate_factor(self.done, recipe.steps, recipe.warmup_fraction, recipe.decay_fraction)
        ramp = min(1.0, (self.done + 1) / max(1, round(SPARSITY_WARMUP * recipe.steps)))
        batches = [next(reader) for reader in self._readers]
        with _tf32(self.use_tf32):
            for group, optimiser in zip(self.groups, self._optimisers, strict=True):
                own = batches if len(batches) == 1 else batches[group]
                loss, found = self._gradients(group, *self._normalised(group, own), ramp)
                optimiser.step(found, rate)
                self._loss_sum[group] += loss
                seen = self._bad_step[group]
                seen.copy_(torch.where((seen < 0) & ~torch.isfinite(loss), self.done, seen))
        self.done += 1
        self._loss_steps += 1

    def _gradients(self, group: slice, x: torch.Tensor, y: torch.Tensor, ramp: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Losses (S',) and gradients of the members in ``group`` on their centred rows."""
        p = {name: value[group] for name, value in self.parameters.items()}
        result: Gradients = gradients(self.settings, p, x, y, self.coefficient[group] * ramp)
        loss, found = result.loss, result.by_name
        if result.fired is not None:
            since = self._rows_since_fired[group]
            since.add_(x.shape[1]).masked_fill_(result.fired, 0)
            for i, dead in enumerate(self._dead[group]):
                if dead is not None:
                    one, gradient = ({n: v[i] for n, v in q.items()} for q in (p, found))
                    centred = self.settings.architecture != "transcoder"
                    loss[i] += auxk(one, gradient, x[i], result.residual[i], dead, self.recipe.auxk_coefficient, centred)
        if self._consistency is not None:
            loss = loss + self._consistency.add(p["W_dec"], found["W_dec"], group)
        return loss, found

    def _normalised(self, group: slice, batches: list) -> tuple[torch.Tensor, torch.Tensor]:
        """Centred input and target (S', B, d) in normalised units; one batch stands for all members when the order is shared."""
        size = group.stop - group.start
        b_dec = self.parameters["b_dec"][group].unsqueeze(1)
        if self.recipe.architecture != "transcoder":
            x = _stacked(batches, size)
            x = torch.add(b_dec.neg(), x, alpha=self.units.scale_in)
            return x, x
        x, y = _stacked([b[0] for b in batches], size), _stacked([b[1] for b in batches], size)
        return torch.add(-self._centre_in, x, alpha=self.units.scale_in), torch.add(b_dec.neg(), y, alpha=self.units.scale_out)

    def _find_dead(self) -> None:
        """Note which latents have not fired for too many rows; the only host synchronisation of training, once in a few steps."""
        dead = self._rows_since_fired > self.recipe.dead_after_rows
        has = dead.any(1).tolist()
        self._dead = [dead[s].nonzero().view(-1) if has[s] else None for s in range(len(self.members))]

    def take_losses(self) -> list[float]:
        """Mean training loss of each member since the last call.

        Raises
        ------
        RecipeFailed
            A loss or a weight was NaN or infinite; names the step and the member.
        """
        broken = torch.stack([~torch.isfinite(p).flatten(1).all(1) for p in self.parameters.values()]).any(0)
        bad = torch.where((self._bad_step < 0) & broken, self.done, self._bad_step).tolist()
        for member, step in zip(self.members, bad, strict=True):
            if step >= 0:
                raise RecipeFailed(
                    f"{self.recipe.id}: the loss of {member} became NaN or infinite at step {step}; lower learning_rate "
                    f"({self.recipe.learning_rate:g}), or check the activations for extreme rows"
                )
        losses = (self._loss_sum / max(1, self._loss_steps)).tolist() if self._loss_steps else [float("nan")] * len(bad)
        self._loss_sum.zero_()
        self._loss_steps = 0
        return losses

    def cosine_to_initial(self) -> torch.Tensor:
        """Median over latents of the cosine of a decoder row to its initial row, per member: (S,) on the CPU."""
        cosine = torch.nn.functional.cosine_similarity(self.parameters["W_dec"], self.initial_decoders, dim=-1)
        return cosine.median(dim=1).values.cpu()

    @torch.no_grad()
    def export(self, index: int, calibration_rows: Rows | None = None, max_rows: int = 8192) -> SAE:
        """Member ``index`` as an :class:`SAE` in raw units, float32.

        A BatchTopK member gets the threshold at which it has k active latents per row of ``calibration_rows``.
        """
        p, units = {n: v[index].double() for n, v in self.parameters.items()}, self.units
        W_enc, b_enc = p["W_enc"].t(), p["b_enc"]
        if self.recipe.architecture == "transcoder":
            b_enc = b_enc - self._centre_in.double() @ W_enc
        W_enc, b_enc = W_enc * (units.scale_in / units.scale_out), b_enc / units.scale_out
        threshold = p["threshold"] / units.scale_out if "threshold" in p else None
        if self.recipe.architecture == "batchtopk":
            threshold = torch.zeros_like(b_enc)
        parts = [W_enc, p["W_dec"], b_enc, p["b_dec"] / units.scale_out, threshold]
        parts = [None if t is None else t.to(torch.float64 if self.dtype == torch.float64 else torch.float32).contiguous() for t in parts]
        k = self.recipe.k if self.recipe.k is not None else None
        sae = SAE(self.recipe.architecture, *parts, k=k, cfg=self._metadata(index))
        if self.recipe.architecture == "batchtopk" and calibration_rows is not None:
            sae.threshold.fill_(batch_top_k_threshold(sae, calibration_rows, self.recipe.k, max_rows))
        return sae

    def state(self) -> dict[str, Any]:
        """Everything the remaining steps depend on, as tensors and plain values."""
        return {
            "done": self.done,
            "sparse": self.settings.sparse,
            "parameters": self.parameters,
            "optimisers": [o.state() for o in self._optimisers],
            "readers": [r.state() for r in self._readers],
            "rows_since_fired": self._rows_since_fired,
            "dead": self._dead,
            "assignment": None if self._consistency is None else self._consistency.assignment,
            "loss": (self._loss_sum, self._loss_steps, self._bad_step),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`, bit-identically on a CPU with the same number of threads."""
        self.settings = self.settings._replace(sparse=state["sparse"])
        for name, value in self.parameters.items():
            value.copy_(state["parameters"][name])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.restore(saved)
        for reader, saved in zip(self._readers, state["readers"], strict=True):
            reader.restore(saved)
        self._rows_since_fired.copy_(state["rows_since_fired"])
        self._dead = [None if d is None else d.to(self.device) for d in state["dead"]]
        if self._consistency is not None and state["assignment"] is not None:
            self._consistency.assignment = state["assignment"].to(self.device)
        loss_sum, self._loss_steps, bad_step = state["loss"]
        self._loss_sum.copy_(loss_sum)
        self._bad_step.copy_(bad_step)
        self.done = state["done"]

    def close(self) -> None:
        """Stop the readers' background threads."""
        for reader in self._readers:
            reader.close()

    @torch.no_grad()
    def _choose_kernels(self) -> None:
        """Settle on sparse or dense kernels for batches like the sampled rows."""
        group = self.groups[0]
        parameters = {name: value[group] for name, value in self.parameters.items()}
        repeats = -(-self.recipe.batch_size // len(self.units.sample_in)) if self.device.type == "cuda" else 1
        x, y = (
            rows.to(device=self.device, dtype=self.dtype)
            .repeat(repeats, 1)[: self.recipe.batch_size]
            .expand(len(self.members[group]), -1, -1)
            for rows in (self.units.sample_in, self.units.sample_out)
        )
        self.settings = choose_kernels(self.settings, parameters, x, y)

    def _optimiser(self, group: slice) -> Optimiser:
        own = {name: value[group] for name, value in self.parameters.items()}
        return Optimiser(own, self.recipe.gradient_clip, self.recipe.frozen_decoder)

    def _make_readers(self, data: Rows, target: Rows | None) -> list[BatchReader]:
        data, target = (_on_device(rows, self.device) for rows in (data, target))
        seeds = [SHARED_ORDER_SEED] if self.recipe.shared_data_order else [m.seed for m in self.members]
        shared = {"n_rows": self.recipe.n_rows, "device": self.device, "dtype": self.dtype, "target": target}
        return [BatchReader(data, self.recipe.batch_size, member_generator(s, "rows").initial_seed(), **shared) for s in seeds]

    def _metadata(self, index: int) -> dict[str, Any]:
        recipe, member = self.recipe, self.members[index]
        return {
            "subject": recipe.subject,
            "hook_name": recipe.hook_name,
            "target_hook_name": recipe.target_hook_name,
            "recipe": recipe.to_dict(),
            "recipe_id": recipe.id,
            "recipe_hash": recipe.hash,
            "seed": member.seed,
        }


def _stacked(batches: list[torch.Tensor], size: int) -> torch.Tensor:
    return batches[0].expand(size, -1, -1) if len(batches) == 1 else torch.stack(batches)


def _on_device(rows: Rows | None, device: torch.device) -> Rows | None:
    """A tensor moved to the GPU when it takes at most half of the free memory there; anything else as it is."""
    if device.type != "cuda" or not isinstance(rows, torch.Tensor) or rows.device == device:
        return rows
    free, _ = torch.cuda.mem_get_info(device)
    return rows.to(device) if rows.numel() * rows.element_size() <= free // 2 else rows


@contextmanager
def _tf32(enabled: bool):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = enabled or before
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before

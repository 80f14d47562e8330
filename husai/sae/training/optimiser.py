"""One optimiser step for stacked members: decoder-tangent gradients, a gradient clip per member,
fused Adam, unit decoder rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from husai.sae.fused import fits

Parameters = dict[str, torch.Tensor]
THRESHOLD_RATE = 10.0
"""See :class:`Optimiser`."""


def learning_rate_factor(
    step: int, steps: int, warmup_fraction: float, decay_fraction: float
) -> float:
    """Linear warm-up over the first and linear decay (towards 0) over the last fraction of
    ``steps``; step counts from 0.
    """
    warmup, falls = full_rate(steps, warmup_fraction, decay_fraction)
    rising = min(1.0, (step + 1) / warmup)
    falling = min(1.0, (steps - step) / (steps - falls)) if falls < steps else 1.0
    return min(rising, falling)


def full_rate(steps: int, warmup_fraction: float, decay_fraction: float) -> tuple[int, int]:
    """Steps after which the learning rate is as given, and after which it falls."""
    return max(1, round(steps * warmup_fraction)), steps - round(steps * decay_fraction)


class Optimiser:
    """Adam (betas 0.9 and 0.999) on parameters (S, ...) stacked over members, but for the
    ``frozen`` ones, in place; gradients are of the loss per dimension (see ``gradients``).

    A JumpReLU ``threshold`` learns ``THRESHOLD_RATE`` times faster than the weights: it is one
    number of order 1, which Adam moves by at most the learning rate per step, while a
    pre-activation is moved by d_in weights at once.

    ``gradient_clip`` is the largest gradient norm of one member over all its parameters, for a loss
    that sums squared errors over the d_out dimensions (the convention of SAELens and
    dictionary_learning). The default of 1 is then reached at almost every step: what is passed on
    has constant length, and the large gradients of the first steps do not linger in Adam's second
    moments.
    """

    def __init__(
        self, parameters: Parameters, gradient_clip: float | None, frozen: Sequence[str] = ()
    ):
        d_out = parameters["W_dec"].shape[-1]
        self.parameters = parameters
        self.gradient_clip = None if gradient_clip is None else gradient_clip / d_out
        self._eps = 1e-8 / d_out
        self._trained = [n for n in parameters if n not in frozen]
        self._first = {n: torch.zeros_like(parameters[n]) for n in self._trained}
        self._second = {n: torch.zeros_like(parameters[n]) for n in self._trained}
        self._fused = fits(parameters)
        self._betas = torch.tensor([0.9, 0.999], device=parameters["W_dec"].device)
        self._steps = {
            n: torch.zeros((), dtype=torch.float32, device=parameters[n].device)
            for n in self._trained
        }

    def step(self, gradients: Parameters, learning_rate: float | torch.Tensor) -> None:
        """Apply gradients (each in its parameter's shape; overwritten).

        On a GPU a ``learning_rate`` that is a tensor () in float32 there is read by the kernels,
        never by the host.
        """
        gradients = {n: g for n, g in gradients.items() if n in self._trained}
        if self._fused:
            self._fused_step(gradients, learning_rate)
            return
        if "W_dec" in gradients:
            remove_parallel(gradients["W_dec"], self.parameters["W_dec"])
        if self.gradient_clip is not None:
            clip(gradients, self.gradient_clip)
        self._adam(gradients, learning_rate)
        if "W_dec" in gradients:
            W_dec = self.parameters["W_dec"]
            W_dec.div_(torch.linalg.vector_norm(W_dec, dim=-1, keepdim=True))
        if "threshold" in self.parameters:
            self.parameters["threshold"].clamp_(min=0.0)

    def _adam(self, gradients: Parameters, learning_rate: float | torch.Tensor) -> None:
        """Torch's fused kernel itself: building ``torch.optim.Adam`` imports its compiler, 2 s in
        every job.
        """
        fixed = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": self._eps}
        fixed |= {"amsgrad": False, "maximize": False}
        groups = (self.parameters, gradients, self._first, self._second, self._steps)
        for names, factor in (
            ([n for n in gradients if n != "threshold"], 1.0),
            ([n for n in gradients if n == "threshold"], THRESHOLD_RATE),
        ):
            if names:
                *tensors, steps = ([group[n] for n in names] for group in groups)
                torch._foreach_add_(steps, 1.0)
                torch._fused_adam_(*tensors, [], steps, lr=factor * learning_rate, **fixed)

    def _fused_step(self, gradients: Parameters, learning_rate: float | torch.Tensor) -> None:
        """The same step; large matrices are read once for their norm and once for their update."""
        from husai.sae.fused.update import adam, row_squares

        p = self.parameters
        rate = torch.as_tensor(learning_rate, dtype=torch.float32, device=p["W_enc"].device)
        large = [n for n in ("W_enc", "W_dec") if n in gradients]
        small = {n: g for n, g in gradients.items() if n not in large}
        factor = torch.ones(len(p["W_enc"]), device=rate.device)
        if self.gradient_clip is not None:
            squares = [row_squares(gradients[n], p[n], n == "W_dec").sum(1) for n in large]
            squares += [g.flatten(1).square().sum(1) for g in small.values()]
            factor = clip_factor(torch.stack(squares).sum(0), self.gradient_clip)
        for g in small.values():
            g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))
        self._adam(small, rate)
        torch._foreach_add_([self._steps[n] for n in large], 1.0)
        rest = -torch.expm1(self._steps[large[0]] * torch.log(self._betas))  # 1 - beta^t
        corrections = torch.stack([rest[0].reciprocal(), rest[1].rsqrt()])
        for n in large:
            moments = self._first[n], self._second[n]
            adam(p[n], gradients[n], *moments, factor, rate, corrections, self._eps, n == "W_dec")
        if "threshold" in p:
            p["threshold"].clamp_(min=0.0)

    def state(self) -> dict[str, Any]:
        """Moments and step counts, for :meth:`restore`."""
        return {"first": self._first, "second": self._second, "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        for name, own in self.state().items():
            for parameter, value in own.items():
                value.copy_(state[name][parameter])


def remove_parallel(gradient: torch.Tensor, W_dec: torch.Tensor) -> None:
    """Project gradients ``(S, d_sae, d_out)`` onto the tangent of the unit sphere at each decoder
    row of ``W_dec (S, d_sae, d_out)``, in place (Bricken et al. 2023, appendix).
    """
    gradient.addcmul_((gradient * W_dec).sum(-1, keepdim=True), W_dec, value=-1.0)


def clip_factor(squares: torch.Tensor, limit: float) -> torch.Tensor:
    """Factor (S,) that brings gradients of squared norms (S,) down to a norm of ``limit``."""
    return (limit / squares.sqrt().clamp_min(1e-30)).clamp_(max=1.0)


def clip(gradients: Parameters, limit: float) -> None:
    """Scale each member's gradients down to a joint norm of at most ``limit``, in place; no host
    synchronisation on a GPU.
    """
    squares = [torch.linalg.vector_norm(g.flatten(1), dim=1).square_() for g in gradients.values()]
    factor = clip_factor(torch.stack(squares).sum(0), limit)
    if factor.device.type == "cpu" and bool((factor == 1.0).all()):
        return
    for g in gradients.values():
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))

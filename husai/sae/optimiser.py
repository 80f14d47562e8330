"""One optimiser step for stacked members: decoder-tangent gradients, a gradient clip per member, fused Adam, unit decoder rows."""

from __future__ import annotations

from typing import Any

import torch

Parameters = dict[str, torch.Tensor]


def learning_rate_factor(step: int, steps: int, warmup_fraction: float, decay_fraction: float) -> float:
    """Linear warm-up over the first and linear decay (towards 0) over the last fraction of ``steps``; step counts from 0."""
    warmup, decay = max(1, round(steps * warmup_fraction)), round(steps * decay_fraction)
    rising = min(1.0, (step + 1) / warmup)
    falling = min(1.0, (steps - step) / decay) if decay else 1.0
    return min(rising, falling)


class Optimiser:
    """Adam (betas 0.9 and 0.999, eps 1e-8) on parameters stacked over members.

    Parameters
    ----------
    parameters : dict
        Leaves (S, ...), updated in place.
    gradient_clip : float or None
        Largest gradient norm of one member over all its parameters.
    frozen_decoder : bool
        ``W_dec`` is never touched.
    """

    def __init__(self, parameters: Parameters, gradient_clip: float | None, frozen_decoder: bool = False):
        self.parameters, self.gradient_clip = parameters, gradient_clip
        self._trained = {n: torch.nn.Parameter(p) for n, p in parameters.items() if not (frozen_decoder and n == "W_dec")}
        self._adam = torch.optim.Adam(self._trained.values(), fused=True)

    def step(self, gradients: Parameters, learning_rate: float) -> None:
        """Apply gradients (each in its parameter's shape; overwritten)."""
        if "W_dec" in gradients:
            remove_parallel(gradients["W_dec"], self.parameters["W_dec"])
        if self.gradient_clip is not None:
            clip(gradients, self.gradient_clip)
        for name, parameter in self._trained.items():
            parameter.grad = gradients[name]
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        if "W_dec" in gradients:
            W_dec = self.parameters["W_dec"]
            W_dec.div_(torch.linalg.vector_norm(W_dec, dim=-1, keepdim=True))
        if "threshold" in self.parameters:
            self.parameters["threshold"].clamp_(min=0.0)

    def state(self) -> dict[str, Any]:
        """Moments and step counts, for :meth:`restore`."""
        return self._adam.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self._adam.load_state_dict(state)


def remove_parallel(gradient: torch.Tensor, W_dec: torch.Tensor) -> None:
    """Project gradients onto the tangent of the unit sphere at each decoder row, in place (Bricken et al. 2023, appendix)."""
    gradient.addcmul_((gradient * W_dec).sum(-1, keepdim=True), W_dec, value=-1.0)


def clip(gradients: Parameters, limit: float) -> None:
    """Scale each member's gradients down to a joint norm of at most ``limit``, in place; no host synchronisation on a GPU."""
    squares = [torch.linalg.vector_norm(g.flatten(1), dim=1).square_() for g in gradients.values()]
    factor = (limit / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1.0)
    if factor.device.type == "cpu" and bool((factor == 1.0).all()):
        return
    for g in gradients.values():
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))

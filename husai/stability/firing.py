"""How each latent fires on held-out rows, and what share of the explained variance is its own."""

from __future__ import annotations

from typing import NamedTuple

import torch

from husai.errors import HusaiError
from husai.stability.functional import BATCH_BYTES, batches


class Firing(NamedTuple):
    """Latent by latent, tensors ``(d_sae,)`` float64 on the CPU."""

    density: torch.Tensor
    """Share of rows on which the latent fires, in [0, 1]."""
    mean: torch.Tensor
    """Mean activation where the latent fires, in units of the code; 0 where it never does."""
    largest: torch.Tensor
    """Largest activation."""
    variance_share: torch.Tensor
    """Share of the explained variance; sums to 1 over latents, negative where a latent harms. NaN
    where the SAE explains nothing."""
    explained_variance: float
    """Of the whole SAE, ``1 - sum ||x - x_hat||^2 / sum ||x - mean(x)||^2``."""
    l0: float
    n_rows: int

    @property
    def alive(self) -> torch.Tensor:
        """Latents that fire at all, bool ``(d_sae,)``."""
        return self.density > 0


@torch.no_grad()
def firing(sae, rows, *, device=None, batch_size: int | None = None) -> Firing:
    r"""Density, activation and share of the explained variance of every latent, in one pass.

    The share is exact and additive. With ``r = x - x_hat`` and ``w = (x - mean(x)) + r``, the
    explained sum of squares is ``sum <x_hat - mean(x), w>``, so latent i owns
    ``sum (z_i - mean(z_i)) <d_i, w>``: half of what it gains when it alone is added to nothing,
    plus half of what is lost when it alone is taken away. The explained sum is quadratic in the
    set of latents, so this is Shapley's value (Shapley 1953, "A value for n-person games").

    Parameters
    ----------
    sae
        An :class:`husai.sae.SAE`, or anything with its ``encode``, ``decode`` and ``W_dec``.
    rows : Tensor (n, d_in) or activation store
        Held-out activations; streamed.
    device
        Where to compute; None is where the SAE lies.
    batch_size : int or None
        Rows at a time; sums are float64, so it does not change the result.

    Raises
    ------
    HusaiError
        Fewer than two rows, or NaN and infinite values.
    """
    device = torch.device(device) if device is not None else sae.W_dec.device
    d_sae, d_out = sae.W_dec.shape
    zero = torch.zeros((), dtype=torch.float64, device=device)
    sums = {name: zero.new_zeros(d_sae) for name in ("count", "code", "largest", "own")}
    row_sum, residual_sum = (zero.new_zeros(d_out) for _ in range(2))
    squares, error, n = zero.clone(), zero.clone(), 0
    # Of the first rows, float32: near enough to the mean for the sums to lose no digits.
    mean = next(batches(rows, 4096, device)).double().mean(0).float()
    for x in batches(rows, batch_size or max(256, BATCH_BYTES // (16 * d_sae)), device):
        n += x.shape[0]
        z = sae.encode(x).float()
        residual = (x - sae.decode(z)).float()
        centred = x.float() - mean
        gain = (centred + residual) @ sae.W_dec.float().T
        sums["count"] += (z != 0).sum(0)
        sums["code"] += z.sum(0, dtype=torch.float64)
        sums["largest"] = torch.maximum(sums["largest"], z.abs().amax(0).double())
        sums["own"] += (z * gain).sum(0, dtype=torch.float64)
        row_sum += centred.sum(0, dtype=torch.float64)
        residual_sum += residual.sum(0, dtype=torch.float64)
        squares += centred.double().square().sum()
        error += residual.double().square().sum()
    total = squares - row_sum.square().sum() / n
    offset = (row_sum + residual_sum) @ sae.W_dec.double().T / n
    own = sums["own"] - sums["code"] * offset
    if not bool(torch.isfinite(own).all() & torch.isfinite(error)):
        raise HusaiError(
            f"{getattr(rows, 'path', 'the rows given')}: NaN or infinite values in the activations "
            "or in what the SAE makes of them; store them again"
        )
    return Firing(
        density=(sums["count"] / n).cpu(),
        mean=(sums["code"] / sums["count"].clamp_min(1)).cpu(),
        largest=sums["largest"].cpu(),
        variance_share=torch.where(own.sum() > 0, own / own.sum(), torch.nan).cpu(),
        explained_variance=float(1 - error / total) if bool(total > 0) else float("nan"),
        l0=float(sums["count"].sum() / n),
        n_rows=n,
    )


@torch.no_grad()
def activation_histograms(sae, rows, largest: torch.Tensor, bins: int = 24) -> torch.Tensor:
    """How often each latent fires how strongly: ``(d_sae, bins)`` int64 on the CPU.

    Bins divide 0 to the ``largest`` activation ``(d_sae,)`` of :class:`Firing` evenly; rows on
    which a latent does not fire are not counted.
    """
    device, d_sae = sae.W_dec.device, sae.W_dec.shape[0]
    width = (largest.to(device).float() / bins).clamp_min(torch.finfo(torch.float32).tiny)
    counts = torch.zeros(d_sae * bins, dtype=torch.int64, device=device)
    first = torch.arange(d_sae, device=device) * bins
    for x in batches(rows, max(256, BATCH_BYTES // (16 * d_sae)), device):
        z = sae.encode(x).float()
        where = (z / width).long().clamp_(0, bins - 1) + first
        counts.scatter_add_(0, where.flatten(), (z != 0).long().flatten())
    return counts.view(d_sae, bins).cpu()

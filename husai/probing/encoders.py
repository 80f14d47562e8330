"""What a probe reads: the code of an SAE or raw dimensions, of which only the best few columns are
built where the architecture allows it.
"""

from __future__ import annotations

import torch

from husai.errors import RecipeFailed
from husai.probing import codes

CHUNK_ROWS = 128
"""sae-probes' batch."""


class SAEEncoder:
    """Latents of an SAE."""

    def __init__(self, sae):
        self.sae, self.d_in = sae, sae.d_in

    @torch.inference_mode()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code ``(n, d_sae)`` float32 of ``x (n, d_in)``."""
        return torch.cat([self.sae.encode(rows).float() for rows in x.split(CHUNK_ROWS)])

    @torch.inference_mode()
    def best(self, x: torch.Tensor, y: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``n`` best latents for labels ``y`` (see :func:`rank_latents`), best first, and their
        columns of the code, ``(n_rows, n)``.
        """
        if not codes.applies(self.sae, x):
            return best_columns(self.encode(x), y, n)
        code = codes.ClassSums(self.sae, x, y)
        latents = rank_latents(code.sums, code.sums.sum(0), code.fired, y)[:n]
        return latents, code.columns(latents)

    @torch.inference_mode()
    def columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Columns ``latents`` of the code of ``x``, ``(n, len(latents))``."""
        if codes.applies(self.sae, x):
            return codes.columns(self.sae, x, latents)
        parts = [self.sae.encode(rows)[:, latents].float() for rows in x.split(CHUNK_ROWS)]
        return torch.cat(parts)


class Neurons:
    """The raw dimensions themselves: the top-k-neurons baseline."""

    def __init__(self, d_in: int):
        self.d_in = d_in

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` itself."""
        return x.float()

    def best(self, x: torch.Tensor, y: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``n`` best dimensions for labels ``y``, best first, and their columns."""
        return best_columns(x.float(), y, n)

    def columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Chosen dimensions of ``x``."""
        return x[:, latents].float()


def best_columns(z: torch.Tensor, y: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``n`` best latents of a dense code ``z (n_rows, d_sae)`` and their columns."""
    sums = torch.stack([y == 0, y == 1]).to(z.dtype) @ z
    latents = rank_latents(sums, z.abs().sum(0), (z != 0).sum(0), y)[:n]
    return latents, z[:, latents]


def rank_latents(
    sums: torch.Tensor, total: torch.Tensor, fired: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Latents by |difference of class means| of mean-normalised activations, largest first.

    The arithmetic, including the two 1e-6 terms, is that of ``mean_act_normalization`` and
    ``get_sorted_indices`` in sae-probes, from sums over rows instead of every activation. Latents
    that are equally good but for rounding may come in another order than there.

    Parameters
    ----------
    sums : Tensor, ``(2, d_sae)``
        Activations summed over the rows of each class.
    total, fired : Tensor, ``(d_sae,)``
        Magnitudes summed over all rows, and on how many rows a latent is not zero.
    y : Tensor, ``(n_rows,)`` labels 0/1
    """
    if not torch.isfinite(sums).all():
        raise RecipeFailed(
            "probing: the SAE's code has NaN or infinite values; check the checkpoint and the "
            "activations"
        )
    sizes = torch.bincount(y, minlength=2).unsqueeze(1)
    means = sums.double() / sizes / (total.double() / (fired.double() + 1e-6) + 1e-6)
    return (means[1] - means[0]).abs().argsort(descending=True, stable=True)

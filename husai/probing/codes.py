"""What probes and story means need of an SAE's code, sums over groups of rows and single columns,
without the code's dense form; by kernels on a CPU in float32.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from husai import compiled
from husai.sae.architectures import THRESHOLDED, TOP_K

CHUNK_ROWS = 256
"""Rows multiplied at a time: their products, 1 MB at width 1024, stay in a core's cache until they
are read."""
LARGEST = torch.finfo(torch.float32).max
"""Stands for a threshold that is NaN or infinite: only an infinite pre-activation exceeds it."""
kernels = functools.partial(compiled.load, "husai.probing.code_kernels")


def applies(sae, x: torch.Tensor) -> bool:
    """Whether the kernels can read this SAE and these rows."""
    known = getattr(sae, "architecture", None) in ("relu", *TOP_K, *THRESHOLDED)
    return known and all(
        t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, sae.W_enc)
    )


def add_codes(
    sae,
    products: torch.Tensor,
    groups: torch.Tensor,
    sums: torch.Tensor,
    fired: torch.Tensor,
    floors: torch.Tensor | None = None,
) -> None:
    """Add the codes of rows to the sums of their groups, and count how often each latent fires.

    Parameters
    ----------
    products : Tensor, ``(n, d_sae)`` float32
        Of the centred rows with ``W_enc``; an SAE that keeps the k largest gets its bias added here
        in place.
    groups : Tensor, ``(n,)`` int64
    sums : Tensor, ``(n_groups, d_sae)`` float32
    fired : Tensor, ``(d_sae,)`` float32
    floors : Tensor, ``(n,)`` float32, optional
        For an SAE that keeps the k largest: gets a number that only these reach, see
        ``code_kernels.floor_of``.
    """
    bias, arrays = _bias(sae), (groups.numpy(), sums.numpy(), fired.numpy())
    if sae.architecture not in TOP_K:
        kernels().add_above(products.numpy(), bias, _threshold(sae).numpy(), *arrays)
        return
    floors = torch.empty(len(products)) if floors is None else floors
    tied = np.empty(len(products), np.int64)
    n_tied = kernels().add_top_k(products.numpy(), bias, sae.k, *arrays, floors.numpy(), tied)
    if n_tied:
        # Which of equal latents is kept is torch.topk's choice, as in SAE.encode.
        rows = torch.from_numpy(tied[:n_tied])
        values, latents = products[rows].topk(sae.k, dim=1, sorted=False)
        values = values.relu_()
        sums.index_put_((groups[rows].unsqueeze(1), latents), values, accumulate=True)
        fired += torch.bincount(latents[values > 0], minlength=len(fired))


class ClassSums:
    """Sums of the code over the rows ``x (n, d_in)`` of each class ``y (n,)`` 0/1, by which latents
    are ranked, and columns of it.

    Attributes
    ----------
    sums : Tensor, ``(2, d_sae)``
    fired : Tensor, ``(d_sae,)``
        On how many rows each latent is not zero.
    """

    def __init__(self, sae, x: torch.Tensor, y: torch.Tensor):
        self.sae, self.x = sae, x
        kept = len(x) if sae.architecture in TOP_K else CHUNK_ROWS
        self._products, self._floors = torch.empty(kept, sae.d_sae), torch.empty(len(x))
        self.sums, self.fired = torch.zeros(2, sae.d_sae), torch.zeros(sae.d_sae)
        for rows, products in _products(sae, x, self._products):
            add_codes(sae, products, y[rows], self.sums, self.fired, self._floors[rows])

    def columns(self, latents: torch.Tensor) -> torch.Tensor:
        """Columns of the code, ``(n, len(latents))``. Latents that tie for the k-th place are all
        kept."""
        if self.sae.architecture not in TOP_K:
            return columns(self.sae, self.x, latents)
        found = self._products[:, latents]
        return torch.where(found >= self._floors.unsqueeze(1), found, 0.0)


def columns(sae, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Columns ``latents`` of the code of ``x``, ``(n, len(latents))``.

    Where latents do not depend on each other only these are computed; of an SAE that keeps the k
    largest, all are."""
    if sae.architecture not in TOP_K:
        pre = _centred(sae, x) @ sae.W_enc[:, latents] + sae.b_enc[latents]
        return torch.where(pre <= _threshold(sae)[latents], 0.0, pre)
    out, bias = torch.empty(len(x), len(latents)), _bias(sae)
    for rows, products in _products(sae, x, torch.empty(CHUNK_ROWS, sae.d_sae)):
        kernels().top_k_columns(products.numpy(), bias, sae.k, latents.numpy(), out[rows].numpy())
    return out


def _products(sae, x: torch.Tensor, out: torch.Tensor):
    """``(rows, their products with W_enc)``, chunk by chunk, written to ``out``: to their own place
    where all rows fit, else over each other."""
    x, whole = _centred(sae, x), len(out) >= len(x)
    for start in range(0, len(x), CHUNK_ROWS):
        rows = slice(start, min(start + CHUNK_ROWS, len(x)))
        part = out[rows] if whole else out[: rows.stop - start]
        yield rows, torch.mm(x[rows], sae.W_enc, out=part)


def _centred(sae, x: torch.Tensor) -> torch.Tensor:
    return x - sae.b_dec if sae.apply_b_dec_to_input else x


def _bias(sae) -> np.ndarray:
    return sae.b_enc.detach().contiguous().numpy()


def _threshold(sae) -> torch.Tensor:
    """What a pre-activation must exceed to be on, float32 ``(d_sae,)``."""
    if sae.threshold is None:
        return torch.zeros(sae.d_sae)
    found = sae.threshold.detach().float().nan_to_num(nan=LARGEST, posinf=LARGEST)
    return found.clamp(min=0.0).contiguous()

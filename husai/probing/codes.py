"""What a probe needs of an SAE's code, class sums and single columns, without the code's dense
form; sums by kernels on a CPU in float32.
"""

from __future__ import annotations

import threading

import numpy as np
import torch

from husai.compiled import probe_kernels
from husai.sae.architectures import THRESHOLDED, TOP_K

CHUNK_ROWS = 256
_memory = threading.local()
ONE_BY_ONE = ("relu", *THRESHOLDED)
"""Architectures in which a latent does not depend on the others."""


def applies(sae, x: torch.Tensor) -> bool:
    """Whether the kernels can read this SAE."""
    if getattr(sae, "architecture", None) not in (*TOP_K, *ONE_BY_ONE):
        return False
    return (
        x.device.type == "cpu"
        and sae.W_enc.dtype == torch.float32
        and sae.W_enc.device.type == "cpu"
    )


class ClassSums:
    """Pre-activations of the training rows, and per latent what ranking sums over them; good until
    the thread looks at other rows.
    """

    def __init__(self, sae, x: torch.Tensor, y: torch.Tensor):
        kernels, labels = probe_kernels().rows, y.numpy()
        top_k = sae.architecture in TOP_K
        self.sae, self.x = sae, x
        self.pre = _scratch(len(x) if top_k else min(CHUNK_ROWS, len(x)), sae.d_sae)
        self.least = np.zeros(len(x), np.float32)
        sums, fired = np.zeros((2, sae.d_sae), np.float32), np.zeros(sae.d_sae, np.float32)
        threshold = _threshold(sae).numpy()
        for rows, part in _chunks(sae, x, self.pre):
            if top_k:
                kernels.add_top_k(part, labels[rows], sae.k, sums, fired, self.least[rows])
            else:
                kernels.add_above(part, labels[rows], threshold, sums, fired)
        self.sums, self.fired = torch.from_numpy(sums), torch.from_numpy(fired)

    def columns(self, latents: torch.Tensor) -> torch.Tensor:
        """Columns of the code, ``(n, len(latents))``."""
        if self.sae.architecture not in TOP_K:
            return threshold_columns(self.sae, self.x, latents)
        pre = self.pre[:, latents]
        return torch.where(pre >= torch.from_numpy(self.least).unsqueeze(1), pre, 0.0)


def threshold_columns(sae, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Columns ``latents`` of the code of ``x``, ``(n, len(latents))`` float32, of an SAE whose
    latents do not depend on each other.
    """
    x = x.to(sae.W_enc.dtype)
    x = x - sae.b_dec if sae.apply_b_dec_to_input else x
    pre = x @ sae.W_enc[:, latents] + sae.b_enc[latents]
    return torch.where(pre <= _threshold(sae)[latents], 0.0, pre).float()


def product_columns(sae, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """The same as the columns of the whole code, from the product with all latents: another sum
    would differ in its last bits.
    """
    if sae.architecture in TOP_K:
        return top_k_columns(sae, x, latents)
    kept = [
        part[:, latents.numpy()]
        for _, part in _chunks(sae, x, _scratch(min(CHUNK_ROWS, len(x)), sae.d_sae))
    ]
    pre = torch.from_numpy(np.concatenate(kept))
    return torch.where(pre <= _threshold(sae)[latents], 0.0, pre)


def top_k_columns(sae, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Columns ``latents`` of the code of ``x``, ``(n, len(latents))``, of an SAE that keeps the k
    largest of a row.
    """
    kernels, out = probe_kernels().rows, torch.empty(len(x), len(latents))
    for rows, part in _chunks(sae, x, _scratch(min(CHUNK_ROWS, len(x)), sae.d_sae)):
        kernels.top_k_columns(part, latents.numpy(), sae.k, out[rows].numpy())
    return out


def _chunks(sae, x: torch.Tensor, out: torch.Tensor):
    """``(rows, pre-activations of them)`` while they are in cache, written to ``out``: all of it,
    or its start again and again.
    """
    x, whole = _centred(sae, x), len(out) == len(x)
    for start in range(0, len(x), CHUNK_ROWS):
        rows = slice(start, min(start + CHUNK_ROWS, len(x)))
        part = out[rows] if whole else out[: rows.stop - start]
        torch.mm(x[rows], sae.W_enc, out=part)
        yield rows, part.add_(sae.b_enc).numpy()


def _scratch(n: int, d: int) -> torch.Tensor:
    """An ``(n, d)`` float32 matrix in memory that each thread keeps: fresh pages would cost as much
    as what is done in them.
    """
    if getattr(_memory, "numbers", np.empty(0)).size < n * d:
        _memory.numbers = np.empty(n * d, np.float32)
    return torch.from_numpy(_memory.numbers[: n * d].reshape(n, d))


def _centred(sae, x: torch.Tensor) -> torch.Tensor:
    x = x.float()
    return x - sae.b_dec if sae.apply_b_dec_to_input else x


def _threshold(sae) -> torch.Tensor:
    """A latent is on above it."""
    return torch.zeros_like(sae.b_enc) if sae.threshold is None else sae.threshold.clamp(min=0.0)

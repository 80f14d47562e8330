"""Fused kernels of a k-sparse training step, and where they are used.

On a CUDA device with Triton, in float32, for rows that fit into registers.
"""

from __future__ import annotations

import functools

import torch

from husai.progress import log


def fits(parameters: dict[str, torch.Tensor]) -> bool:
    """Whether the fused kernels can update ``parameters`` (S, n, d)."""
    W_dec = parameters["W_dec"]
    if W_dec.device.type != "cuda" or W_dec.dtype != torch.float32 or not usable():
        return False
    from husai.sae.fused.update import WIDEST_ROW

    return max(parameters["W_enc"].shape[2], W_dec.shape[2]) <= WIDEST_ROW


def fits_code(parameters: dict[str, torch.Tensor]) -> bool:
    """Whether they can also select and decode the codes of a k-sparse step; ``W_enc`` is
    ``(S, d_sae, d_in)`` and ``W_dec`` ``(S, d_sae, d_out)``.
    """
    if not fits(parameters):
        return False
    from husai.sae.fused.select import MOST_LATENTS

    return parameters["W_dec"].shape[1] <= MOST_LATENTS


@functools.cache
def usable() -> bool:
    """Whether Triton is installed and a kernel it compiles is right; a line in the log if not."""
    try:
        from husai.sae.fused.update import row_squares
    except ImportError:
        return False
    try:
        rows = torch.arange(32.0, device="cuda").view(1, 2, 16)
        if torch.equal(row_squares(rows, rows, tangent=False), rows.square().sum(2)):
            return True
        why = "a sum of squares came out wrong"
    except Exception as error:  # no C compiler, no room for its cache, an unknown card
        why = " ".join(str(error).split())[:200]
    log(f"Triton's kernels are not used: {why}")
    return False

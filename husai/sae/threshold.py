"""The BatchTopK threshold that gives the wanted L0 on held-out rows."""

from __future__ import annotations

import torch

from husai.activations import Rows
from husai.sae.architectures import SAE
from husai.sae.kernels import batch_top_k
from husai.stability import row_batches


@torch.no_grad()
def batch_top_k_threshold(sae: SAE, x: Rows, k: float, max_rows: int = 8192) -> float:
    """The one threshold at which ``sae`` has k active latents per row of ``x`` on average (Bussmann
    et al. 2412.06410, section 3.1).

    Unlike a running mean of the training batches' smallest activations it does not lag behind the
    weights."""
    n = min(len(x), max_rows)
    wanted = round(n * k)
    kept = torch.zeros(0, dtype=sae.dtype, device=sae.device)
    for rows in row_batches(x, n, sae.device):
        kept = torch.cat([kept, batch_top_k(sae.pre_activations(rows), wanted + 1)[0]])
        kept = kept.topk(min(kept.numel(), wanted + 1)).values
    inside = kept[min(wanted, kept.numel()) - 1]
    below = kept[wanted] if kept.numel() > wanted else torch.zeros_like(inside)
    return max(0.0, float((inside + below) / 2))

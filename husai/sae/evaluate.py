"""What an SAE does on held-out rows: explained variance, L0, dead latents; and the BatchTopK threshold that gives the wanted L0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from husai.activations import ActivationStore
from husai.errors import HusaiError
from husai.sae.architectures import SAE
from husai.sae.kernels import batch_top_k

Rows = torch.Tensor | ActivationStore
BATCH_ROWS = 4096


def batches(source: Rows, n_rows: int, device: torch.device, size: int = BATCH_ROWS) -> Iterator[torch.Tensor]:
    """The first ``n_rows`` rows in order, as float32 (or float64) batches on ``device``."""
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        rows = source[start:stop] if isinstance(source, torch.Tensor) else source.rows(start, stop)
        yield rows.to(device=device, dtype=rows.dtype if rows.dtype == torch.float64 else torch.float32)


@torch.no_grad()
def evaluate_sae(sae: SAE, x: Rows, target: Rows | None = None, max_rows: int | None = None) -> dict[str, Any]:
    """Reconstruction and sparsity of ``sae`` on rows it was not trained on.

    Parameters
    ----------
    sae : SAE
    x : Tensor (n, d_in) or ActivationStore
    target : Tensor (n, d_out) or ActivationStore or None
        What a transcoder should reconstruct; ``x`` itself when None.
    max_rows : int or None
        Use only the first rows.

    Returns
    -------
    dict
        ``explained_variance``: ``1 - sum ||y - y_hat||^2 / sum ||y - mean(y)||^2`` over all rows and dimensions (NaN when the rows are all
        equal); ``mse``: mean squared error per element; ``l0``: mean active latents per row; ``dead_fraction``: share of latents that never
        fire on these rows; ``alive``: bool Tensor (d_sae,) on the CPU; ``n_rows``.

    Raises
    ------
    HusaiError
        Widths that do not fit, no rows, numbers of rows that differ, or NaN and infinite values.
    """
    n = _checked_rows(sae, x, target, max_rows)
    device = sae.device
    alive = torch.zeros(sae.d_sae, dtype=torch.bool, device=device)
    active = torch.zeros((), dtype=torch.int64, device=device)
    error, squares = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    total = torch.zeros(sae.d_out, dtype=torch.float64, device=device)
    shift = None
    targets = batches(x if target is None else target, n, device)
    for rows, y in zip(batches(x, n, device), targets, strict=True):
        z = sae.encode(rows)
        fires = z > 0
        alive |= fires.any(0)
        active += fires.sum()
        error += (y - sae.decode(z)).double().square().sum()
        shift = y.double().mean(0) if shift is None else shift
        centred = y.double() - shift
        squares += centred.square().sum()
        total += centred.sum(0)
    variance = float(squares - total.square().sum() / n)
    if not math.isfinite(variance) or not math.isfinite(float(error)):
        where = getattr(x if target is None else target, "path", "the rows given")
        raise HusaiError(
            f"{where}: NaN or infinite values in the activations or in what the {sae.architecture} SAE makes of them; store them again"
        )
    return {
        "explained_variance": 1.0 - float(error) / variance if variance > 0 else float("nan"),
        "mse": float(error) / (n * sae.d_out),
        "l0": float(active) / n,
        "dead_fraction": 1.0 - float(alive.sum()) / sae.d_sae,
        "alive": alive.cpu(),
        "n_rows": n,
    }


@torch.no_grad()
def batch_top_k_threshold(sae: SAE, x: Rows, k: int, max_rows: int = 8192) -> float:
    """The one threshold at which ``sae`` has k active latents per row of ``x`` on average (Bussmann et al. 2412.06410, section 3.1).

    Unlike a running mean of the training batches' smallest activations it does not lag behind the weights.
    """
    n = min(len(x), max_rows)
    wanted = n * k
    kept = torch.zeros(0, dtype=sae.dtype, device=sae.device)
    for rows in batches(x, n, sae.device):
        kept = torch.cat([kept, batch_top_k(sae.pre_activations(rows), wanted + 1)[0]])
        kept = kept.topk(min(kept.numel(), wanted + 1)).values
    inside = kept[min(wanted, kept.numel()) - 1]
    below = kept[wanted] if kept.numel() > wanted else torch.zeros_like(inside)
    return max(0.0, float((inside + below) / 2))


def _checked_rows(sae: SAE, x: Rows, target: Rows | None, max_rows: int | None) -> int:
    n = len(x) if max_rows is None else min(len(x), max_rows)
    for rows, width, name in ((x, sae.d_in, "d_in"), (x if target is None else target, sae.d_out, "d_out")):
        d = rows.d if isinstance(rows, ActivationStore) else rows.shape[-1]
        if d != width:
            raise HusaiError(f"the rows are {d} wide but the {sae.architecture} SAE has {name} = {width}; give the activations of its hook")
    if target is not None and len(target) != len(x):
        raise HusaiError(f"{len(x)} input rows but {len(target)} target rows; a transcoder needs them row for row")
    if n == 0:
        raise HusaiError("no rows to evaluate on: the held-out activations are empty")
    return n

"""How well an SAE reconstructs held-out rows, how many latents it uses, and which are alive."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from husai.activations import Rows, width
from husai.errors import HusaiError

BATCH_ROWS = 4096
CODE_BYTES = 64 * 2**20
"""Rows of a batch at most, and bytes of its codes: wide SAEs get shorter batches."""


def row_batches(
    source: Rows, n_rows: int, device: torch.device | None, size: int = BATCH_ROWS
) -> Iterator[torch.Tensor]:
    """The first ``n_rows`` rows of ``source (n, d)`` in order, as float32 (or float64) batches
    ``(size, d)`` on ``device``; the last may be shorter.
    """
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        rows = source[start:stop] if isinstance(source, torch.Tensor) else source.rows(start, stop)
        dtype = rows.dtype if rows.dtype == torch.float64 else torch.float32
        yield rows.to(device=device, dtype=dtype)


@torch.no_grad()
def evaluate_sae(
    sae, x: Rows, target: Rows | None = None, max_rows: int | None = None
) -> dict[str, Any]:
    """Reconstruction and sparsity of ``sae`` on rows it was not trained on.

    Parameters
    ----------
    sae
        An :class:`husai.sae.SAE`, or anything with its ``encode``, ``decode``, ``d_in``, ``d_sae``,
        ``d_out`` and ``device``.
    x : Tensor (n, d_in) or ActivationStore
    target : Tensor (n, d_out) or ActivationStore or None
        What a transcoder should reconstruct; ``x`` itself when None.
    max_rows : int or None
        Use only the first rows.

    Returns
    -------
    dict
        ``explained_variance``: ``1 - sum ||y - y_hat||^2 / sum ||y - mean(y)||^2`` over all rows
        and dimensions (NaN when the rows are all equal); ``mse``: mean squared error per element;
        ``l0``: mean active latents per row; ``dead_fraction``: share of latents that never fire on
        these rows; ``alive``: bool Tensor (d_sae,) on the CPU; ``n_rows``.

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
    # An encoder holds a few codes of a batch at a time.
    size = min(BATCH_ROWS, max(64, CODE_BYTES // (4 * sae.d_sae)))
    written = x if target is None else target
    targets = row_batches(written, n, device, size)
    for rows, y in zip(row_batches(x, n, device, size), targets, strict=True):
        z = sae.encode(rows)
        fires = z != 0
        alive |= fires.any(0)
        active += fires.sum()
        error += (y - sae.decode(z)).double().square().sum()
        shift = y.double().mean(0) if shift is None else shift
        centred = y.double() - shift
        squares += centred.square().sum()
        total += centred.sum(0)
    variance = float(squares - total.square().sum() / n)
    if not math.isfinite(variance) or not math.isfinite(float(error)):
        where = getattr(written, "path", "the rows given")
        raise HusaiError(
            f"{where}: NaN or infinite values in the activations or in what the "
            f"{sae.architecture} SAE makes of them; store them again"
        )
    return {
        "explained_variance": 1.0 - float(error) / variance if variance > 0 else float("nan"),
        "mse": float(error) / (n * sae.d_out),
        "l0": float(active) / n,
        "dead_fraction": 1.0 - float(alive.sum()) / sae.d_sae,
        "alive": alive.cpu(),
        "n_rows": n,
    }


def _checked_rows(sae, x: Rows, target: Rows | None, max_rows: int | None) -> int:
    if target is None and getattr(sae, "transcodes", False):
        raise HusaiError(
            "a transcoder reconstructs another hook than the one it reads; give the activations of "
            "that hook as its target"
        )
    n = len(x) if max_rows is None else min(len(x), max_rows)
    written = x if target is None else target
    for rows, expected, name in ((x, sae.d_in, "d_in"), (written, sae.d_out, "d_out")):
        if width(rows) != expected:
            raise HusaiError(
                f"the rows are {width(rows)} wide but the {sae.architecture} SAE has {name} = "
                f"{expected}; give the activations of its hook"
            )
    if len(written) != len(x):
        raise HusaiError(
            f"{len(x)} input rows but {len(written)} target rows; a transcoder needs them row for "
            "row"
        )
    if n == 0:
        raise HusaiError("no rows to evaluate on: the held-out activations are empty")
    return n

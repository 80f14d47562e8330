"""Do matched latents do the same thing? Pearson correlation of their activations on held-out rows,
streamed in batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from husai.errors import HusaiError
from husai.stability.assignment import Match, hungarian
from husai.stability.reconstruction import row_batches

BATCH_BYTES = 256 * 2**20
"""Codes of a batch of rows: large products at a bounded memory."""


def activation_agreement(
    sae_a, sae_b, rows, match: Match | None = None, *, alive_a=None, alive_b=None, device=None
) -> float:
    """Mean Pearson r of matched latents on held-out rows.

    Parameters
    ----------
    sae_a, sae_b
        Anything with ``W_dec (d_sae, d_in)`` and ``encode(x) -> (B, d_sae)``.
    rows : Tensor (n, d) or activation store
        Held-out activations; streamed, so it may be larger than memory.
    match : Match or None
        Pairs of latents; None matches the decoders one to one (:func:`husai.stability.hungarian`).

    Raises
    ------
    HusaiError
        Fewer than two rows, or rows that the SAEs cannot read.

    Notes
    -----
    A matched pair in which either latent never changes has no correlation and counts as 0.
    """
    if match is None:
        match = hungarian(sae_a.W_dec, sae_b.W_dec, alive_a, alive_b, device)
    return float(agreement_matrix([sae_a, sae_b], rows, {(0, 1): match}, device=device)[0, 1])


def agreement_matrix(
    saes: Sequence,
    rows,
    matches: Mapping[tuple[int, int], Match],
    *,
    device=None,
    batch_size: int | None = None,
):
    """Mean Pearson r of the matched latents of every pair in ``matches``.

    Every SAE encodes each batch once; sums are kept in float64, so the batch size does not change
    the result.

    Returns
    -------
    Tensor (n, n), float64
        Symmetric; ones on the diagonal, NaN for pairs not asked for.
    """
    device = torch.device(device) if device is not None else saes[0].W_dec.device
    index = {pair: (m.rows.to(device), m.cols.to(device)) for pair, m in matches.items()}
    widths = [s.W_dec.shape[0] for s in saes]
    first = [torch.zeros(w, dtype=torch.float64, device=device) for w in widths]
    second = [torch.zeros(w, dtype=torch.float64, device=device) for w in widths]
    cross = {pair: first[0].new_zeros(len(m.rows)) for pair, m in matches.items()}
    n = 0
    for x in batches(rows, batch_size or max(256, BATCH_BYTES // (4 * sum(widths))), device):
        n += x.shape[0]
        codes = [s.encode(x).float().T.contiguous() for s in saes]
        for z, total, square in zip(codes, first, second, strict=True):
            total += z.sum(1, dtype=torch.float64)
            square += (z * z).sum(1, dtype=torch.float64)
        for (i, j), (a, b) in index.items():
            product = codes[i].index_select(0, a) * codes[j].index_select(0, b)
            cross[i, j] += product.sum(1, dtype=torch.float64)
    result = torch.full((len(saes),) * 2, float("nan"), dtype=torch.float64)
    result.fill_diagonal_(1.0)
    for (i, j), (a, b) in index.items():
        r = pearson(n, first[i][a], first[j][b], second[i][a], second[j][b], cross[i, j])
        result[i, j] = result[j, i] = float(r.mean())
    return result


def pearson(n: int, sum_a, sum_b, square_a, square_b, cross) -> torch.Tensor:
    """Pearson r, ``(m,)``, of m pairs of latents from their sums over ``n`` rows, ``(m,)`` each,
    float64; 0 where either side does not vary beyond rounding.
    """
    covariance = cross - sum_a * sum_b / n
    variance_a, variance_b = square_a - sum_a.square() / n, square_b - sum_b.square() / n
    varies = (variance_a > 1e-12 * square_a) & (variance_b > 1e-12 * square_b)
    scale = torch.where(varies, variance_a * variance_b, 1.0).sqrt()
    return torch.where(varies, covariance / scale, 0.0).clamp(-1.0, 1.0)


def batches(rows, size: int, device=None):
    """:func:`husai.stability.row_batches` ``(<= size, d)`` of all rows ``(n, d)``.

    Raises
    ------
    HusaiError
        There are fewer than two rows.
    """
    n = rows.shape[0] if isinstance(rows, torch.Tensor) else int(rows.n_rows)
    if n < 2:
        raise HusaiError(f"held-out activations: {n} rows are too few; at least 2 are needed")
    yield from row_batches(rows, n, device, size)

"""Decoding, weight gradients and the optimiser of a k-sparse step, in Triton.

The formulas are those of :mod:`husai.sae.kernels` and :mod:`husai.sae.training.optimiser`. Each
kernel reads its operands once, where PyTorch makes several passes. Rows and latents of all members
are numbered through.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

WIDEST_ROW = 8192
"""Largest d_in and d_out: a row is held in registers."""
TILE = 4096
"""Elements of a tile of rows that are summed: 32 registers for each of 128 threads. On an H200,
at 512 columns, tiles of 16384 elements took 6 to 15% longer."""


@triton.jit
def _entries(values, columns, W_dec, entry, stop, d, d_out):
    """Codes at ``entry``, 0 from ``stop`` on, and the decoder rows of those that are not 0."""
    z = tl.load(values + entry, mask=entry < stop, other=0.0)
    column = tl.load(columns + entry, mask=entry < stop, other=0).to(tl.int64)
    at = W_dec + column[:, None] * d_out + d[None, :]
    return z, tl.load(at, mask=(z > 0)[:, None] & (d < d_out)[None, :], other=0.0)


@triton.jit
def _decode(
    values,
    columns,
    starts,
    W_dec,
    y,
    residual,
    code_gradient,
    squares,
    scale,
    d_out,
    D: tl.constexpr,
    E: tl.constexpr,
    ONE_TILE: tl.constexpr,
):
    """Residual of a row, its square, and the gradient of the row's code.

    Decoder rows are read once when they fit one tile.
    """
    row = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(starts + row), tl.load(starts + row + 1)
    d = tl.arange(0, D)
    inside = d < d_out
    r = -tl.load(y + row * d_out + d, mask=inside, other=0.0)
    if ONE_TILE:
        entry = start + tl.arange(0, E)
        z, W = _entries(values, columns, W_dec, entry, stop, d, d_out)
        r += tl.sum(z[:, None] * W, 0)
        g = tl.sum(W * r[None, :], 1) * scale
        tl.store(code_gradient + entry, tl.where(z > 0, g, 0.0), mask=entry < stop)
    else:
        for at in range(start, stop, E):
            entry = at + tl.arange(0, E)
            z, W = _entries(values, columns, W_dec, entry, stop, d, d_out)
            r += tl.sum(z[:, None] * W, 0)
        for at in range(start, stop, E):
            entry = at + tl.arange(0, E)
            z, W = _entries(values, columns, W_dec, entry, stop, d, d_out)
            g = tl.sum(W * r[None, :], 1) * scale
            tl.store(code_gradient + entry, tl.where(z > 0, g, 0.0), mask=entry < stop)
    tl.store(residual + row * d_out + d, r, mask=inside)
    tl.store(squares + row, tl.sum(r * r, 0))


@triton.jit
def _sum_rows(
    order, starts, rows, weights, source, out, sums, scale, d_row, D: tl.constexpr, E: tl.constexpr
):
    """Weighted sum of the rows in which a latent has an entry, for one block of columns."""
    latent = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    start, stop = tl.load(starts + latent), tl.load(starts + latent + 1)
    d = block * D + tl.arange(0, D)
    inside = d < d_row
    total = tl.zeros([D], dtype=tl.float32)
    weight_sum = tl.zeros([E], dtype=tl.float32)
    for at in range(start, stop, E):
        place = at + tl.arange(0, E)
        entry = tl.load(order + place, mask=place < stop, other=0)
        w = tl.load(weights + entry, mask=place < stop, other=0.0)
        row = tl.load(rows + entry, mask=place < stop, other=0).to(tl.int64)
        x = tl.load(
            source + row[:, None] * d_row + d[None, :],
            mask=(w != 0)[:, None] & inside[None, :],
            other=0.0,
        )
        total += tl.sum(w[:, None] * x, 0)
        weight_sum += w
    tl.store(out + latent * d_row + d, total * scale, mask=inside)
    if block == 0:
        tl.store(sums + latent, tl.sum(weight_sum, 0))


@triton.jit
def _row_squares(
    gradient, W, out, n_rows, d_row, D: tl.constexpr, R: tl.constexpr, TANGENT: tl.constexpr
):
    """Squared norms of rows of a gradient; with ``TANGENT`` of their part orthogonal to W's."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    d = tl.arange(0, D)
    at = row[:, None] * d_row + d[None, :]
    inside = (row < n_rows)[:, None] & (d < d_row)[None, :]
    g = tl.load(gradient + at, mask=inside, other=0.0)
    if TANGENT:
        w = tl.load(W + at, mask=inside, other=0.0)
        g -= tl.sum(g * w, 1)[:, None] * w
    tl.store(out + row, tl.sum(g * g, 1), mask=row < n_rows)


@triton.jit
def _adam(
    W,
    gradient,
    first,
    second,
    factor,
    rate,
    corrections,
    rows_of_member,
    n_rows,
    d_row,
    eps,
    D: tl.constexpr,
    R: tl.constexpr,
    TANGENT: tl.constexpr,
):
    """Adam on rows; with ``TANGENT`` on a projected gradient, and to rows of length 1."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    d = tl.arange(0, D)
    at = row[:, None] * d_row + d[None, :]
    inside = (row < n_rows)[:, None] & (d < d_row)[None, :]
    w = tl.load(W + at, mask=inside, other=0.0)
    g = tl.load(gradient + at, mask=inside, other=0.0)
    if TANGENT:
        g -= tl.sum(g * w, 1)[:, None] * w
    g *= tl.load(factor + row // rows_of_member, mask=row < n_rows, other=0.0)[:, None]
    m = tl.load(first + at, mask=inside, other=0.0)
    v = tl.load(second + at, mask=inside, other=0.0)
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g * g
    tl.store(first + at, m, mask=inside)
    tl.store(second + at, v, mask=inside)
    w -= tl.load(rate) * tl.load(corrections) * m / (tl.sqrt(v) * tl.load(corrections + 1) + eps)
    if TANGENT:
        w /= tl.sqrt(tl.sum(w * w, 1))[:, None]
    tl.store(W + at, w, mask=inside)


class Decoded(NamedTuple):
    """Result of :func:`decode`."""

    residual: torch.Tensor
    """``z @ W_dec - y`` (S*B, d_out)."""
    code_gradient: torch.Tensor
    """Entries of ``scale * residual @ W_dec^T`` where the code is positive, else 0: (n,)."""
    squares: torch.Tensor
    """Squared norm of each row of the residual (S*B,)."""


def decode(values, columns, starts, W_dec, y, scale: float, k: int | None) -> Decoded:
    """Residual, gradient of the code and squared residual of each row.

    ``values`` and ``columns`` (n,) are the entries of a code, ``starts`` (S*B + 1,) the first of
    each row, of which ``k`` bounds the entries where it is given; W_dec is (S*d_sae, d_out), y
    (S*B, d_out).
    """
    n_rows, d_out = y.shape
    D = triton.next_power_of_2(d_out)
    most = triton.next_power_of_2(k) if k else 32
    E = min(most, max(1, TILE // D))
    residual, gradient = torch.empty_like(y), torch.empty_like(values)
    squares = torch.empty(n_rows, dtype=y.dtype, device=y.device)
    found, sizes = (residual, gradient, squares), (d_out, D, E, k is not None and k <= E)
    _decode[(n_rows,)](values, columns, starts, W_dec, y, *found, scale, *sizes, num_warps=4)
    return Decoded(residual, gradient, squares)


def sum_rows(
    order, starts, rows, weights, source, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """For every latent ``scale * sum_entries weight * source[row]`` and the sum of its weights.

    ``order`` (n,) are the entries sorted by latent and ``starts`` (n_latents + 1,) the first place
    of each; ``rows`` and ``weights`` (n,) are those of the entries, ``source`` is (S*B, d).
    """
    n_latents, d = len(starts) - 1, source.shape[1]
    D = min(triton.next_power_of_2(d), 512)
    crowded = len(weights) >= 24 * n_latents
    E, warps = (max(2, TILE // D), 4) if crowded else (max(2, TILE // D // 2), 2)
    out = torch.empty(n_latents, d, dtype=source.dtype, device=source.device)
    sums = torch.empty(n_latents, dtype=source.dtype, device=source.device)
    entries, grid = (order, starts, rows, weights, source), (n_latents, triton.cdiv(d, D))
    _sum_rows[grid](*entries, out, sums, scale, d, D, E, num_warps=warps)
    return out, sums


def row_squares(gradient: torch.Tensor, W: torch.Tensor, tangent: bool) -> torch.Tensor:
    """Squared norms (S, n) of rows of a gradient (S, n, d).

    With ``tangent`` of their projections onto the tangent of the unit sphere at W's rows.
    """
    S, n, d = gradient.shape
    D = triton.next_power_of_2(d)
    R = max(1, 2048 // D)
    out = torch.empty(S, n, dtype=gradient.dtype, device=gradient.device)
    _row_squares[(triton.cdiv(S * n, R),)](gradient, W, out, S * n, d, D, R, tangent, num_warps=4)
    return out


def adam(W, gradient, first, second, factor, rate, corrections, eps: float, tangent: bool) -> None:
    """One step of Adam (betas 0.9 and 0.999) on W (S, n, d) and its moments, in place.

    Gradients are multiplied by ``factor`` (S,); ``rate`` () is the learning rate, ``corrections``
    are ``1 / (1 - 0.9^t)`` and ``1 / sqrt(1 - 0.999^t)``. With ``tangent`` a gradient is projected
    onto the tangent of the unit sphere at W's rows, which stay unit rows.
    """
    S, n, d = W.shape
    D = triton.next_power_of_2(d)
    R = max(1, 2048 // D)
    grid, told = (triton.cdiv(S * n, R),), (factor, rate, corrections, n, S * n, d, eps)
    _adam[grid](W, gradient, first, second, *told, D, R, tangent, num_warps=4)

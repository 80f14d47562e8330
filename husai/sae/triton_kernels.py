"""Fused kernels of one k-sparse training step on a CUDA device, in Triton.

The formulas are those of :mod:`husai.sae.kernels` and :mod:`husai.sae.optimiser`. PyTorch's own
kernels spend most of a step outside the encoder's product: top-k, the gathers of ``embedding_bag``
and the passes of the optimiser. Here each of these reads its operands once. Rows and latents of all
members are numbered through. Imported only where :func:`husai.sae.fused.usable` says that Triton is
there and computes correctly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

Pair = tuple[torch.Tensor, torch.Tensor]
WIDEST_ROW = 8192
"""Largest d_in and d_out: a row is held in registers."""
MOST_LATENTS = 32768
"""Largest d_sae: a row of pre-activations is held in registers while its k largest are searched."""
TILE = 4096
"""Elements of a tile of rows that are summed: 32 registers for each of 128 threads. On an H200,
at 512 columns, tiles of 16384 elements took 6 to 15% longer."""
SMALLEST_SAMPLE = 512
"""Entries of a row from which the level of its candidates is estimated; a quarter of a wide row."""
CANDIDATES = 4
"""Room for candidates, in multiples of k."""


@triton.jit
def _bracket(x, k):
    """``(low, high)`` with at least k entries of x above ``low`` and fewer above ``high``.

    Exactly k are above ``low`` unless several are equal. By bisection between 0 and the largest
    entry; where no more than k entries are positive, ``low`` is 0.
    """
    low = 0.0
    high = tl.max(x, 0)
    n_low = tl.sum((x > low).to(tl.int32), 0)
    searching = n_low > k
    while searching:
        middle = low + (high - low) * 0.5
        count = tl.sum((x > middle).to(tl.int32), 0)
        stuck = (middle <= low) | (middle >= high)
        above = (count >= k) & (stuck == 0)
        n_low = tl.where(above, count, n_low)
        high = tl.where(above | stuck, high, middle)
        low = tl.where(above, middle, low)
        searching = (n_low > k) & (stuck == 0)
    return low, high


@triton.jit
def _places(x, low, high, k):
    """Which entries are taken, and their places: those above ``high`` first, then the others."""
    certain = x > high
    rest = (x > low) & (certain == 0)
    # One running sum counts both kinds.
    counted = tl.cumsum((certain.to(tl.int32) << 16) + rest.to(tl.int32), 0)
    n_certain = tl.sum(certain.to(tl.int32), 0)
    place = tl.where(certain, counted >> 16, n_certain + (counted & 65535)) - 1
    return (certain | rest) & (place < k), place


@triton.jit
def _top_k(
    pre,
    bias,
    values,
    columns,
    found,
    n_rows_of_member,
    d_sae,
    k,
    least,
    most,
    D: tl.constexpr,
):
    """The k largest positive entries of a row of ``pre + bias``.

    Only where ``found``, its number of candidates, is not within ``least`` and ``most``.
    """
    row = tl.program_id(0).to(tl.int64)
    n_found = tl.load(found + row)
    if (n_found < least) | (n_found > most):
        member = row // n_rows_of_member
        d = tl.arange(0, D)
        x = tl.load(pre + row * d_sae + d, mask=d < d_sae, other=0.0).to(tl.float32)
        x += tl.load(bias + member * d_sae + d, mask=d < d_sae, other=0.0)  # 0 outside of the row
        low, high = _bracket(x, k)
        chosen, place = _places(x, low, high, k)
        tl.store(values + row * k + place, x, mask=chosen)
        tl.store(columns + row * k + place, (member * d_sae + d).to(tl.int32), mask=chosen)


@triton.jit
def _candidates(
    pre,
    bias,
    kept,
    found,
    n_rows_of_member,
    d_sae,
    k_sample,
    G: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
):
    """Groups of M entries of a row whose largest is above a level; keeps at most C of them.

    The level is the one above which ``k_sample`` of the first G groups are.
    """
    row = tl.program_id(0).to(tl.int64)
    pre_row, bias_row = pre + row * d_sae, bias + (row // n_rows_of_member) * d_sae
    g = tl.arange(0, G)
    entry = g[:, None] * M + tl.arange(0, M)[None, :]
    x = tl.load(pre_row + entry).to(tl.float32) + tl.load(bias_row + entry)
    level, _ = _bracket(tl.max(x, 1), k_sample)
    n_found = 0
    for start in range(0, d_sae, G * M):
        inside = start + entry < d_sae
        x = tl.load(pre_row + start + entry, mask=inside, other=0.0).to(tl.float32)
        x = tl.where(inside, x + tl.load(bias_row + start + entry, mask=inside, other=0.0), 0.0)
        chosen = tl.max(x, 1) > level
        place = n_found + tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(kept + row * C + place, start // M + g, mask=chosen & (place < C))
        n_found += tl.sum(chosen.to(tl.int32), 0)
    tl.store(found + row, n_found)


@triton.jit
def _top_k_of_candidates(
    pre,
    bias,
    kept,
    found,
    values,
    columns,
    n_rows_of_member,
    d_sae,
    k,
    M: tl.constexpr,
    C: tl.constexpr,
):
    """The k largest entries of the groups that were kept, if those are k or more and all."""
    row = tl.program_id(0).to(tl.int64)
    n_found = tl.load(found + row)
    if (n_found >= k) & (n_found <= C):
        member = row // n_rows_of_member
        c = tl.arange(0, C)
        group = tl.load(kept + row * C + c, mask=c < n_found, other=0)
        entry = group[:, None] * M + tl.arange(0, M)[None, :]
        inside = (c < n_found)[:, None] & (entry < d_sae)
        x = tl.load(pre + row * d_sae + entry, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(bias + member * d_sae + entry, mask=inside, other=0.0)  # 0 outside
        x, entry = tl.reshape(x, (C * M,)), tl.reshape(entry, (C * M,))
        low, high = _bracket(x, k)
        chosen, place = _places(x, low, high, k)
        tl.store(values + row * k + place, x, mask=chosen)
        tl.store(columns + row * k + place, (member * d_sae + entry).to(tl.int32), mask=chosen)


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
        z = tl.load(values + entry, mask=entry < stop, other=0.0)
        column = tl.load(columns + entry, mask=entry < stop, other=0).to(tl.int64)
        W = tl.load(
            W_dec + column[:, None] * d_out + d[None, :],
            mask=(z > 0)[:, None] & inside[None, :],
            other=0.0,
        )
        r += tl.sum(z[:, None] * W, 0)
        g = tl.sum(W * r[None, :], 1) * scale
        tl.store(code_gradient + entry, tl.where(z > 0, g, 0.0), mask=entry < stop)
    else:
        for at in range(start, stop, E):
            entry = at + tl.arange(0, E)
            z = tl.load(values + entry, mask=entry < stop, other=0.0)
            column = tl.load(columns + entry, mask=entry < stop, other=0).to(tl.int64)
            W = tl.load(
                W_dec + column[:, None] * d_out + d[None, :],
                mask=(z > 0)[:, None] & inside[None, :],
                other=0.0,
            )
            r += tl.sum(z[:, None] * W, 0)
        for at in range(start, stop, E):
            entry = at + tl.arange(0, E)
            z = tl.load(values + entry, mask=entry < stop, other=0.0)
            column = tl.load(columns + entry, mask=entry < stop, other=0).to(tl.int64)
            W = tl.load(
                W_dec + column[:, None] * d_out + d[None, :],
                mask=(z > 0)[:, None] & inside[None, :],
                other=0.0,
            )
            g = tl.sum(W * r[None, :], 1) * scale
            tl.store(code_gradient + entry, tl.where(z > 0, g, 0.0), mask=entry < stop)
    tl.store(residual + row * d_out + d, r, mask=inside)
    tl.store(squares + row, tl.sum(r * r, 0))


@triton.jit
def _sum_rows(
    order,
    starts,
    rows,
    weights,
    source,
    out,
    sums,
    scale,
    d_row,
    D: tl.constexpr,
    E: tl.constexpr,
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
    gradient,
    W,
    out,
    n_rows,
    d_row,
    D: tl.constexpr,
    R: tl.constexpr,
    TANGENT: tl.constexpr,
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


def top_k(pre: torch.Tensor, bias: torch.Tensor, k: int) -> Pair:
    """The k largest positive entries of each row of ``pre + bias``; spare places hold 0.

    Wide rows are read once: a sample of a row says above which level about as many entries lie as
    are needed, and the k largest of those are taken. A row for which the level was too high or far
    too low is searched as a whole, so the result is exact.

    Parameters
    ----------
    pre : Tensor (S, B, d_sae)
    bias : Tensor (S, d_sae)

    Returns
    -------
    values : Tensor (S*B*k,), columns : int32 Tensor (S*B*k,)
        Latents are numbered through the members.
    """
    S, B, d_sae = pre.shape
    values = torch.zeros(S * B * k, dtype=bias.dtype, device=pre.device)
    columns = torch.zeros(S * B * k, dtype=torch.int32, device=pre.device)
    found = torch.zeros(S * B, dtype=torch.int32, device=pre.device)
    least, most = 1, 0
    room = triton.next_power_of_2(CANDIDATES * k)
    sample = max(SMALLEST_SAMPLE, triton.next_power_of_2(d_sae) // 4)
    group = min(8, max(1, sample // 512))
    if d_sae >= 2 * sample and d_sae >= 2 * room * group:
        least, most = k, room
        kept = torch.empty(S * B * room, dtype=torch.int32, device=pre.device)
        share = k * sample / d_sae
        # Three standard deviations: too few candidates for about one row in a thousand.
        k_sample = round(share + 3.0 * share**0.5) + 2
        shape, rows, warps = (sample // group, group, room), (S * B,), max(1, sample // 1024)
        _candidates[rows](pre, bias, kept, found, B, d_sae, k_sample, *shape, num_warps=warps)
        own, warps = (values, columns, B, d_sae, k, group, room), max(1, room * group // 512)
        _top_k_of_candidates[rows](pre, bias, kept, found, *own, num_warps=warps)
    D = triton.next_power_of_2(d_sae)
    warps = 4 if D <= 2048 else 8 if D <= 8192 else 16
    limits = k, least, most
    _top_k[(S * B,)](pre, bias, values, columns, found, B, d_sae, *limits, D, num_warps=warps)
    return values, columns


def decode(values, columns, starts, W_dec, y, scale: float, k: int | None) -> Decoded:
    """Residual, gradient of the code and squared residual of each row.

    Parameters
    ----------
    values, columns : Tensor (n,)
        Entries of the code, grouped by row.
    starts : int Tensor (S*B + 1,)
        First entry of each row.
    W_dec : Tensor (S*d_sae, d_out)
    y : Tensor (S*B, d_out)
    k : int or None
        Most entries of a row, when there is a bound.
    """
    n_rows, d_out = y.shape
    D = triton.next_power_of_2(d_out)
    most = triton.next_power_of_2(k) if k else 32
    E = min(most, max(1, TILE // D))
    residual, gradient = torch.empty_like(y), torch.empty_like(values)
    squares = torch.empty(n_rows, dtype=y.dtype, device=y.device)
    one_tile = k is not None and k <= E
    _decode[(n_rows,)](
        values,
        columns,
        starts,
        W_dec,
        y,
        residual,
        gradient,
        squares,
        scale,
        d_out,
        D,
        E,
        one_tile,
        num_warps=4,
    )
    return Decoded(residual, gradient, squares)


def sum_rows(order, starts, rows, weights, source, scale: float = 1.0) -> Pair:
    """For every latent ``scale * sum_entries weight * source[row]`` and the sum of its weights.

    Parameters
    ----------
    order : int64 Tensor (n,)
        Entries sorted by latent.
    starts : Tensor (n_latents + 1,)
        First place in ``order`` of each latent.
    rows : Tensor (n,)
        Row of each entry.
    weights : Tensor (n,)
    source : Tensor (S*B, d)
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

    Parameters
    ----------
    factor : Tensor (S,)
        What each member's gradient is multiplied by.
    rate : Tensor ()
        Learning rate.
    corrections : Tensor (2,)
        ``1 / (1 - 0.9^t)`` and ``1 / sqrt(1 - 0.999^t)``.
    tangent : bool
        Project the gradient onto the tangent of the unit sphere at W's rows, which stay unit rows.
    """
    S, n, d = W.shape
    D = triton.next_power_of_2(d)
    R = max(1, 2048 // D)
    grid = (triton.cdiv(S * n, R),)
    _adam[grid](
        W,
        gradient,
        first,
        second,
        factor,
        rate,
        corrections,
        n,
        S * n,
        d,
        eps,
        D,
        R,
        tangent,
        num_warps=4,
    )

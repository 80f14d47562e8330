"""The k largest pre-activations of every row, in Triton.

PyTorch's own top-k is the longest part of a k-sparse step on a CUDA device besides the encoder's
product. Here a row is read once. Rows of all members are numbered through.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

MOST_LATENTS = 32768
"""Largest d_sae: a row of pre-activations is held in registers while its k largest are searched."""
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
    pre, bias, values, columns, found, n_rows_of_member, d_sae, k, least, most, D: tl.constexpr
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


def top_k(pre: torch.Tensor, bias: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
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

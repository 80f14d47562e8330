"""Compiled kernels that tell from products in bfloat16 which latents are among the k largest of a row.

Load through :func:`husai.external.compiled.probe_kernels`.
"""

from __future__ import annotations

import numpy as np

from husai.external.compiled import kernel

# Machine code is kept per file: after a change to these, touch this file too.
from husai.external.row_kernels import GROUPS, ONE, VECTORS, ZERO, _bounds, _count_above, _groups

# What rounding to bfloat16 changes a number by at most, and a little more for sums in float32.
ROUNDING = np.float32(1.02 * 2.0**-8)


@kernel(fastmath=VECTORS)
def _dot(x, w):
    total = ZERO
    for i in range(len(x)):
        total += x[i] * w[i]
    return total


@kernel(nogil=True, fastmath=VECTORS)
def rounding_of(x, rounded, out):
    """What rounding took from each row ``x (n, d)``, and what it left, as norms ``out (n, 2)``; ``rounded`` are the bits of bfloat16."""
    for i in range(len(x)):
        lost, left, row, bits = ZERO, ZERO, x[i], rounded[i]
        for j in range(len(row)):
            value = np.int32(np.int32(bits[j]) << np.int32(16)).view(np.float32)
            lost += (row[j] - value) * (row[j] - value)
            left += value * value
        out[i, 0], out[i, 1] = np.sqrt(lost), np.sqrt(left)


@kernel(fastmath=VECTORS)
def _bounds_of(near, b, lengths, reach, lower, upper):
    """Numbers that the pre-activations of a row lie between, from products in bfloat16 ``near``, given as their bits."""
    for j in range(len(near)):
        product = np.int32(np.int32(near[j]) << np.int32(16)).view(np.float32)
        far = reach[0] * lengths[0, j] + reach[1] * lengths[1, j] + abs(product) * ROUNDING
        lower[j] = product + b[j] - far
        upper[j] = product + b[j] + far


@kernel(fastmath=VECTORS)
def _block_has(lower, upper, value, start):
    found = ZERO
    for j in range(start, start + GROUPS):
        found += ONE if (lower[j] <= value) & (upper[j] > value) else ZERO
    return found


@kernel()
def _undecided(lower, upper, value, out):
    """Write the elements that may or may not exceed ``value`` to ``out`` and say how many they are."""
    n, size = 0, len(lower)
    for start in range(0, size, GROUPS):
        if start + GROUPS <= size and _block_has(lower, upper, value, start) == ZERO:
            continue
        for j in range(start, min(start + GROUPS, size)):
            if lower[j] <= value < upper[j]:
                out[n] = j
                n += 1
    return n


@kernel(nogil=True)
def screened_columns(near, reach, x, W, b, lengths, columns, values, k, out):
    """The columns of :func:`top_k_columns` where products are known in bfloat16: whether a latent is among the k largest of a row is told by
    bounds, and by float32 where these leave it open.

    Parameters
    ----------
    near : int16, ``(n, d_sae)``
        Bits of the products without the bias.
    reach, lengths : float32, ``(n, 2)`` and ``(2, d_sae)``
        Their product, row by column, bounds the errors of exact products of rounded rows and weights.
    x, W : float32, ``(n, d_in)`` and ``(d_sae, d_in)``
    b : float32, ``(d_sae,)``
    values : float32, ``(n, len(columns))``
        Pre-activations of the columns.
    """
    d_sae = near.shape[1]
    lower, upper, highest = np.empty(d_sae, np.float32), np.empty(d_sae, np.float32), np.empty(_groups(k), np.float32)
    open_ones = np.empty(d_sae, np.int64)
    for i in range(len(x)):
        _bounds_of(near[i], b, lengths, reach[i], lower, upper)
        least, on, off = _bounds(lower, highest)[0], np.float32(np.inf), ZERO
        for c in range(len(columns)):
            out[i, c] = ZERO
            if upper[columns[c]] < least:
                continue
            value = values[i, c]
            if value > off and value < on:
                larger = _count_above(lower, value)
                if larger < k and _count_above(upper, value) >= k:
                    mine = _dot(x[i], W[columns[c]]) + b[columns[c]]
                    for j in open_ones[: _undecided(lower, upper, value, open_ones)]:
                        larger += ONE if _dot(x[i], W[j]) + b[j] > mine else ZERO
                if larger < k:
                    on = value
                else:
                    off = value
            out[i, c] = value if value >= on else ZERO


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    pre, y = np.ones((2, 4), np.float32), np.array([0, 1])
    rounding_of(pre, np.zeros((2, 4), np.int16), np.empty((2, 2), np.float32))
    two, W = pre[:, :2].copy(), np.ones((4, 4), np.float32)
    screened_columns(np.zeros((2, 4), np.int16), two, pre, W, pre[0], pre, y, two, 1, np.empty((2, 2), np.float32))

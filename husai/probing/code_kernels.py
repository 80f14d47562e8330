"""Compiled kernels around screening: rows in 8 bits, and what is read from a sparse code.

Load through :func:`husai.compiled.probe_kernels`.
"""

from __future__ import annotations

import numpy as np

from husai.compiled import kernel

# No permission to disregard NaN: it must reach the norms, where it is found.
VECTORS = {"reassoc", "contract", "nsz"}
ZERO, ONE = np.float32(0.0), np.float32(1.0)
LEVELS = np.float32(127.0)
SMALLEST = np.float32(1.0e-30)
MAGNITUDE = np.int32(0x7FFFFFFF)


@kernel(nogil=True, fastmath=VECTORS)
def quantise(x, shift, share, centred, codes, scale, reach):
    """Rows ``x (n, d)`` less ``shift (d,)``, float32: ``centred (n, d)``, and in 255 levels:
    ``codes (n, d)`` int8 times ``scale (n,)``.

    ``reach (n,)`` is ``share`` of a row's norm and the norm of what rounding took from it; NaN and
    infinity show there."""
    d = x.shape[1]
    for i in range(len(x)):
        given, row = x[i], centred[i]
        for j in range(d):
            row[j] = given[j] - shift[j]
        most = _magnitude(row)
        if most < SMALLEST:
            codes[i, :] = 0
            scale[i], reach[i] = ZERO, (share + ONE) * SMALLEST * np.float32(d)
            continue
        step, inverse, squares, missed = most / LEVELS, LEVELS / most, ZERO, ZERO
        for j in range(d):
            value = row[j] * inverse
            level = np.rint(value)
            codes[i, j] = np.int8(level)
            squares += value * value
            missed += (value - level) * (value - level)
        scale[i], reach[i] = step, step * (share * np.sqrt(squares) + np.sqrt(missed))


@kernel()
def _magnitude(row):
    """The largest magnitude, by bit patterns: NaN is above all."""
    patterns, most = row.view(np.int32), np.int32(0)
    for j in range(len(patterns)):
        most = max(most, patterns[j] & MAGNITUDE)
    return np.int32(most).view(np.float32)


@kernel(nogil=True)
def add_code(latents, values, ends, y, sums, fired):
    """Add a code to the sums of its class ``sums (2, d_sae)`` and count it in ``fired (d_sae,)``,
    float32.

    ``latents``, ``values`` and ``ends`` are as :func:`husai.probing.screen_kernels.top_k_code`
    writes them."""
    start = 0
    for i in range(len(ends)):
        for e in range(start, ends[i]):
            sums[y[i], latents[e]] += values[e]
            fired[latents[e]] += ONE
        start = ends[i]


@kernel(nogil=True)
def code_columns(latents, values, ends, place, out):
    """Write a code, given as to :func:`add_code`, to ``out[row, place[latent]]``, ``out (n, m)`` of
    zeros; a negative place is nowhere.
    """
    start = 0
    for i in range(len(ends)):
        for e in range(start, ends[i]):
            at = place[latents[e]]
            if at >= 0:
                out[i, at] = values[e]
        start = ends[i]


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    x, latents, labels = np.ones((1, 2), np.float32), np.zeros(1, np.int32), np.zeros(1, np.int64)
    quantise(x, x[0], ONE, x.copy(), np.empty((1, 2), np.int8), *np.empty((2, 1), np.float32))
    add_code(latents, x[0], labels + 1, labels, x.repeat(2, 0), x[0])
    code_columns(latents, x[0], labels + 1, labels, x)

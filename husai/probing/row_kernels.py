"""Compiled kernels of the probing engine on a CPU that go row by row: codes of an SAE without their
dense form, and scores of probes.

Load through :func:`husai.compiled.probe_kernels`.
"""

from __future__ import annotations

import numpy as np

from husai.compiled import kernel

GROUPS = 32
# No permission to disregard NaN: it must reach the sums, where it is found.
VECTORS = {"reassoc", "contract", "nsz"}
ZERO, ONE = np.float32(0.0), np.float32(1.0)
MOST = int(np.float32(np.inf).view(np.int32))


@kernel(nogil=True, fastmath=VECTORS)
def add_above(pre, y, threshold, sums, fired):
    """Add codes "pre-activation where above ``threshold (d_sae,)``" of rows ``pre (n, d_sae)`` to
    the sums of their class ``sums (2, d_sae)`` and count non-zeros in ``fired (d_sae,)``; all
    float32."""
    for i in range(len(pre)):
        row, total = pre[i], sums[y[i]]
        for j in range(len(row)):
            value = ZERO if row[j] <= threshold[j] else row[j]
            total[j] += value
            fired[j] += ONE if value > ZERO else ZERO


@kernel()
def _groups(k):
    """At least k, a power of two: it divides most widths."""
    groups = GROUPS
    while groups < k:
        groups *= 2
    return groups


@kernel(nogil=True, fastmath=VECTORS)
def add_top_k(pre, y, k, sums, fired, least):
    """As :func:`add_above` for "the k largest of a row, then ReLU"; ``least (n,)`` gets a positive
    number that the row's code reaches.
    """
    highest = np.empty(_groups(k), np.float32)
    for i in range(len(pre)):
        row, total = pre[i], sums[y[i]]
        least[i] = _separator(row, k, highest)
        floor = least[i]
        for j in range(len(row)):
            value = ZERO if row[j] < floor else row[j]
            total[j] += value
            fired[j] += ONE if value > ZERO else ZERO


@kernel()
def _bits(number):
    return np.float32(number).view(np.int32)


@kernel()
def _number(bits):
    return np.int32(bits).view(np.float32)


@kernel(fastmath=VECTORS)
def _bounds(row, highest):
    """A positive number that at least ``len(highest)`` elements reach if so many are positive, and
    one that none exceeds: the least and the largest of the maxima of so many groups. Short rows,
    and their ends, are not looked at."""
    groups = len(highest)
    low, high = _number(1), _number(MOST)
    if len(row) < 4 * groups or len(row) % (4 * groups):
        return low, high
    highest[:] = ZERO
    for start in range(0, len(row), 4 * groups):
        a, b = row[start : start + groups], row[start + groups : start + 2 * groups]
        c, d = (
            row[start + 2 * groups : start + 3 * groups],
            row[start + 3 * groups : start + 4 * groups],
        )
        for j in range(groups):
            first = a[j] if a[j] > b[j] else b[j]
            second = c[j] if c[j] > d[j] else d[j]
            first = first if first > second else second
            highest[j] = first if first > highest[j] else highest[j]
    least, most = highest[0], highest[0]
    for j in range(1, groups):
        least = highest[j] if highest[j] < least else least
        most = highest[j] if highest[j] > most else most
    return max(low, least), max(low, most)


@kernel(fastmath=VECTORS)
def _count_from(row, floor):
    """How many elements are at least ``floor``."""
    found = ZERO
    for j in range(len(row)):
        found += ONE if row[j] >= floor else ZERO
    return found


@kernel(fastmath=VECTORS)
def _count_above(row, value):
    """How many elements exceed ``value``."""
    found = ZERO
    for j in range(len(row)):
        found += ONE if row[j] > value else ZERO
    return found


@kernel()
def _separator(row, k, highest):
    """A positive number that the k largest elements reach and, but for ties with the least of them,
    no others; with fewer than k positive ones, that all of those reach. By bisection of bit
    patterns, which are in the order of the numbers."""
    low, most = _bounds(row, highest)
    count, first, high = _count_from(row, low), _bits(low), _bits(most) + 1
    while count > k and high - first > 1:
        middle = (first + high) // 2
        found = _count_from(row, _number(middle))
        if found >= k:
            first, count = middle, found
        else:
            high = middle
    return _number(first)


@kernel(nogil=True)
def top_k_columns(pre, columns, k, out):
    """Columns of the code "the k largest of a row, then ReLU": ``out (n, len(columns))`` from ``pre
    (n, d_sae)``.
    """
    highest = np.empty(_groups(k), np.float32)
    for i in range(len(pre)):
        row = pre[i]
        on, least = np.float32(np.inf), _bounds(row, highest)[0]
        for c in range(len(columns)):
            value = row[columns[c]]
            if value >= least and value < on:
                if _count_above(row, value) < k:
                    on = value
                else:
                    least = _number(_bits(value) + 1)
            out[i, c] = value if value >= on else ZERO


@kernel(nogil=True)
def decisions(x, models, out):
    """Decision values ``out (P, n)`` of rows ``x (n, m)`` for models ``(P, 1 + m)``, intercept
    first, summed in one order.
    """
    for i in range(len(x)):
        for p in range(len(models)):
            total = models[p, 0]
            for j in range(x.shape[1]):
                total += models[p, 1 + j] * x[i, j]
            out[p, i] = total


@kernel(nogil=True)
def areas(keys, out):
    """AUC ``out (P,)``, ties half, of each row of sorted ``keys (P, n)`` as ``scores.keys`` makes
    them.
    """
    for p in range(len(keys)):
        below, area, positives = 0, 0.0, 0
        n, i = keys.shape[1], 0
        while i < n:
            value, ones, zeros = keys[p, i] >> 1, 0, 0
            while i < n and keys[p, i] >> 1 == value:
                ones += keys[p, i] & 1
                zeros += 1 - (keys[p, i] & 1)
                i += 1
            area += ones * (below + 0.5 * zeros)
            below += zeros
            positives += ones
        out[p] = area / (np.float64(positives) * below)


@kernel(nogil=True)
def trapezoids(keys, out):
    """AUC ``out (P,)`` of each row of sorted ``keys (P, n)``, n <= 128, by the arithmetic of
    ``scores.trapezoid_auc`` to the last bit.
    """
    n = keys.shape[1]
    tps, fps, parts = np.empty(n + 1), np.empty(n + 1), np.empty(n + 1)
    for p in range(len(keys)):
        corners, ones = 0, 0
        for i in range(n - 1, -1, -1):
            ones += keys[p, i] & 1
            if i == 0 or keys[p, i - 1] >> 1 != keys[p, i] >> 1:
                tps[corners], fps[corners] = ones, n - i - ones
                corners += 1
        last_t, last_f = tps[corners - 1], fps[corners - 1]
        count, fpr, tpr = 0, 0.0, 0.0
        for c in range(corners):
            straight = 0 < c < corners - 1 and (
                tps[c + 1] - tps[c] == tps[c] - tps[c - 1]
                and fps[c + 1] - fps[c] == fps[c] - fps[c - 1]
            )
            if corners > 2 and straight:
                continue
            f, t = fps[c] / last_f, tps[c] / last_t
            parts[count] = (f - fpr) * (t + tpr) / 2.0
            fpr, tpr, count = f, t, count + 1
        out[p] = _numpy_sum(parts, count)


@kernel()
def _numpy_sum(x, n):
    """Sum of ``x[:n]`` in the order NumPy adds up to 128 contiguous numbers: eight running sums,
    their tree, then the rest.
    """
    if n < 8:
        total = 0.0
        for i in range(n):
            total += x[i]
        return total
    r = x[:8].copy()
    whole = n - n % 8
    for i in range(8, whole):
        r[i % 8] += x[i]
    total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
    for i in range(whole, n):
        total += x[i]
    return total


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    pre, y, keys = np.ones((2, 4), np.float32), np.array([0, 1]), np.array([[0, 1]])
    sums, fired = np.zeros((2, 4), np.float32), np.zeros(4, np.float32)
    add_above(pre, y, fired, sums, fired)
    add_top_k(pre, y, 1, sums, fired, fired)
    top_k_columns(pre, y, 1, np.empty((2, 2), np.float32))
    decisions(pre, np.zeros((1, 5)), np.empty((1, 2)))
    areas(keys, np.empty(1))
    trapezoids(keys, np.empty(1))

"""Compiled kernels that go over the code of an SAE row by row, without building its dense form.

A code is given by the encoder's products ``(n, d_sae)`` and its bias. Load through
:mod:`husai.probing.codes`.
"""

from __future__ import annotations

import numpy as np

from husai.compiled import kernel

# What the compiler may do to make vector instructions of a loop. It may not assume that there are
# no NaNs: they must reach the sums, where they are found.
VECTORS = {"reassoc", "contract", "nsz"}
ZERO, ONE, HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)
SMALLEST = np.nextafter(ZERO, ONE)


@kernel(nogil=True, fastmath=VECTORS)
def add_above(products, bias, threshold, groups, sums, fired):
    """Add codes "``products + bias`` where above ``threshold (d_sae,)``" of rows to row
    ``groups[i]`` of ``sums (n_groups, d_sae)``, and count non-zeros in ``fired (d_sae,)``.

    Everything is float32 but ``groups``, whole numbers ``(n,)``."""
    for i in range(len(products)):
        row, total = products[i], sums[groups[i]]
        for j in range(len(row)):
            value = row[j] + bias[j]
            value = ZERO if value <= threshold[j] else value
            total[j] += value
            fired[j] += ONE if value > ZERO else ZERO


@kernel(nogil=True, fastmath=VECTORS)
def add_top_k(products, bias, k, groups, sums, fired, floors, tied):
    """As :func:`add_above` for the code "the k largest of a row, then ReLU".

    ``bias`` is added to ``products`` in place. ``floors (n,)`` gets :func:`floor_of` every row.
    Rows in which latents tie for the last place are listed in ``tied (n,)`` and not added. Returns
    how many these are."""
    n_tied = 0
    for i in range(len(products)):
        row, total = products[i], sums[groups[i]]
        for j in range(len(row)):
            row[j] += bias[j]
        floor = floor_of(row, k)
        floors[i] = floor
        if count_from(row, floor) > k:
            tied[n_tied] = i
            n_tied += 1
            continue
        for j in range(len(row)):
            value = ZERO if row[j] < floor else row[j]
            total[j] += value
            fired[j] += ONE if value > ZERO else ZERO
    return n_tied


@kernel(nogil=True)
def top_k_columns(products, bias, k, latents, out):
    """Columns ``latents`` of the code "the k largest of a row, then ReLU", ``out (n,
    len(latents))``; ``bias`` is added to ``products`` in place."""
    for i in range(len(products)):
        row = products[i]
        for j in range(len(row)):
            row[j] += bias[j]
        floor = floor_of(row, k)
        for c in range(len(latents)):
            value = row[latents[c]]
            out[i, c] = ZERO if value < floor else value


@kernel(fastmath=VECTORS)
def count_from(row, floor):
    """How many elements are at least ``floor``."""
    found = ZERO
    for j in range(len(row)):
        found += ONE if row[j] >= floor else ZERO
    return found


@kernel(fastmath=VECTORS)
def _largest(row):
    most = ZERO
    for j in range(len(row)):
        most = row[j] if row[j] > most else most
    return most


@kernel()
def floor_of(row, k):
    """A positive number that the k largest elements reach and, but for ties with the least of
    them, no others; with fewer than k positive ones, that exactly those reach.

    By bisection between zero and the largest element: counting is a few vector instructions, and
    about ten counts separate the k-th largest from the next."""
    low, high = SMALLEST, _largest(row)
    if count_from(row, low) <= k:
        return low
    if count_from(row, high) >= k:
        return high
    while True:
        middle = low + HALF * (high - low)
        if middle <= low or middle >= high:
            return low
        found = count_from(row, middle)
        if found == k:
            return middle
        if found > k:
            low = middle
        else:
            high = middle


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    products, groups = np.ones((2, 4), np.float32), np.array([0, 1])
    row, sums = np.zeros(4, np.float32), np.zeros((2, 4), np.float32)
    add_above(products, row, row, groups, sums, row.copy())
    add_top_k(products, row, 1, groups, sums, row.copy(), row.copy(), groups.copy())
    top_k_columns(products, row, 1, groups, np.empty((2, 2), np.float32))

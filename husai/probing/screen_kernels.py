"""Compiled kernels that find the code "the k largest of a row, then ReLU" from 8-bit products:
bounds of every pre-activation say which latents could be among the k largest, and only those are
computed in float32.

Load through :func:`husai.compiled.probe_kernels`.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from husai.compiled import kernel

# Machine code kept on disk is renewed when this file changes, not when another does: no kernel here
# calls one from elsewhere.
VECTORS = {"reassoc", "contract", "nsz"}
ZERO, HALF = np.float32(0.0), np.float32(0.5)
GROUPS = 128
PER_GROUP = 4
HALVINGS = 9
TOGETHER = 4
LANES = 64
AT_ONCE = 4


@kernel(nogil=True)
def top_k_code(products, rows, weights, spare, x, W, b, k, most, latents, values, ends):
    """The code "the k largest of a row, then ReLU" of rows ``x (n, d_in)`` without its zeros.

    Parameters
    ----------
    products : int32, ``(n or more, width)``
        Of the codes of ``x`` and of the weights.
    rows : float32, ``(2, n or more)``
        Scale and reach of the rows, as :func:`husai.probing.code_kernels.quantise` gives them.
    weights : float32, ``(3, width)``
        See :class:`husai.probing.screening.Screen`.
    spare : float32
        What rounding can add to every difference.
    W, b : float32, ``(d_sae, d_in)`` and ``(d_sae,)``
    most : int
        The number of pre-activations in float32 at which to give up.
    latents, values : int32 and float32, ``(capacity,)``
        Written row after row; what does not fit is lost, and so is the last element.
    ends : int64, ``(n,)``
        Where each row's elements end.

    Returns
    -------
    int
        How many pre-activations were computed in float32; more than ``most`` where it gave up.
    """
    done, end, last = 0, 0, len(values) - 1
    width, groups = weights.shape[1], groups_of(k)
    lower, upper, highest = (
        np.empty(width, np.float32),
        np.empty(width, np.float32),
        np.empty(groups, np.float32),
    )
    high, tops = upper.ctypes.data, highest.ctypes.data
    likely, found = np.empty(width + AT_ONCE, np.int64), np.empty(width + TOGETHER, np.float32)
    for i in range(len(x)):
        _between(products, rows, i, weights, spare, lower, upper)
        _maxima(lower, highest)
        floor = _floor(highest, tops, k)
        n = _positions(high, width, floor, likely)
        exact(x, i, W, b, likely, n, found)
        least = _separator(found[:n], k, floor)
        for c in range(n):
            at = min(end, last)
            latents[at], values[at] = likely[c], found[c]
            end += found[c] >= least
        ends[i] = end
        done += n
        if done > most:
            break
    return done


@kernel(nogil=True)
def top_k_columns(products, rows, weights, spare, x, W, b, k, most, columns, out):
    """Columns ``out (n, len(columns))`` of the code, arguments and result as in
    :func:`top_k_code`.
    """
    done, infinity = 0, np.float32(np.inf)
    width, groups = weights.shape[1], groups_of(k)
    lower, upper, highest = (
        np.empty(width, np.float32),
        np.empty(width, np.float32),
        np.empty(groups, np.float32),
    )
    low, high, tops = lower.ctypes.data, upper.ctypes.data, highest.ctypes.data
    doubtful, found = np.empty(width + AT_ONCE, np.int64), np.empty(width + TOGETHER, np.float32)
    places, likely = np.empty(len(columns) + 1, np.int64), np.empty(len(columns) + 1, np.int64)
    wanted = np.empty(len(columns) + TOGETHER, np.float32)
    for i in range(len(x)):
        _between(products, rows, i, weights, spare, lower, upper)
        _maxima(lower, highest)
        on, least, n = infinity, _floor(highest, tops, k), 0
        for c in range(len(columns)):
            out[i, c], places[n], likely[n] = ZERO, c, columns[c]
            n += upper[columns[c]] >= least
        exact(x, i, W, b, likely, n, wanted)
        done += n
        if done > most:
            break
        for c in range(n):
            value = wanted[c]
            if value >= least and value < on:
                larger = _number(_bits(value) + 1)
                more = _count(low, width, larger)
                if more < k and k <= _count(high, width, larger):
                    doubts = _undecided(low, high, width, larger, doubtful)
                    exact(x, i, W, b, doubtful, doubts, found)
                    done += doubts
                    for j in range(doubts):
                        more += found[j] > value
                if more < k:
                    on = value
                else:
                    least = larger
            out[i, places[c]] = value if value >= on else ZERO
    return done


@kernel()
def groups_of(k):
    """How many groups of latents a row is cut into, at least four times k: their maxima tell the
    k-th largest pre-activation well, and whole vectors hold them."""
    groups = GROUPS
    while groups < PER_GROUP * k:
        groups *= 2
    return groups


@kernel(fastmath=VECTORS)
def _between(products, rows, i, weights, spare, lower, upper):
    """Numbers that the pre-activations of row i, summed in float32 in any order, lie between."""
    scale, reach, product = rows[0, i], rows[1, i], products[i]
    for j in range(len(lower)):
        near = np.float32(product[j]) * (scale * weights[0, j]) + weights[1, j]
        far = reach * weights[2, j] + spare
        lower[j] = near - far
        upper[j] = near + far


@kernel(fastmath=VECTORS)
def _maxima(lower, highest):
    """The largest elements of groups, where they are positive: of those that are a multiple of
    ``len(highest)`` apart.
    """
    groups = len(highest)
    highest[:] = ZERO
    for start in range(0, len(lower), groups):
        part = lower[start : start + groups]
        for j in range(groups):
            highest[j] = part[j] if part[j] > highest[j] else highest[j]


@kernel()
def _floor(highest, address, k):
    """A positive number that at least k elements reach, if so many are positive, and not many more:
    that k maxima of groups reach.
    """
    least, most = _number(1), _largest(highest, _number(1))
    for _ in range(HALVINGS):
        middle = HALF * (least + most)
        enough = _count(address, len(highest), middle) >= k
        least, most = middle if enough else least, most if enough else middle
    return least


# Not shared with row_kernels: machine code kept on disk is not made anew when a kernel of another
# file changes.
@kernel()
def _bits(number):
    return np.float32(number).view(np.int32)


@kernel()
def _number(bits):
    return np.int32(bits).view(np.float32)


@kernel()
def _largest(values, least):
    """The largest of ``values`` and a positive ``least``, by bit patterns: a comparison of floats
    would go one by one, for the sake of NaN.
    """
    patterns, most = values.view(np.int32), _bits(least)
    for j in range(len(patterns)):
        most = max(most, patterns[j])
    return _number(most)


@kernel(fastmath=VECTORS)
def _count_from(values, floor):
    """How many values are at least ``floor``."""
    found = 0
    for j in range(len(values)):
        found += values[j] >= floor
    return found


@kernel()
def _separator(values, k, floor):
    """A positive number that the k largest values reach and, but for ties with the least of them,
    no others; ``floor`` if that are fewer than k. By bisection of bit patterns, which are in the
    order of the numbers, from ``floor``, which the k largest reach."""
    count, first, high = (
        _count_from(values, floor),
        _bits(floor),
        _bits(_largest(values, floor)) + 1,
    )
    while count > k and high - first > 1:
        middle = (first + high) // 2
        found = _count_from(values, _number(middle))
        enough = found >= k
        first, count, high = (
            middle if enough else first,
            found if enough else count,
            high if enough else middle,
        )
    return _number(first)


@kernel(fastmath=VECTORS)
def exact(x, row, W, b, latents, n, out):
    """Pre-activations ``out[:n]`` of ``latents[:n]`` of one row of ``x (n, d_in)``, by rows of ``W
    (d_sae, d_in)``; ``out`` has room for four more. Every one is summed in the same order, so that
    equal latents have equal ones. A view of a row of ``W`` would cost as much as the sum."""
    for start in range(0, n, TOGETHER):
        j0, j1 = latents[start], latents[min(start + 1, n - 1)]
        j2, j3 = latents[min(start + 2, n - 1)], latents[min(start + 3, n - 1)]
        t0, t1, t2, t3 = ZERO, ZERO, ZERO, ZERO
        for i in range(x.shape[1]):
            t0 += x[row, i] * W[j0, i]
            t1 += x[row, i] * W[j1, i]
            t2 += x[row, i] * W[j2, i]
            t3 += x[row, i] * W[j3, i]
        out[start], out[start + 1], out[start + 2], out[start + 3] = (
            t0 + b[j0],
            t1 + b[j1],
            t2 + b[j2],
            t3 + b[j3],
        )


@intrinsic
def _reached(typingctx, address, floor):
    """Bit j of 64: whether the j-th float32 from ``address`` on is at least ``floor``. Compilers do
    not make this of a loop.
    """

    def code(context, builder, signature, arguments):
        lanes = ir.VectorType(ir.FloatType(), LANES)
        first = builder.insert_element(
            ir.Constant(lanes, ir.Undefined), arguments[1], ir.Constant(ir.IntType(32), 0)
        )
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        floors = builder.shuffle_vector(first, ir.Constant(lanes, ir.Undefined), everywhere)
        numbers = builder.load(builder.inttoptr(arguments[0], lanes.as_pointer()), align=4)
        return builder.bitcast(builder.fcmp_ordered(">=", numbers, floors), ir.IntType(LANES))

    return types.uint64(types.intp, types.float32), code


@intrinsic
def _lowest(typingctx, mask):
    """Position of the lowest bit that is set; 64 if none is."""
    may_be_zero = ir.Constant(ir.IntType(1), 0)
    return types.int64(types.uint64), lambda context, builder, signature, arguments: builder.cttz(
        arguments[0], may_be_zero
    )


@intrinsic
def _bits_set(typingctx, mask):
    """How many bits are set."""
    return types.int64(types.uint64), lambda context, builder, signature, arguments: builder.ctpop(
        arguments[0]
    )


@kernel()
def _count(address, n, floor):
    """How many of ``n`` float32 from ``address`` on, a multiple of 64, reach ``floor``."""
    found = 0
    for start in range(0, n, LANES):
        found += _bits_set(_reached(address + 4 * start, floor))
    return found


@kernel()
def _write(mask, start, found, out):
    """Write the positions of the bits of ``mask``, counted from ``start``, to ``out`` from
    ``found`` on and say where they end. A few are written whether there are so many or not: the
    processor would guess wrongly how many there are."""
    end = found + _bits_set(mask)
    for j in range(AT_ONCE):
        out[found + j] = start + _lowest(mask)
        mask &= mask - np.uint64(1)
    found += AT_ONCE
    while mask != 0:
        out[found] = start + _lowest(mask)
        mask &= mask - np.uint64(1)
        found += 1
    return end


@kernel()
def _positions(upper, n, floor, out):
    """Write which of ``n`` float32 from address ``upper`` on reach ``floor`` to ``out`` and say how
    many they are.
    """
    found = 0
    for start in range(0, n, LANES):
        found = _write(_reached(upper + 4 * start, floor), start, found, out)
    return found


@kernel()
def _undecided(lower, upper, n, floor, out):
    """Write which of ``n`` elements, bounds from these addresses on, may or may not reach ``floor``
    to ``out`` and say how many they are.
    """
    found = 0
    for start in range(0, n, LANES):
        found = _write(
            _reached(upper + 4 * start, floor) & ~_reached(lower + 4 * start, floor),
            start,
            found,
            out,
        )
    return found


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    width, zero, spare = groups_of(1), np.zeros(1, np.int64), np.float32(0.0)
    x, W, b = (
        np.ones((1, 2), np.float32),
        np.ones((width, 2), np.float32),
        np.zeros(width, np.float32),
    )
    rows, weights, products = (
        np.ones((2, 1), np.float32),
        np.ones((3, width), np.float32),
        np.ones((1, width), np.int32),
    )
    top_k_code(
        products,
        rows,
        weights,
        spare,
        x,
        W,
        b,
        1,
        width,
        np.zeros(2 * width, np.int32),
        np.zeros(2 * width, np.float32),
        zero.copy(),
    )
    top_k_columns(products, rows, weights, spare, x, W, b, 1, width, zero, x)

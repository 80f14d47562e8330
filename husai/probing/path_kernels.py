"""Compiled kernels of the solver: the path that SAGA takes from zero, followed as a flow.

SAGA (Defazio et al. 1407.0202) with a constant step follows, but for the noise of its draws, the
proximal gradient flow ``w' = -(grad loss(w) + lasso sign(w))``; an epoch of n draws advances it by
n steps, which are ``2 / (max |x_i|^2 + 1)`` in scikit-learn. The official protocol stops it where
weights change by less than 1e-4 per epoch, or after 1000 epochs. With small features that is long
before the optimum, so the flow is followed to the same stop. Weight 0 is the intercept. Load
through :mod:`husai.probing.solver`."""

from __future__ import annotations

import math

import numpy as np

from husai.compiled import kernel

TOLERANCE, MAX_EPOCHS = 1.0e-4, 1000.0
"""Where the official protocol stops SAGA: relative change per epoch, and number of epochs."""
FIRST_DRAWS = 4.0
"""Length of the first step in draws of SAGA. In two draws the steepest direction there can be falls
by a factor of e, so this is short enough for the linear model of a step to hold at the start."""
GROWTH = 2.5
"""A step is at most so many times as long as the one before. It bounds how fast steps grow again
after one was taken back."""
MAX_STEPS = 1000
"""A path takes about 40 steps. One that does not end in so many counts as unknown: its early point
is put at zero, and scikit-learn is asked where that could matter."""
GAMMA = 1 - 0.5**0.5
"""Makes the two-stage step below stable at any length (SDIRK2; Alexander 1977)."""
EARLY = 0.1
"""The early point lies this share of the time before the stop, which is about how much sooner noise
ends SAGA. With a third, three times as many figures are called open and none more is mended."""
WEAK_PULL = 2.0
"""If no gradient at zero exceeds the penalty by this factor, noise may keep SAGA at zero for an
epoch, and there it stops. The early point is then put at zero. Among 4,300 fits SAGA was seen to
stay at zero ten times, up to a factor of 1.85."""
ROUNDING = 1.0e-6
"""Of a gradient summed in float32 over up to 1024 rows, relative to the longest row."""
VECTORS = {"reassoc", "contract", "nsz"}
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
LOG2_E, LEAST = np.float32(math.log2(math.e)), np.float32(-126.0)
"""Constants in float32: with a Python number numba would compute in float64. Below 2^-126 float32
is no longer normal."""
# Taylor series of 2^f for |f| <= 1/2: relative error 6e-9, below a float32's.
E1, E2, E3, E4, E5, E6, E7 = (np.float32(math.log(2) ** n / math.factorial(n)) for n in range(1, 8))


@kernel()
def _columns(x, y, n, m):
    """The first ``n`` rows and ``m`` columns of ``x`` as columns ``(1 + m, rows)``, ones first, and
    how often each row counts ``(rows,)``, negative for label 0.

    Rows of zeros, of which a sparse code has many, are merged into one per label."""
    fired = np.zeros(n, np.bool_)
    for i in range(n):
        for j in range(m):
            fired[i] |= x[i, j] != ZERO
    rows = np.sum(fired) + 2
    X, signed = np.zeros((1 + m, rows), np.float32), np.zeros(rows, np.float32)
    X[0] = ONE
    place = 2
    for i in range(n):
        sign = ONE if y[i] > 0 else -ONE
        if fired[i]:
            X[1:, place] = x[i, :m]
            signed[place] = sign
            place += 1
        else:
            signed[y[i]] += sign
    return X, signed


@kernel(fastmath=VECTORS)
def _slopes(X, signed, w, z, r, d):
    """First and second derivative ``r`` and ``d`` of each row's loss by its decision value ``z``;
    exp by arithmetic alone, in vectors.
    """
    z[:] = np.float32(w[0])
    for j in range(1, len(w)):
        if w[j] != 0.0:
            column, weight = X[j], np.float32(w[j])
            for i in range(len(z)):
                z[i] += weight * column[i]
    for i in range(len(z)):
        t = -abs(z[i]) * LOG2_E
        t = t if t > LEAST else LEAST
        whole = np.floor(t + HALF)
        f = t - whole
        series = ONE + f * (E1 + f * (E2 + f * (E3 + f * (E4 + f * (E5 + f * (E6 + f * E7))))))
        e = series * np.int32((np.int32(whole) + 127) << 23).view(np.float32)
        inverse = ONE / (ONE + e)
        wrong = e * inverse if signed[i] * z[i] > ZERO else inverse
        r[i] = -signed[i] * wrong
        d[i] = abs(signed[i]) * e * inverse * inverse


@kernel(fastmath=VECTORS)
def _derivatives(X, signed, n, w, g, H, work):
    """Gradient and Hessian (lower triangle) of the mean loss over ``n`` rows at ``w``."""
    r, d, u = work[1], work[2], work[3]
    _slopes(X, signed, w, work[0], r, d)
    for a in range(len(w)):
        column, s = X[a], ZERO
        for i in range(len(u)):
            u[i] = d[i] * column[i]
            s += r[i] * column[i]
        g[a] = s / n
        for b in range(a + 1):
            other, t = X[b], ZERO
            for i in range(len(u)):
                t += u[i] * other[i]
            H[a, b] = t / n


@kernel()
def _factorise(A, n):
    """``L D L^T`` of the identity plus a positive semidefinite matrix, in its lower triangle.
    Pivots are at least 1; the rounding of a huge matrix can take them lower, which the bound
    undoes."""
    for a in range(n):
        for b in range(a):
            total = A[a, b]
            for c in range(b):
                total -= A[a, c] * A[b, c]
            A[a, b] = total
        pivot = A[a, a]
        for b in range(a):
            scaled = A[a, b] / A[b, b]
            pivot -= scaled * A[a, b]
            A[a, b] = scaled
        A[a, a] = max(pivot, 1.0)


@kernel()
def _solve(L, n, x):
    """Solve in place with what :func:`_factorise` left."""
    for a in range(n):
        total = x[a]
        for b in range(a):
            total -= L[a, b] * x[b]
        x[a] = total
    for a in range(n):
        x[a] /= L[a, a]
    for a in range(n - 1, 0, -1):
        for b in range(a):
            x[b] -= L[a, b] * x[a]


@kernel()
def _direction(w, g):
    """Sign of a weight, or the one it is about to take."""
    return math.copysign(1.0, w) if w != 0.0 else -math.copysign(1.0, g)


@kernel()
def _largest(w):
    """Largest weight, without the intercept."""
    found = 0.0
    for a in range(1, len(w)):
        found = max(found, abs(w[a]))
    return found


@kernel()
def _step(w, g, H, lasso, duration, A, moving, first, second, new):
    """A step of ``duration`` along the linearised flow from ``w`` to ``new``; a weight that would
    change sign stops at zero.

    Returns the speed at its start (Euclidean) and at its end (largest of any weight)."""
    n = 0
    for a in range(len(w)):
        new[a] = w[a]
        strength = lasso if a > 0 else 0.0
        if w[a] != 0.0 or abs(g[a]) >= strength:
            moving[n], first[n] = a, -(g[a] + strength * _direction(w[a], g[a]))
            n += 1
    squares, end = 0.0, 0.0
    for a in range(n):
        second[a] = first[a]
        squares += first[a] ** 2
        for b in range(a + 1):
            A[a, b] = GAMMA * duration * H[moving[a], moving[b]]
        A[a, a] += 1.0
    _factorise(A, n)
    _solve(A, n, first)
    for a in range(n):
        second[a] -= (1.0 - GAMMA) / GAMMA * (second[a] - first[a])
    _solve(A, n, second)
    for a in range(n):
        j = moving[a]
        new[j] = w[j] + duration * ((1.0 - GAMMA) * first[a] + GAMMA * second[a])
        if j > 0:
            end = max(end, abs(second[a]))
            if new[j] * _direction(w[j], g[j]) < 0.0:
                new[j] = 0.0
    return math.sqrt(squares), end


@kernel()
def _between(w, before, share, out):
    """The point that share of the way back from ``w`` to ``before``; no weight changes sign."""
    for a in range(len(w)):
        moved = w[a] + share * (before[a] - w[a])
        out[a] = moved if a == 0 or moved * w[a] > 0.0 else 0.0


@kernel()
def _end(w, before, sooner, limit, speed, speed_before, ratio, early):
    """Put ``w`` back to where within the last step the speed fell to ``limit``, taken to fall
    evenly, and ``early`` a share ``EARLY`` of the time before that.

    The points ``w``, ``before`` and ``sooner`` follow each other at times ``ratio`` apart, so the
    same share of the step before the last one ends at ``1 / ratio`` of the time."""
    share = 0.0
    if speed < limit and speed_before > speed:
        share = min((limit - speed) / (speed_before - speed), 1.0)
    _between(before, sooner, share, early)
    _between(w, before, share, w)
    for a in range(len(w)):
        early[a] = w[a] + EARLY * ratio / (ratio - 1.0) * (early[a] - w[a])


@kernel()
def _follow(X, signed, n, longest, start, lasso, ratio, w, early):
    """Follow the flow of one problem to where SAGA stops, in ``w``, and leave in ``early`` where it
    was shortly before.

    ``start`` is the best intercept without features. Times are in epochs, and a step is ``ratio -
    1`` of the time it starts at. Along the exact flow of a convex loss the speed never grows: a
    step after which it has is taken back and made four times shorter."""
    size, epoch, noise = len(w), 2.0 * n / longest, ROUNDING * math.sqrt(longest)
    g, H, A = np.empty(size), np.empty((size, size)), np.empty((size, size))
    before, sooner, new = np.zeros(size), np.zeros(size), np.zeros(size)
    first, second, moving = np.empty(size), np.empty(size), np.empty(size, np.int64)
    work = np.empty((4, X.shape[1]), np.float32)
    w[:] = 0.0
    w[0] = start
    _derivatives(X, signed, n, w, g, H, work)
    pull = _largest(g) / lasso
    early[:] = w
    if pull <= 1.0:  # no feature is let in
        return
    early[:] = 0.0
    w[0] = 0.0
    t, taken, step = 0.0, 0.0, FIRST_DRAWS / n
    fastest, speed, speed_before = np.inf, np.inf, np.inf
    for _ in range(MAX_STEPS):
        _derivatives(X, signed, n, w, g, H, work)
        now, after = _step(w, g, H, lasso, epoch * step, A, moving, first, second, new)
        if now > fastest + noise:
            t, step, speed = t - taken, taken / 4.0, speed_before
            w[:] = before
            continue
        limit = TOLERANCE * _largest(w)
        if t >= MAX_EPOCHS or (t >= 1.0 and speed <= limit):
            _end(w, before, sooner, limit, speed, speed_before, ratio, early)
            if pull < WEAK_PULL:
                early[1:] = 0.0
            return
        fastest, speed_before, speed = now, speed, after * epoch
        sooner[:] = before
        before[:] = w
        w[:] = new
        t, taken = t + step, step
        step = min(max((ratio - 1.0) * t, taken), GROWTH * taken, MAX_EPOCHS - t)


@kernel(nogil=True)
def paths(x, y, n, ks, Cs, ratio, late, early):
    """Solve every k at every C of its row ``Cs (K, n_C)``: ``late`` and ``early (K, n_C, 1 +
    features)`` float64 get intercepts, weights and zeros beyond k.

    The first ``n`` rows of ``x (n_rows, features)`` float32 and labels ``y (n_rows,)`` count."""
    late[:] = 0.0
    early[:] = 0.0
    mean = min(max(np.sum(y[:n] > 0) / n, 1e-9), 1 - 1e-9)
    for q in range(len(ks)):
        m = min(ks[q], x.shape[1])
        X, signed = _columns(x, y, n, m)
        longest = 0.0
        for i in range(X.shape[1]):
            length = 0.0
            for j in range(m + 1):
                length += np.float64(X[j, i]) ** 2
            longest = max(longest, length)
        for c in range(Cs.shape[1]):
            lasso, start = 1.0 / (Cs[q, c] * n), math.log(mean / (1 - mean))
            path = late[q, c, : m + 1], early[q, c, : m + 1]
            _follow(X, signed, n, longest, start, lasso, ratio, *path)


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    x, y, Cs = np.array([[0.0], [1.0]], np.float32), np.array([0, 1]), np.array([[1.0]])
    paths(x, y, 2, np.array([1]), Cs, 1.5, *np.empty((2, 1, 1, 2)))

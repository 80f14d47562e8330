"""Compiled kernels of the probing engine on a CPU: the path of one sparse logistic regression after
another.

The arithmetic is that of :mod:`husai.probing.solver.logistic`, problem by problem and without the
columns a problem does not use. Weight 0 is the intercept. Settings come as arguments: a global of
another module would be frozen into machine code kept on disk. Load through
:func:`husai.compiled.probe_kernels`."""

from __future__ import annotations

import math

import numpy as np

from husai.compiled import kernel
from husai.probing.solver.flow import Rules

LANES = 32
CHUNK = 256
VECTORS = {"reassoc", "contract", "nsz"}
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
LOG2_E, LEAST = np.float32(math.log2(math.e)), np.float32(-126.0)
# Taylor series of 2^f for |f| <= 1/2: relative error 6e-9, below a float32's.
E1, E2, E3, E4, E5, E6, E7 = (np.float32(math.log(2) ** n / math.factorial(n)) for n in range(1, 8))


@kernel()
def _blocked(x, y, n, m):
    """The first ``n`` rows and ``m`` columns of ``x`` and the labels, laid out for the other
    kernels.

    Returns ``(chunks, columns, rows)`` with a column of ones first (and one of zeros last where
    that makes the number even), and signed multiplicities ``(chunks, rows)``, positive for label 1.
    Rows of zeros, of which a sparse code has many, are merged into one per label; a multiplicity of
    0 fills up."""
    fired = np.zeros(n, np.bool_)
    for i in range(n):
        for j in range(m):
            fired[i] |= x[i, j] != ZERO
    total = np.sum(fired) + 2
    chunks = -(-total // CHUNK)
    rows = -(-total // (chunks * LANES)) * LANES
    X, signed = (
        np.zeros((chunks, (m + 2) // 2 * 2, rows), np.float32),
        np.zeros((chunks, rows), np.float32),
    )
    X[:, 0] = ONE
    place = 2
    for i in range(n):
        sign = ONE if y[i] > 0 else -ONE
        if fired[i]:
            c, row = place // rows, place % rows
            for j in range(m):
                X[c, 1 + j, row] = x[i, j]
            signed[c, row] = sign
            place += 1
        else:
            signed[0, y[i]] += sign
    return X, signed


@kernel(fastmath=VECTORS)
def _slopes(x, signed, w, z, r, d):
    """Derivatives ``r`` and ``d`` of each row's loss by its decision value, of one chunk ``x``; exp
    by arithmetic alone, in vectors.
    """
    z[:] = np.float32(w[0])
    for j in range(1, len(w)):
        if w[j] != 0.0:
            column, weight = x[j], np.float32(w[j])
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
def _add_products(x, r, d, u, v, g, H):
    """Add one chunk to the gradient and to the lower triangle of the Hessian, two columns by two at
    a time.
    """
    size = len(g)
    for a in range(0, size, 2):
        x0, x1 = x[a], x[a + 1]
        s, t = ZERO, ZERO
        for i in range(len(r)):
            u[i] = d[i] * x0[i]
            v[i] = d[i] * x1[i]
            s += r[i] * x0[i]
            t += r[i] * x1[i]
        g[a] += s
        g[a + 1] += t
        for b in range(0, a + 2, 2):
            y0, y1 = x[b], x[b + 1]
            s, t, p, q = ZERO, ZERO, ZERO, ZERO
            for i in range(len(r)):
                s += u[i] * y0[i]
                t += u[i] * y1[i]
                p += v[i] * y0[i]
                q += v[i] * y1[i]
            H[a, b] += s
            H[a, b + 1] += t
            H[a + 1, b] += p
            H[a + 1, b + 1] += q


@kernel()
def _derivatives(X, signed, n, w, ridge, g, H, work):
    """Gradient and Hessian (lower triangle) of the mean loss over ``n`` rows plus the ridge, at
    ``w``; ``g`` and ``H`` have even sizes.
    """
    g[:] = 0.0
    H[:] = 0.0
    for c in range(len(X)):
        _slopes(X[c], signed[c], w, work[0], work[1], work[2])
        _add_products(X[c], work[1], work[2], work[3], work[4], g, H)
    g /= n
    H /= n
    for a in range(1, len(w)):
        g[a] += ridge * w[a]
        H[a, a] += ridge


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
def _flow_step(w, g, H, lasso, duration, gamma, free, A, first, second, new):
    """One step of the linearised flow into ``new``, as ``logistic._flow_step``; returns the largest
    slope at its start, and at its end without the intercept's."""
    n = 0
    for a in range(len(w)):
        new[a] = w[a]
        strength = lasso if a > 0 else 0.0
        if w[a] == 0.0 and abs(g[a]) < strength:
            continue
        free[n] = a
        first[n] = -(g[a] + strength * _direction(w[a], g[a]))
        n += 1
    size = 0.0
    for a in range(n):
        second[a] = first[a]
        size = max(size, abs(first[a]))
        for b in range(a + 1):
            A[a, b] = gamma * duration * H[free[a], free[b]]
        A[a, a] += 1.0
    _factorise(A, n)
    _solve(A, n, first)
    for a in range(n):
        second[a] -= (1.0 - gamma) / gamma * (second[a] - first[a])
    _solve(A, n, second)
    after = 0.0
    for a in range(n):
        j = free[a]
        new[j] = w[j] + duration * ((1.0 - gamma) * first[a] + gamma * second[a])
        if j > 0:
            after = max(after, abs(second[a]))
            if lasso > 0.0 and new[j] * _direction(w[j], g[j]) < 0.0:
                new[j] = 0.0
    return size, after


@kernel()
def _direction(w, g):
    """Sign of a weight, or the one it is about to take."""
    return math.copysign(1.0, w) if w != 0.0 else -math.copysign(1.0, g)


@kernel()
def _largest(x, start):
    found = 0.0
    for a in range(start, len(x)):
        found = max(found, abs(x[a]))
    return found


@kernel()
def _steepness(w, g, lasso):
    """Euclidean length of the flow's velocity: along the exact flow of a convex loss it never
    grows.
    """
    total = g[0] ** 2
    for a in range(1, len(w)):
        pull = (
            abs(g[a] + lasso * _direction(w[a], g[a]))
            if w[a] != 0.0
            else max(abs(g[a]) - lasso, 0.0)
        )
        total += pull**2
    return math.sqrt(total)


@kernel()
def _distance_to_foreseen(g, g_before, H_before, w, w_before):
    """Largest difference between a gradient and the one the linear model at the point before
    foresaw.
    """
    found = 0.0
    for a in range(len(w)):
        foreseen = g_before[a]
        for b in range(len(w)):
            foreseen += H_before[max(a, b), min(a, b)] * (w[b] - w_before[b])
        found = max(found, abs(g[a] - foreseen))
    return found


@kernel()
def _put_back(w, w_before, share, out):
    """Weights that share of the last step ago, on the line through both its ends; none changes
    sign.
    """
    for a in range(len(w)):
        moved = w[a] + share * (w_before[a] - w[a])
        out[a] = moved if a == 0 or moved * w[a] > 0.0 else 0.0


@kernel()
def _doubt_zeros(w, g, lasso, rules):
    """Take small weights for 0, and give those of 0 that are nearly let in the least that breaks
    ties: SAGA's noise does either.
    """
    largest = _largest(w, 1)
    for a in range(1, len(w)):
        if w[a] == 0.0 and abs(g[a]) > rules.nearly * lasso:
            w[a] = -math.copysign(1.0e-6 * largest, g[a])
        elif abs(w[a]) < rules.tiny * largest:
            w[a] = 0.0


@kernel()
def _follow(X, signed, n, start, lasso, ridge, epoch, noise, rules, w, early):
    """Follow the flow of one problem from zero to where SAGA stops, in ``w``; see
    ``logistic._advance``. Returns ``Fit.pull``.

    ``start`` is the intercept alone that fits best: a penalty that lets no feature in at it is
    solved by it."""
    size = len(w)
    even = (size + 1) // 2 * 2
    g, g_before, H, H_before = (
        np.empty(even),
        np.zeros(even),
        np.empty((even, even)),
        np.zeros((even, even)),
    )
    w_before, new, first, second, free = (
        np.zeros(size),
        np.empty(size),
        np.empty(size),
        np.empty(size),
        np.empty(size, np.int64),
    )
    A, work = np.empty((size, size)), np.empty((5, X.shape[2]), np.float32)
    w[:] = 0.0
    pull = np.inf
    if lasso > 0.0:
        w[0] = early[0] = start
        _derivatives(X, signed, n, w, 0.0, g, H, work)
        pull = _largest(g[:size], 1) / lasso
        if pull <= 1.0:
            return pull
        w[0] = 0.0
    t, step, speed, speed_before, bent, steep, steep_before = (
        0.0,
        0.0,
        np.inf,
        np.inf,
        np.inf,
        np.inf,
        np.inf,
    )
    for _ in range(rules.max_steps if lasso > 0.0 else rules.newton_steps):
        _derivatives(X, signed, n, w, ridge, g, H, work)
        steep = _steepness(w, g, lasso)
        if steep > steep_before + noise or (
            t - step < rules.settled
            and _distance_to_foreseen(g, g_before, H_before, w, w_before) > bent
        ):
            t, step, speed, steep = t - step, step / 4, speed_before, steep_before
            w[:] = w_before
            g, g_before, H, H_before = g_before, g, H_before, H
        elif lasso > 0.0:
            limit = rules.tolerance * _largest(w, 1)
            slow = speed <= limit and t >= 1.0
            if slow or t >= rules.max_epochs:
                share = (
                    min((limit - speed) / (speed_before - speed), 1.0)
                    if slow and speed_before > speed
                    else 0.0
                )
                _put_back(w, w_before, share + rules.back * (t / step - share), early)
                _put_back(w, w_before, share, w)
                _doubt_zeros(early, g, lasso, rules)
                return pull
            step = (
                rules.first_epoch
                if step == 0.0
                else min(max((rules.ratio - 1.0) * t, step), 2.5 * step)
            )
        else:
            if _largest(g[:size], 0) <= max(rules.newton_gradient, noise):
                break
            step = 1.0 if step == 0.0 else rules.newton_ratio * step
        if lasso > 0.0:
            step = min(step, rules.max_epochs - t)
        slope, after = _flow_step(
            w, g, H, lasso, epoch * step, rules.gamma, free, A, first, second, new
        )
        bent = rules.trust * max(slope, rules.tolerance * _largest(w, 1) / epoch) + noise
        w_before[:] = w
        w[:] = new
        g, g_before, H, H_before = g_before, g, H_before, H
        t += step
        speed_before, speed, steep_before = speed, after * epoch, steep
    early[:] = 0.0
    if lasso == 0.0:
        early[:] = w
    return pull


@kernel(nogil=True)
def paths(x, y, n, ks, Cs, l1, rules, models, early, pull):
    """Solve every k at every C of its row: ``models (K, n_C, 1 + features)`` float64 gets
    intercepts, weights and zeros beyond k; so does ``early`` at the early point of the path, and
    ``pull (K, n_C)`` as ``logistic.Fit`` has it.

    The first ``n`` rows of ``x (n_rows, features)`` float32 and ``y (n_rows,)`` labels 0/1 count;
    ``Cs (K, n_C)``."""
    models[:] = 0.0
    early[:] = 0.0
    for q in range(len(ks)):
        m = min(ks[q], x.shape[1])
        X, signed = _blocked(x, y, n, m)
        positives = np.sum(y[:n] > 0)
        mean = min(max(positives / n, 1e-9), 1 - 1e-9)
        longest = 1.0
        for i in range(n):
            length = 1.0
            for j in range(m):
                length += np.float64(x[i, j]) ** 2
            longest = max(longest, length)
        epoch, noise = 2.0 * n / longest, rules.noise * math.sqrt(longest)
        for c in range(Cs.shape[1]):
            strength = 1.0 / (Cs[q, c] * n)
            lasso, ridge = (strength, 0.0) if l1 else (0.0, strength)
            late, sooner = models[q, c, : m + 1], early[q, c, : m + 1]
            pull[q, c] = _follow(
                X,
                signed,
                n,
                math.log(mean / (1 - mean)),
                lasso,
                ridge,
                epoch,
                noise,
                rules,
                late,
                sooner,
            )


def compile_all() -> None:
    """Compile every kernel, or load it from disk, by running it on little."""
    x, y = np.array([[0.0], [1.0]], np.float32), np.array([0, 1])
    paths(
        x,
        y,
        2,
        np.array([1]),
        np.array([[1.0]]),
        True,
        Rules(),
        np.empty((1, 1, 2)),
        np.empty((1, 1, 2)),
        np.empty((1, 1)),
    )

"""Logistic regression for thousands of small probes at once, along the path scikit-learn's SAGA solver takes.

SAGA with a constant step follows, up to sampling noise, the proximal gradient flow ``w' = -(grad loss + beta sign(w))`` from 0; an epoch
of n samples advances it by ``n * step``. The official protocol stops SAGA at a relative change of 1e-4 per epoch or after 1000 epochs,
often before convergence when features are small, so the flow is integrated to the same stop instead of being solved to the optimum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from husai.errors import HusaiError

TOLERANCE = 1.0e-4
GAMMA = 1 - 0.5**0.5
MAX_EPOCHS = 1000.0
RATIO = 1.6
FIRST_EPOCH = 0.1
NEWTON_GRADIENT = 1.0e-6
NEWTON_STEPS = 60
GROUPS_AT_ONCE = 4


class Fit(NamedTuple):
    """Solutions of ``G`` groups (data sets) of ``P`` problems (k and C) over ``m`` features."""

    coef: torch.Tensor
    """``(G, P, m)`` float64; zero outside a problem's support."""
    intercept: torch.Tensor
    """``(G, P)`` float64"""
    epochs: torch.Tensor
    """``(G, P)`` epochs the flow was followed for; 0 where the penalty excludes every feature."""


class Problem(NamedTuple):
    """A batch in the form the integrator works on: an intercept column appended, one row per problem."""

    X: torch.Tensor
    pairs: torch.Tensor
    y: torch.Tensor
    row_weight: torch.Tensor
    lasso: torch.Tensor
    ridge: torch.Tensor
    allowed: torch.Tensor
    epoch: torch.Tensor


def fit(X: torch.Tensor, y: torch.Tensor, row_weight: torch.Tensor, support: torch.Tensor, C: torch.Tensor, *, penalty: str = "l1") -> Fit:
    """Fit ``G x P`` logistic regressions with an unpenalised intercept.

    l1 minimises ``mean_i log(1 + exp(-y_i (x_i w + b))) + |w|_1 / (C n)`` along SAGA's path (Defazio et al. 1407.0202, with
    scikit-learn's step ``2 / (max_i |x_i|^2 + 1)`` and stop); l2 has the penalty ``|w|^2 / (2 C n)`` and is solved to the optimum.

    Parameters
    ----------
    X : Tensor, ``(G, n, m)``
        Features per group; rows that do not count must be zero.
    y : Tensor, ``(G, n)``
        Labels 0/1.
    row_weight : Tensor, ``(G, n)``
        ``1 / n_rows`` on rows that count, otherwise 0.
    support : BoolTensor, ``(P, m)``
        Features each problem may use.
    C : Tensor, ``(P,)`` or ``(G, P)``
        Inverse penalty.
    """
    if penalty not in ("l1", "l2"):
        raise HusaiError(f"external.probing.penalty: '{penalty}' is not l1 or l2")
    C = C.expand(len(X), support.shape[0])
    size = GROUPS_AT_ONCE if X.device.type == "cpu" else max(len(X), 1)
    slices = [slice(i, i + size) for i in range(0, len(X), size)]
    blocks = [_fit_block(X[s], y[s], row_weight[s], support, C[s], penalty) for s in slices]
    return Fit(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _fit_block(X, y, row_weight, support, C, penalty: str) -> Fit:
    problem = _assemble(X, y, row_weight, support, C, penalty)
    w = torch.zeros(problem.allowed.shape, dtype=torch.float64, device=X.device)
    w[..., -1] = _logit_of_mean(problem).unsqueeze(1)
    todo = _not_excluded(problem, w)
    w[..., -1].masked_fill_(todo, 0.0)
    epochs = torch.zeros(todo.shape, dtype=torch.float64, device=X.device)
    speed = torch.full_like(epochs, torch.inf)
    last, steps = 0.0, _time_grid() if penalty == "l1" else [3.0**i for i in range(NEWTON_STEPS)]
    part = None
    for now in steps:
        if part is None:
            at = _live(todo)
            if at[1].shape[1] == 0:
                break
            part, here, before, live = _subset(problem, *at), w[at], speed[at], todo[at]
        if penalty == "l1":
            new, before, moving = _advance(part, here, before, now, last)
        else:
            new, moving = _newton(part, here, now - last)
        here = torch.where(live.unsqueeze(-1), new, here)
        last = now
        if now == steps[-1] or bool((live & ~moving).any()):
            w[at], speed[at], todo[at] = here, before, live & moving
            epochs[at] = torch.where(live, now, epochs[at])
            part = None
    return Fit(w[..., :-1], w[..., -1], epochs)


def _live(todo: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups ``(g, 1)`` with work left and, first, the places ``(g, L)`` of it; L is the most any group has."""
    groups = todo.any(1).nonzero()
    most = int(todo.sum(1).max()) if todo.numel() else 0
    return groups, todo[groups[:, 0]].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]


def _assemble(X, y, row_weight, support, C, penalty: str) -> Problem:
    G, _, m = X.shape
    P = support.shape[0]
    counts = row_weight > 0
    n_rows = counts.sum(1, keepdim=True)
    squares = X.square() @ support.to(X.dtype).T
    epoch = (n_rows * 2.0 / (squares.amax(1) + 1.0)).to(torch.float64)
    X1 = torch.cat([X, counts.to(X.dtype).unsqueeze(-1)], -1)
    rows, cols = torch.triu_indices(m + 1, m + 1, device=X.device)
    strength = torch.zeros(G, P, m + 1, dtype=torch.float64, device=X.device)
    strength[..., :m] = (1.0 / (C.to(torch.float64) * n_rows)).expand(G, P).unsqueeze(-1)
    none = torch.zeros_like(strength)
    lasso, ridge = (strength, none) if penalty == "l1" else (none, strength)
    allowed = torch.cat([support, torch.ones(P, 1, dtype=torch.bool, device=X.device)], -1).expand(G, P, m + 1)
    labels = (y * counts).unsqueeze(1).to(X.dtype)
    return Problem(X1, X1[..., rows] * X1[..., cols], labels, row_weight.unsqueeze(1).to(X.dtype), lasso, ridge, allowed, epoch)


def _subset(p: Problem, groups: torch.Tensor, places: torch.Tensor) -> Problem:
    """The problems at ``places (g, L)`` of ``groups (g, 1)``."""
    rows = groups[:, 0]
    shared = (p.X, p.pairs, p.y, p.row_weight) if len(rows) == len(p.X) else (t[rows] for t in (p.X, p.pairs, p.y, p.row_weight))
    return Problem(*shared, *(t[groups, places] for t in (p.lasso, p.ridge, p.allowed, p.epoch)))


def _time_grid() -> list[float]:
    """Epochs at which the flow is evaluated: geometric up to the official limit."""
    grid = [FIRST_EPOCH]
    while grid[-1] < MAX_EPOCHS:
        grid.append(min(grid[-1] * RATIO, MAX_EPOCHS))
    return grid


def _logit_of_mean(p: Problem) -> torch.Tensor:
    mean = (p.y * p.row_weight).sum((1, 2)).to(torch.float64).clamp(1e-9, 1 - 1e-9)
    return torch.log(mean / (1 - mean))


def _not_excluded(p: Problem, w: torch.Tensor) -> torch.Tensor:
    """Problems whose penalty lets at least one feature in: elsewhere all weights are 0 at the optimum (KKT at w = 0)."""
    if not p.lasso.any():
        return torch.ones(w.shape[:2], dtype=torch.bool, device=w.device)
    gradient = ((torch.sigmoid(w[:, :1, -1:].to(p.X.dtype)) - p.y) * p.row_weight @ p.X).to(torch.float64)
    return ((gradient.abs() > p.lasso) & p.allowed)[..., :-1].any(-1)


def _advance(p: Problem, w: torch.Tensor, speed: torch.Tensor, now: float, last: float):
    """Take all problems from epoch ``last`` to ``now``; return weights, their speed per epoch, and which still move.

    A problem that slows down to SAGA's stop within the step is put back to where it did, its speed taken to decay exponentially.
    """
    g, H = _derivatives(p, w)
    new, slope = _flow_step(w, g, H, p.lasso, p.allowed, (p.epoch * (now - last)).unsqueeze(-1))
    after = (slope[..., :-1].abs().amax(-1)) * p.epoch
    stop = TOLERANCE * new[..., :-1].abs().amax(-1)
    moving = (after > stop) | (now < 1.0)
    back = torch.where(moving, 0.0, ((stop - after) / (speed - after)).nan_to_num(0.0).clamp(0.0, 1.0)).unsqueeze(-1)
    return torch.where(new == 0, new, new + back * (w - new)), after, moving


def _newton(p: Problem, w: torch.Tensor, duration: float):
    """A damped Newton step of the ridge problems (an implicit step of the flow, ever longer) and which are not at the optimum."""
    g, H = _derivatives(p, w)
    A = H * (p.allowed.unsqueeze(-1) & p.allowed.unsqueeze(-2))
    A.diagonal(dim1=-2, dim2=-1).add_(1.0 / (p.epoch * duration).unsqueeze(-1))
    g = g * p.allowed
    return w - torch.linalg.solve_ex(A, g.unsqueeze(-1))[0].squeeze(-1), g.abs().amax(-1) > NEWTON_GRADIENT


def _derivatives(p: Problem, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient ``(g, L, m)`` and Hessian ``(g, L, m, m)`` of the loss and the ridge, float64."""
    prob = torch.sigmoid(w.to(p.X.dtype) @ p.X.mT)
    g = ((prob - p.y) * p.row_weight @ p.X).to(torch.float64) + p.ridge * w
    H = _symmetric((prob * (1 - prob) * p.row_weight @ p.pairs).to(torch.float64), w.shape[-1])
    H.diagonal(dim1=-2, dim2=-1).add_(p.ridge)
    return g, H


def _symmetric(packed: torch.Tensor, m: int) -> torch.Tensor:
    """Full matrices ``(..., m, m)`` from upper triangles ``(..., m(m+1)/2)``."""
    rows, cols = torch.triu_indices(m, m, device=packed.device)
    place = torch.empty(m, m, dtype=torch.int64, device=packed.device)
    place[rows, cols] = place[cols, rows] = torch.arange(len(rows), device=packed.device)
    return packed.index_select(-1, place.flatten()).view(*packed.shape[:-1], m, m)


def _flow_step(w, g, H, lasso, allowed, duration):
    """One L-stable second-order step (SDIRK2, gamma = 1 - 1/sqrt 2) of the linearised flow; a weight about to change sign stops at 0.

    ``w, g, lasso, allowed (g, L, m)``; ``H (g, L, m, m)``; ``duration (g, L, 1)``. Also returns the slope at the end of the step.
    """
    at_zero = w == 0
    sign = torch.where(at_zero, -torch.sign(g), torch.sign(w))
    free = (allowed & ~(at_zero & (g.abs() < lasso))).to(w.dtype)
    slope = -free * (g + lasso * sign)
    H = H * (free.unsqueeze(-1) * free.unsqueeze(-2))
    A = H * (GAMMA * duration).unsqueeze(-1)
    A.diagonal(dim1=-2, dim2=-1).add_(1.0)
    factors, pivots, _ = torch.linalg.lu_factor_ex(A)
    first = torch.linalg.lu_solve(factors, pivots, slope.unsqueeze(-1))
    second = torch.linalg.lu_solve(factors, pivots, slope.unsqueeze(-1) - (1 - GAMMA) * duration.unsqueeze(-1) * (H @ first)).squeeze(-1)
    new = w + duration * ((1 - GAMMA) * first.squeeze(-1) + GAMMA * second)
    return torch.where((new * sign < 0) & (lasso > 0), 0.0, new), second

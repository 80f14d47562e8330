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
MAX_EPOCHS = 1000.0
RATIO = 1.5
FIRST_EPOCH = 0.05
NEWTON_GRADIENT = 1.0e-6
NEWTON_STEPS = 60
GROUPS_AT_ONCE = 6


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
    size = GROUPS_AT_ONCE if X.device.type == "cpu" else len(X)
    blocks = [_fit_block(X[s], y[s], row_weight[s], support, C[s], penalty) for s in _slices(len(X), size)]
    return Fit(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _slices(n: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _fit_block(X, y, row_weight, support, C, penalty: str) -> Fit:
    problem = _assemble(X, y, row_weight, support, C, penalty)
    w = torch.zeros(problem.allowed.shape, dtype=torch.float64, device=X.device)
    w[..., -1] = _logit_of_mean(problem).unsqueeze(1)
    todo = _not_excluded(problem, w)
    w[..., -1].masked_fill_(todo, 0.0)
    epochs = torch.zeros(todo.shape, dtype=torch.float64, device=X.device)
    last, steps = 0.0, _time_grid() if penalty == "l1" else [3.0**i for i in range(NEWTON_STEPS)]
    for now in steps:
        live = int(todo.sum(1).max())
        if live == 0:
            break
        groups = todo.any(1).nonzero()
        places = todo[groups[:, 0]].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :live]
        moving_w, moving = _advance(_subset(problem, groups, places), w[groups, places], now, last, penalty)
        before = todo[groups, places]
        w[groups, places] = torch.where(before.unsqueeze(-1), moving_w, w[groups, places])
        epochs[groups, places] = torch.where(before, now, epochs[groups, places])
        todo[groups, places] = before & moving
        last = now
    return Fit(w[..., :-1], w[..., -1], epochs)


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


def _advance(p: Problem, w: torch.Tensor, now: float, last: float, penalty: str):
    """Take all problems from epoch ``last`` to ``now``; return weights and which problems still move."""
    prob = torch.sigmoid(w.to(p.X.dtype) @ p.X.mT)
    g = ((prob - p.y) * p.row_weight @ p.X).to(torch.float64) + p.ridge * w
    H = _symmetric((prob * (1 - prob) * p.row_weight @ p.pairs).to(torch.float64), w.shape[-1])
    H.diagonal(dim1=-2, dim2=-1).add_(p.ridge)
    duration = (p.epoch * (now - last)).unsqueeze(-1)
    new = _flow_step(w, g, H, p.lasso, p.allowed, duration)
    if penalty == "l2":
        return new, (g * p.allowed).abs().amax(-1) > NEWTON_GRADIENT
    change = (new - w)[..., :-1].abs().amax(-1) / (now - last)
    return new, (change > TOLERANCE * new[..., :-1].abs().amax(-1)) | (now < 1.0)


def _symmetric(packed: torch.Tensor, m: int) -> torch.Tensor:
    rows, cols = torch.triu_indices(m, m, device=packed.device)
    full = packed.new_empty(*packed.shape[:-1], m, m)
    full[..., rows, cols] = packed
    full[..., cols, rows] = packed
    return full


def _flow_step(w, g, H, lasso, allowed, duration):
    """One linearly implicit Euler step of the proximal gradient flow; a weight about to change sign stops at 0.

    ``w, g, lasso, allowed (G, P, m)``; ``H (G, P, m, m)``; ``duration (G, P, 1)``.
    """
    at_zero = w == 0
    sign = torch.where(at_zero, -torch.sign(g), torch.sign(w))
    free = (allowed & ~(at_zero & (g.abs() < lasso))).to(w.dtype)
    A = H * ((duration * free).unsqueeze(-1) * free.unsqueeze(-2))
    A.diagonal(dim1=-2, dim2=-1).add_(1.0)
    move = torch.linalg.solve_ex(A, (-duration * free * (g + lasso * sign)).unsqueeze(-1))[0].squeeze(-1)
    new = w + move
    return torch.where((new * sign < 0) & (lasso > 0), 0.0, new)

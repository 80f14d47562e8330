"""Logistic regression for thousands of small probes at once, along the path scikit-learn's SAGA
solver takes: see ``flow``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from husai.errors import HusaiError
from husai.probing.solver.flow import GRID, Rules

GROUPS_AT_ONCE = 8
REPACK = 0.7


class Fit(NamedTuple):
    """Solutions of ``G`` groups (data sets) of ``P`` problems (k and C) over ``m`` features."""

    coef: torch.Tensor
    """``(G, P, m)`` float64; zero outside a problem's support."""
    intercept: torch.Tensor
    """``(G, P)`` float64"""
    epochs: torch.Tensor
    """``(G, P)`` epochs the flow was followed for; 0 where the penalty excludes every feature."""
    early: torch.Tensor
    """``(G, P, 1 + m)`` intercept and weights at the early point of the path (``Rules.back``)."""
    pull: torch.Tensor
    """``(G, P)`` largest gradient of the intercept alone as a multiple of the penalty: at most 1
    where no feature is let in.
    """


class Problem(NamedTuple):
    """A batch in the form the integrator works on: an intercept column appended, one row per
    problem.
    """

    X: torch.Tensor
    pairs: torch.Tensor
    y: torch.Tensor
    row_weight: torch.Tensor
    lasso: torch.Tensor
    ridge: torch.Tensor
    allowed: torch.Tensor
    epoch: torch.Tensor
    noise: torch.Tensor
    """Rounding of a gradient summed in float32."""
    rules: Rules


class State(NamedTuple):
    """Where every problem is: each has its own clock, and the point before, to return to when a
    step was too long.
    """

    w: torch.Tensor
    t: torch.Tensor
    step: torch.Tensor
    """Epochs the last step took."""
    speed: torch.Tensor
    """Largest change of a weight per epoch at ``w``."""
    w_before: torch.Tensor
    speed_before: torch.Tensor
    g_before: torch.Tensor
    H_before: torch.Tensor
    bent: torch.Tensor
    """How far the gradient at ``w`` may be from the one the linear model foresaw."""
    steep: torch.Tensor
    """Length of the velocity at ``w_before``; along the exact flow of a convex loss it never
    grows.
    """


def fit(
    X: torch.Tensor,
    y: torch.Tensor,
    row_weight: torch.Tensor,
    support: torch.Tensor,
    C: torch.Tensor,
    *,
    penalty: str = "l1",
    rules: Rules = GRID,
) -> Fit:
    """Fit ``G x P`` logistic regressions with an unpenalised intercept.

    l1 minimises ``mean_i log(1 + exp(-y_i (x_i w + b))) + |w|_1 / (C n)`` along SAGA's path
    (Defazio et al. 1407.0202, with scikit-learn's step ``2 / (max_i |x_i|^2 + 1)`` and stop); l2
    has the penalty ``|w|^2 / (2 C n)`` and is solved to the optimum.

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
    check_penalty(penalty)
    C = C.expand(len(X), support.shape[0])
    if penalty == "l2":
        return _fit_in_units(X, y, row_weight, support, C, rules)
    return _fit_all(X, y, row_weight, support, C, penalty, rules)


def unit_of(longest: float) -> float:
    """A power of two near the length of the longest row, given its square: dividing by it is
    exact.
    """
    return 2.0 ** round(0.5 * math.log2(longest)) if longest > 0 else 1.0


def _fit_in_units(X, y, row_weight, support, C, rules: Rules) -> Fit:
    """The l2 problem, the same in units in which rows have a length of about 1: they keep its steps
    and its stop in range.
    """
    unit = torch.tensor(
        [unit_of(v) for v in X.square().sum(2).amax(1).tolist()],
        dtype=torch.float64,
        device=X.device,
    ).view(-1, 1, 1)
    found = _fit_all(
        X / unit.to(X.dtype), y, row_weight, support, C * unit.squeeze(2) ** 2, "l2", rules
    )
    early = torch.cat([found.early[..., :1], found.early[..., 1:] / unit], -1)
    return found._replace(coef=found.coef / unit, early=early)


def _fit_all(X, y, row_weight, support, C, penalty: str, rules: Rules) -> Fit:
    size = GROUPS_AT_ONCE if X.device.type == "cpu" else max(len(X), 1)
    slices = [slice(i, i + size) for i in range(0, len(X), size)]
    blocks = [_fit_block(X[s], y[s], row_weight[s], support, C[s], penalty, rules) for s in slices]
    return Fit(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def check_penalty(penalty: str) -> None:
    """Refuse a penalty other than l1 and l2."""
    if penalty not in ("l1", "l2"):
        raise HusaiError(f"external.probing.penalty: '{penalty}' is not l1 or l2")


def _fit_block(X, y, row_weight, support, C, penalty: str, rules: Rules) -> Fit:
    problem = _assemble(X, y, row_weight, support, C, penalty, rules)
    w = torch.zeros(problem.allowed.shape, dtype=torch.float64, device=X.device)
    w[..., -1] = _logit_of_mean(problem).unsqueeze(1)
    pull = _pull(problem, w)
    todo = pull > 1.0
    w[..., -1].masked_fill_(todo, 0.0)
    early = w.clone()
    epochs = torch.zeros(todo.shape, dtype=torch.float64, device=X.device)
    whole, part = _start(w), None
    for _ in range(rules.max_steps if penalty == "l1" else rules.newton_steps):
        if part is None:
            at = _live(todo)
            if at[1].shape[1] == 0:
                break
            part, state, live = _subset(problem, *at), State(*(t[at] for t in whole)), todo[at]
        t = state.t
        state, (result, before), ended = _advance(part, state, penalty)
        ended &= live
        if not bool(ended.any()):
            continue
        w[at] = torch.where(ended.unsqueeze(-1), result, w[at])
        early[at] = torch.where(ended.unsqueeze(-1), before, early[at])
        epochs[at] = torch.where(ended, t, epochs[at])
        live = live & ~ended
        todo[at] = live
        left = live.sum(1)
        if int(left.min()) == 0 or int(left.max()) <= REPACK * live.shape[1]:
            for kept, now in zip(whole, state, strict=True):
                kept[at] = now
            part = None
    else:
        w[at] = torch.where(todo[at].unsqueeze(-1), state.w, w[at])
        early[at] = torch.where(
            todo[at].unsqueeze(-1), 0.0 if penalty == "l1" else state.w, early[at]
        )
    return Fit(w[..., :-1], w[..., -1], epochs, early.roll(1, -1), pull)


def _start(w: torch.Tensor) -> State:
    clock = torch.zeros_like(w[..., 0])
    matrices = w.new_zeros(*w.shape, w.shape[-1])
    infinite = torch.full_like(clock, torch.inf)
    start = State(
        w, clock, clock, infinite, w, infinite, torch.zeros_like(w), matrices, infinite, infinite
    )
    return State(*(t.clone() for t in start))


def _live(todo: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups ``(g, 1)`` with work left and, first, the places ``(g, L)`` of it; L is the most any
    group has.
    """
    groups = todo.any(1).nonzero()
    most = int(todo.sum(1).max()) if todo.numel() else 0
    return groups, todo[groups[:, 0]].to(torch.int8).argsort(dim=1, descending=True, stable=True)[
        :, :most
    ]


def _assemble(X, y, row_weight, support, C, penalty: str, rules: Rules) -> Problem:
    G, _, m = X.shape
    P = support.shape[0]
    counts = row_weight > 0
    n_rows = counts.sum(1, keepdim=True)
    largest = ((X.square() @ support.to(X.dtype).T).amax(1) + 1.0).to(torch.float64)
    epoch = n_rows * 2.0 / largest
    X1 = torch.cat([X, counts.to(X.dtype).unsqueeze(-1)], -1)
    rows, cols = torch.triu_indices(m + 1, m + 1, device=X.device)
    strength = torch.zeros(G, P, m + 1, dtype=torch.float64, device=X.device)
    strength[..., :m] = (1.0 / (C.to(torch.float64) * n_rows)).expand(G, P).unsqueeze(-1)
    none = torch.zeros_like(strength)
    lasso, ridge = (strength, none) if penalty == "l1" else (none, strength)
    allowed = torch.cat([support, torch.ones(P, 1, dtype=torch.bool, device=X.device)], -1).expand(
        G, P, m + 1
    )
    labels = (y * counts).unsqueeze(1).to(X.dtype)
    noise = rules.noise * largest.sqrt()
    return Problem(
        X1,
        X1[..., rows] * X1[..., cols],
        labels,
        row_weight.unsqueeze(1).to(X.dtype),
        lasso,
        ridge,
        allowed,
        epoch,
        noise,
        rules,
    )


def _subset(p: Problem, groups: torch.Tensor, places: torch.Tensor) -> Problem:
    """The problems at ``places (g, L)`` of ``groups (g, 1)``."""
    rows = groups[:, 0]
    shared = (
        (p.X, p.pairs, p.y, p.row_weight)
        if len(rows) == len(p.X)
        else (t[rows] for t in (p.X, p.pairs, p.y, p.row_weight))
    )
    return Problem(
        *shared,
        *(t[groups, places] for t in (p.lasso, p.ridge, p.allowed, p.epoch, p.noise)),
        p.rules,
    )


def _logit_of_mean(p: Problem) -> torch.Tensor:
    mean = (p.y * p.row_weight).sum((1, 2)).to(torch.float64).clamp(1e-9, 1 - 1e-9)
    return torch.log(mean / (1 - mean))


def _pull(p: Problem, w: torch.Tensor) -> torch.Tensor:
    """Largest gradient at the intercept alone as a multiple of the lasso: at most 1, all weights
    are 0 at the optimum (KKT at w = 0).
    """
    if not p.lasso.any():
        return torch.full(w.shape[:2], torch.inf, dtype=torch.float64, device=w.device)
    gradient = ((torch.sigmoid(w[:, :1, -1:].to(p.X.dtype)) - p.y) * p.row_weight @ p.X).to(
        torch.float64
    )
    return ((gradient.abs() / p.lasso) * p.allowed)[..., :-1].amax(-1)


def _advance(
    p: Problem, s: State, penalty: str
) -> tuple[State, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Judge the last step of every problem, then take the next; also returns late and early answers
    and which problems are done.

    A step after which the flow is faster than before is taken back and made four times shorter, and
    so is an early one after which the gradient is not what the linear model foresaw (once the stiff
    directions have settled, gradients are too small to be foreseen)."""
    g, H = _derivatives(p, s.w)
    foreseen = s.g_before + (s.H_before @ (s.w - s.w_before).unsqueeze(-1)).squeeze(-1)
    steep = _velocity(s.w, g, p.lasso, p.allowed)[0].norm(dim=-1)
    r = p.rules
    bad = (((g - foreseen) * p.allowed).abs().amax(-1) > s.bent) & (s.t - s.step < r.settled) | (
        steep > s.steep + p.noise
    )
    back = bad.unsqueeze(-1)
    results, stopped = _stopped(p, s, g, penalty)
    w, t = torch.where(back, s.w_before, s.w), torch.where(bad, s.t - s.step, s.t)
    g, H = torch.where(back, s.g_before, g), torch.where(back.unsqueeze(-1), s.H_before, H)
    speed = torch.where(bad, s.speed_before, s.speed)
    step = torch.where(bad, s.step / 4, _longer(t, s.step, penalty, r))
    if penalty == "l1":
        step = torch.minimum(step, r.max_epochs - t)
    new, slope, size = _flow_step(
        w, g, H, p.lasso, p.allowed, (p.epoch * step).unsqueeze(-1), r.gamma
    )
    after = slope[..., :-1].abs().amax(-1) * p.epoch
    done = stopped & ~bad
    size = torch.maximum(size, r.tolerance * w[..., :-1].abs().amax(-1) / p.epoch)
    return (
        State(
            new,
            t + step,
            step,
            after,
            w,
            speed,
            g,
            H,
            r.trust * size + p.noise,
            torch.where(bad, s.steep, steep),
        ),
        results,
        done,
    )


def _longer(t: torch.Tensor, step: torch.Tensor, penalty: str, r: Rules) -> torch.Tensor:
    """The next step of a problem whose last one was good: a fixed share of its time, growing by a
    bounded factor.
    """
    if penalty == "l2":
        return torch.where(step == 0, 1.0, r.newton_ratio * step)
    return torch.where(
        step == 0, r.first_epoch, torch.minimum(torch.maximum((r.ratio - 1) * t, step), 2.5 * step)
    )


def _stopped(
    p: Problem, s: State, g: torch.Tensor, penalty: str
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Final and early weights of the problems that are done at ``s.w`` and which these are.

    l1: SAGA's stop. A problem that slowed down to it within the last step is put back to where it
    did, its speed taken to decay exponentially. l2: a vanishing gradient."""
    r = p.rules
    if penalty == "l2":
        return (s.w, s.w), (g * p.allowed).abs().amax(-1) <= p.noise.clamp(min=r.newton_gradient)
    limit = r.tolerance * s.w[..., :-1].abs().amax(-1)
    slow = (s.speed <= limit) & (s.t >= 1.0)
    share = torch.where(
        slow, ((limit - s.speed) / (s.speed_before - s.speed)).nan_to_num(0.0).clamp(0.0, 1.0), 0.0
    )
    early = share + r.back * (s.t / s.step - share)
    return (_put_back(s, share), _doubt_zeros(_put_back(s, early), p, g)), slow | (
        s.t >= r.max_epochs
    )


def _put_back(s: State, share: torch.Tensor) -> torch.Tensor:
    """Weights that share of the last step ago, on the line through both its ends; none changes
    sign.
    """
    moved = s.w + share.unsqueeze(-1) * (s.w_before - s.w)
    moved[..., :-1] = torch.where(moved * s.w > 0, moved, 0.0)[..., :-1]
    return moved


def _doubt_zeros(w: torch.Tensor, p: Problem, g: torch.Tensor) -> torch.Tensor:
    """Take small weights for 0, and give those of 0 that are nearly let in the least that breaks
    ties: SAGA's noise does either.
    """
    largest = w[..., :-1].abs().amax(-1, keepdim=True)
    nearly = (w == 0) & p.allowed & (g.abs() > p.rules.nearly * p.lasso)
    doubted = torch.where(
        nearly, -1.0e-6 * largest * g.sign(), torch.where(w.abs() < p.rules.tiny * largest, 0.0, w)
    )
    return torch.cat([doubted[..., :-1], w[..., -1:]], -1)


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


def _flow_step(w, g, H, lasso, allowed, duration, gamma):
    """One L-stable second-order step (SDIRK2, gamma = 1 - 1/sqrt 2) of the linearised flow; a
    weight about to change sign stops at 0.

    ``w, g, lasso, allowed (g, L, m)``; ``H (g, L, m, m)``; ``duration (g, L, 1)``. Also returns the
    slope at the end of the step and the size of the one at its start."""
    slope, sign, free = _velocity(w, g, lasso, allowed)
    H = H * (free.unsqueeze(-1) * free.unsqueeze(-2))
    A = H * (gamma * duration).unsqueeze(-1)
    A.diagonal(dim1=-2, dim2=-1).add_(1.0)
    factors, pivots, _ = torch.linalg.lu_factor_ex(A)
    first = torch.linalg.lu_solve(factors, pivots, slope.unsqueeze(-1))
    second = torch.linalg.lu_solve(
        factors, pivots, slope.unsqueeze(-1) - (1 - gamma) * duration.unsqueeze(-1) * (H @ first)
    ).squeeze(-1)
    new = w + duration * ((1 - gamma) * first.squeeze(-1) + gamma * second)
    return torch.where((new * sign < 0) & (lasso > 0), 0.0, new), second, slope.abs().amax(-1)


def _velocity(w, g, lasso, allowed):
    """Velocity of the flow at ``w``, the sign each weight has or is about to take, and which
    weights move.
    """
    at_zero = w == 0
    sign = torch.where(at_zero, -torch.sign(g), torch.sign(w))
    free = (allowed & ~(at_zero & (g.abs() < lasso))).to(w.dtype)
    return -free * (g + lasso * sign), sign, free

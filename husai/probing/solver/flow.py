"""How SAGA's path is followed: the settings that the torch engine and the compiled kernels share.

SAGA with a constant step follows, up to sampling noise, the proximal gradient flow ``w' = -(grad
loss + beta sign(w))`` from 0; an epoch of n samples advances it by ``n * step``. The official
protocol stops SAGA at a relative change of 1e-4 per epoch or after 1000 epochs, often before
convergence when features are small, so the flow is integrated to the same stop instead of being
solved to the optimum."""

from __future__ import annotations

from typing import NamedTuple


class Rules(NamedTuple):
    """Settings of one integration; times are in epochs of SAGA."""

    tolerance: float = 1.0e-4
    """SAGA's: it stops at this relative change per epoch."""
    max_epochs: float = 1000.0
    first_epoch: float = 0.05
    """Length of the first step."""
    ratio: float = 1.5
    """A step ends at this multiple of the time it starts at."""
    trust: float = 0.1
    """An early step is too long where the gradient differs by more than this share from what the
    linear model foresaw.
    """
    newton_ratio: float = 4.0
    """Each l2 step is so many times as long as the one before, and ends up a Newton step."""
    newton_gradient: float = 1.0e-6
    """l2 stops at it, or at the rounding of a gradient."""
    newton_steps: int = 200
    max_steps: int = 1000
    """Of which a path hardly ever needs more than a hundred. One that does is unfinished: its early
    point is put at zero, so that it is open.
    """
    settled: float = 5.0
    """Time from which on gradients are too small to be foreseen."""
    gamma: float = 1 - 0.5**0.5
    noise: float = 1.0e-6
    """Rounding of a gradient summed in float32, relative to the longest row."""
    back: float = 0.35
    """The early point lies this share of the time before the stop: sampling noise ends SAGA up to
    so much sooner than the flow.
    """
    tiny: float = 1.0e-3
    """At the early point weights below this share of the largest are 0, and weights of 0 that are
    nearly let in are not.
    """
    nearly: float = 0.5
    """A gradient this close to the penalty nearly lets a weight in."""


GRID = Rules()
"""For the values of C that are compared on validation rows."""
EXACT = Rules(ratio=1.25)
"""For the fit that is scored: shorter steps."""

"""The highest CE-Bench score that a number of latents allows. Imports no torch, so that the gate
can say what is out of reach."""

from __future__ import annotations

import math

from husai.errors import HusaiError


def score_bound(d_sae: int) -> float:
    """Largest z-score that one of ``d_sae`` values can have with the unbiased standard deviation,
    ``(n - 1) / sqrt(n)``.

    The bound is reached when all values but one are equal (Samuelson 1968, "How deviant can you
    be?"): 31.97 for 1024 latents, 45.23 for 2048.

    Raises
    ------
    HusaiError
        Fewer than two latents.
    """
    if d_sae < 2:
        raise HusaiError(
            f"CE-Bench: needs at least 2 latents to compute a z-score, got d_sae = {d_sae}"
        )
    return (d_sae - 1) / math.sqrt(d_sae)

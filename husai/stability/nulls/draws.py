"""Random nulls drawn until their mean is known to 0.002, the crowding null, and the agreement of
activations that unrelated dictionaries reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from husai.errors import HusaiError
from husai.stability.assignment import hungarian
from husai.stability.functional import pearson
from husai.stability.nulls.crowding import activation_span, crowding_decoder
from husai.stability.nulls.dictionaries import NullResult, null_decoders, null_of
from husai.stability.reconstruction import row_batches
from husai.stability.similarity import pairwise, pwmcc
from husai.statistics.nulls import FEWEST, TARGET_ERROR, null_mean

FIRST_DRAWS = 16
"""Draws before the error is looked at: with fewer it is itself off by a fifth."""
MOST_DRAWS = 1024
"""Enough for 0.002 down to about 12 latents; narrower nulls say that they did not reach it."""
DRAW_SEED = 100_000
"""First generator seed of the further draws, far from the seeds 1000, 1001, ... of the pairs."""
AGREEMENT_DRAWS = (4, 32)
"""Fewest and most pairs of random SAEs whose activations are compared. Each costs two encodings
and a matching; at 1024 latents four are known to 0.002."""
OUTSIDE = 1e-6
"""Share of its length within the span below which a row lies outside it: float32 rounding."""
CALIBRATION_ROWS = 1024
"""Rows on which the threshold of a random SAE is set so that its L0 is the wanted one."""
NULL_VALUES = 2**26
"""Most values of one code, 256 MB: a wider SAE is compared on fewer rows, 1024 at least."""
NULL_ROWS = 8192
"""Most rows on which random SAEs are compared: their mean correlation over all latents is known
far better than the mean over dictionaries."""


def drawn(
    pair: Callable[[int], float], first: int = FIRST_DRAWS, most: int = MOST_DRAWS
) -> tuple[float, ...]:
    """``pair(0), pair(1), ...``, as many as bring the standard error of their mean below
    :data:`~husai.statistics.nulls.TARGET_ERROR`, doubled each time it is not; ``most`` at most.
    """
    values = [pair(t) for t in range(min(first, most))]
    while len(values) < most and not null_mean((), values).error < TARGET_ERROR:
        values += [pair(t) for t in range(len(values), min(2 * len(values), most))]
    return tuple(values)


def with_draws(null: NullResult, pair: Callable[[int], float]) -> NullResult:
    """A null with further draws ``pair(t)`` where its own pairs do not give its mean to 0.002."""
    known = null_mean(null.pairs)
    if known.units >= FEWEST and known.error < TARGET_ERROR:
        return null
    draws = drawn(pair)
    return null._replace(mean=null_mean((), draws).value, draws=draws)


def random_null(null: NullResult, sizes: Sequence[int], d_in: int, covariance=None, device=None):
    """:func:`with_draws` of a ``gaussian`` or ``covariance`` null of ``sizes`` rows."""

    def pair(t: int) -> float:
        shapes = [sizes[t % len(sizes)], sizes[(t + 1) % len(sizes)]]
        seeds = [DRAW_SEED + 2 * t, DRAW_SEED + 2 * t + 1]
        return pwmcc(*null_decoders(null.kind, d_in, shapes, seeds, covariance), device=device)

    return with_draws(null, pair)


def crowding_null(
    decoders: Sequence[torch.Tensor],
    alive: Sequence[torch.Tensor],
    covariance: torch.Tensor,
    device=None,
) -> NullResult:
    """PWMCC of the dictionaries ``(d_sae, d_in)`` after a random rotation of each within the span
    of activations of that ``covariance (d_in, d_in)``: as crowded, and otherwise unrelated.

    What a row has outside the span is left out. Further draws, where they are needed, turn
    dictionary ``t mod n`` and leave the next as it is.

    Raises
    ------
    HusaiError
        A dictionary of which no living row reaches into the span.
    """
    span = activation_span(covariance.cpu())
    inside = [_within(d, a, span, i) for i, (d, a) in enumerate(zip(decoders, alive, strict=True))]
    turned = [crowding_decoder(rows, DRAW_SEED + i) for i, rows in enumerate(inside)]
    null = null_of(pairwise(turned, None, device), "crowding")

    def pair(t: int) -> float:
        one, other = inside[t % len(inside)], inside[(t + 1) % len(inside)]
        return pwmcc(crowding_decoder(one, 2 * DRAW_SEED + t), other, device=device)

    return with_draws(null, pair)


def _within(decoder: torch.Tensor, alive: torch.Tensor, span: torch.Tensor, i: int) -> torch.Tensor:
    """Coordinates ``(n, rank)`` within the span of the living rows that reach into it."""
    rows = decoder[alive.to(decoder.device)]
    flat = rows @ span.to(rows.device, rows.dtype)
    length = torch.linalg.vector_norm(rows, dim=1)
    found = flat[torch.linalg.vector_norm(flat, dim=1) > OUTSIDE * length]
    if not len(found):
        raise HusaiError(
            f"crowding null: no living row of dictionary {i} reaches into the span of the "
            "activations; are these the activations of its hook?"
        )
    return found


def agreement_null(
    saes: Sequence, rows, l0: Sequence[float], covariance, device=None
) -> NullResult:
    """Mean Pearson r of matched latents of SAEs whose decoders are drawn from the activation
    covariance: what the encoder rule and the number of active latents give alone.

    Such an SAE reads with its own decoder rows (encoder = decoder transposed) after the mean of the
    rows is subtracted, chooses by the rule of the SAE it stands for (TopK; ReLU; a jump at a
    threshold), and has as many latents active per row (``l0``, a mean per SAE). Dead latents are
    left out, as for trained SAEs. Rows are ``(n, d_in)``, the covariance is theirs.
    """
    device = saes[0].W_dec.device if device is None else torch.device(device)
    widest = max(s.W_dec.shape[0] for s in saes)
    n = min(len(rows), NULL_ROWS, max(CALIBRATION_ROWS, NULL_VALUES // widest))
    held = torch.cat(list(row_batches(rows, n, device))).float()
    mean = held.double().mean(0).float()

    def pair(t: int) -> float:
        of = [(t + side) % len(saes) for side in (0, 1)]
        seeds = [DRAW_SEED + 2 * t + side for side in (0, 1)]
        sizes = [saes[i].W_dec.shape[0] for i in of]
        decoders = null_decoders("covariance", held.shape[1], sizes, seeds, covariance)
        made = [
            random_sae(saes[i], decoder.to(device), held[:CALIBRATION_ROWS], mean, l0[i])
            for i, decoder in zip(of, decoders, strict=True)
        ]
        codes = [sae.encode(held) for sae in made]
        alive = [(z > 0).any(0).cpu() for z in codes]
        match = hungarian(made[0].W_dec, made[1].W_dec, *alive, device)
        a, b = (z[:, index.to(device)] for z, index in zip(codes, match[:2], strict=True))
        return float(correlations(a, b).mean())

    draws = drawn(pair, *AGREEMENT_DRAWS)
    spread = float(torch.tensor(draws, dtype=torch.float64).std())
    return NullResult(null_mean((), draws).value, spread, draws, "covariance", draws)


def correlations(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson r of each column of two codes ``(n, m)``: ``(m,)`` float64, 0 where one is
    constant."""
    sums = [z.sum(0, dtype=torch.float64) for z in (a, b)]
    squares = [(z * z).sum(0, dtype=torch.float64) for z in (a, b)]
    return pearson(len(a), *sums, *squares, (a * b).sum(0, dtype=torch.float64))


class RandomSAE(NamedTuple):
    """An SAE nobody trained: reads with its own decoder rows, has the encoder rule of another."""

    W_dec: torch.Tensor
    """``(d_sae, d_in)``, rows of length one."""
    mean: torch.Tensor
    """Subtracted from the rows, ``(d_in,)``."""
    k: int | None
    """Latents kept per row; None for a threshold."""
    level: float
    """What a pre-activation must exceed to be on."""
    shifted: bool
    """Whether the level is taken off the code (ReLU) or not (a jump)."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code ``(B, d_sae)`` of rows ``(B, d_in)``."""
        pre = (x - self.mean) @ self.W_dec.T
        if self.k is not None:
            values, indices = pre.topk(self.k, dim=-1, sorted=False)
            return torch.zeros_like(pre).scatter_(-1, indices, values.relu_())
        return (pre - self.level).relu() if self.shifted else pre.relu() * (pre > self.level)


def random_sae(
    like, decoder: torch.Tensor, rows: torch.Tensor, mean: torch.Tensor, l0: float
) -> RandomSAE:
    """A :class:`RandomSAE` with the rows of ``decoder (d_sae, d_in)``, the encoder rule of ``like``
    and about ``l0`` active latents on ``rows``.
    """
    W = torch.nn.functional.normalize(decoder.float(), dim=1)
    if like.k is not None and like.threshold is None:
        return RandomSAE(W, mean, min(len(W), max(1, round(l0))), 0.0, False)
    pre = ((rows - mean) @ W.T).flatten()
    place = min(max(math.ceil(pre.numel() * (1 - l0 / len(W))), 1), pre.numel())
    level = float(pre.kthvalue(place).values)
    if like.threshold is not None:
        return RandomSAE(W, mean, None, max(level, 0.0), False)
    return RandomSAE(W, mean, None, level, True)

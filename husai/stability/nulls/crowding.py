"""The ``crowding`` null: a dictionary turned at random within the span of the activations. It is as
crowded as the dictionary itself and otherwise unrelated to it."""

from __future__ import annotations

import torch

from husai.errors import HusaiError
from husai.stability.rows import matrix_of

SMALLEST_SHARE = 1e-6
"""Directions in which the activations have a smaller share of their largest variance count as
outside their span: float32 activations carry no more."""


def activation_span(covariance: torch.Tensor) -> torch.Tensor:
    """Orthonormal basis ``(d_in, rank)``, float64, of the directions in which activations of that
    ``covariance (d_in, d_in)`` vary.

    Raises
    ------
    HusaiError
        The activations do not vary.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    if float(values.max()) <= 0:
        raise HusaiError("crowding null: the activations do not vary, so they span nothing")
    return vectors[:, values > SMALLEST_SHARE * values.max()]


def random_rotation(dimensions: int, seed: int) -> torch.Tensor:
    """Orthogonal matrix ``(dimensions, dimensions)``, float64, uniform (Haar) by seed.

    QR of a normal matrix with the signs of R's diagonal moved into Q (Mezzadri 2007, "How to
    generate random matrices from the classical compact groups", Notices of the AMS 54)."""
    generator = torch.Generator().manual_seed(int(seed))
    normal = torch.randn((dimensions, dimensions), generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    return q * r.diagonal().sign()


def random_turn(d_in: int, seed: int, span: torch.Tensor | None = None) -> torch.Tensor:
    """Matrix ``(d_in, d_in)``, float64, that turns rows at random within ``span`` and leaves out
    what they have outside it. The span is ``(d_in, rank)``; None is the whole space.

    Raises
    ------
    HusaiError
        A span of another width.
    """
    if span is None:
        return random_rotation(d_in, seed)
    if span.shape[0] != d_in:
        raise HusaiError(
            f"crowding null: the span lies in {span.shape[0]} dimensions, the decoder in {d_in}"
        )
    basis = span.cpu().double()
    return basis @ random_rotation(basis.shape[1], seed) @ basis.T


def crowding_decoder(
    decoder: torch.Tensor, seed: int, span: torch.Tensor | None = None
) -> torch.Tensor:
    """``decoder (d_sae, d_in)`` turned by :func:`random_turn`, in its own order of rows.

    Any fixed direction of the span is as close to the result as any other, in distribution.
    """
    decoder = matrix_of(decoder, "decoder")
    return decoder @ random_turn(decoder.shape[1], seed, span).to(decoder.device, decoder.dtype)

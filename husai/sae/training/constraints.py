"""What a recipe holds about the weights themselves: an encoder aligned with its decoder, a decoder
that stays near its start.
"""

from __future__ import annotations

import math

import torch

Parameters = dict[str, torch.Tensor]


def align(p: Parameters) -> None:
    """Make the inner product of each latent's encoder and decoder 1, in place (2605.18629).

    An encoder row e is moved along its unit decoder row d, the nearest way: ``e + (1 - e.d) d``.
    """
    short = 1.0 - (p["W_enc"] * p["W_dec"]).sum(-1, keepdim=True)
    p["W_enc"].addcmul_(short, p["W_dec"])


def align_gradients(p: Parameters, found: Parameters) -> None:
    """Gradients of the loss with each encoder row written as ``u + (1 - u.d) d``, at u = e, in
    place.

    The encoder's has no part along d, and the decoder's counts that the encoder turns with it:
    ``g_e - (g_e.d) d`` and ``g_d - (g_e.d) e``.
    """
    along = (found["W_enc"] * p["W_dec"]).sum(-1, keepdim=True)
    found["W_enc"].addcmul_(along, p["W_dec"], value=-1.0)
    if "W_dec" in found:
        found["W_dec"].addcmul_(along, p["W_enc"], value=-1.0)


def keep_near(W_dec: torch.Tensor, start: torch.Tensor, cosine: float) -> None:
    """Turn unit decoder rows (S, d_sae, d_out) that are further than ``cosine`` from their start
    back to it, in place: onto the nearest unit vector at that cosine (2602.14111).
    """
    along = (W_dec * start).sum(-1, keepdim=True)
    across = torch.nn.functional.normalize(W_dec - along * start, dim=-1)
    edge = cosine * start + math.sqrt(1.0 - cosine**2) * across
    W_dec.copy_(torch.where(along < cosine, edge, W_dec))

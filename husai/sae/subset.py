"""An SAE with some of its latents only."""

from __future__ import annotations

import torch

from husai.errors import HusaiError
from husai.recipe import READ_ONLY
from husai.sae.architectures import SAE, TOP_K


def subset(sae: SAE, latents: torch.Tensor, l0: float | None = None) -> SAE:
    """The SAE whose latents are ``latents`` of ``sae``, in that order; biases are kept.

    A latent under a threshold of its own (ReLU, JumpReLU, BatchTopK) fires exactly as before. TopK
    lets latents compete, so with fewer of them its k must change too: the latents kept fire about
    as often as before when k is ``l0``, the number of them that were active per row, rounded to 1
    or more. Without it k stays, at most n; ``latents`` is ``(n,)``.

    Raises
    ------
    HusaiError
        No latent is left, or the encoder is one that is only read here.
    """
    if not len(latents):
        raise HusaiError("no latent is left; there is no SAE to write")
    if sae.architecture in READ_ONLY:
        raise HusaiError(f"a {sae.architecture} SAE cannot be cut: its encoder is only read here")
    k = sae.k
    if sae.architecture in TOP_K:
        k = min(len(latents), sae.k if l0 is None else max(1, round(l0)))
    return sae.replaced(
        W_enc=sae.W_enc[:, latents].contiguous(),
        W_dec=sae.W_dec[latents].contiguous(),
        b_enc=sae.b_enc[latents],
        threshold=None if sae.threshold is None else sae.threshold[latents],
        k=k,
    )

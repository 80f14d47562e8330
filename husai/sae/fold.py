"""Decoder norms folded into the encoder: the same function written with decoder rows of length one,
as other software runs an SAE.
"""

from __future__ import annotations

import torch

from husai.recipe import READ_ONLY
from husai.sae.architectures import SAE, THRESHOLDED, TOP_K

ROUNDING = 1e-6
"""A decoder row this near to length one has it already: folding would only round its numbers."""


def decoder_norms(sae) -> torch.Tensor:
    """Lengths of the decoder rows ``(d_sae,)``, in the dtype and on the device of the weights.

    Exactly 1 where a row has length one within :data:`ROUNDING`. A latent that writes nothing has
    norm 0: whatever its code is, it does nothing."""
    norms = torch.linalg.vector_norm(sae.W_dec.detach(), dim=1, dtype=torch.float64)
    norms = torch.where((norms - 1).abs() <= ROUNDING, torch.ones_like(norms), norms)
    return norms.to(sae.W_dec.dtype)


def fold_norms(sae: SAE) -> SAE:
    """The same function in float32 with decoder rows of length one; codes grow by the norms.

    Exact for every architecture. Thresholds of JumpReLU and BatchTopK grow with their latent. TopK
    goes on choosing by the pre-activations of its own file, and what is chosen is then scaled: with
    unequal norms that is no plain TopK SAE any more, but one with a rule of its own
    (:class:`FoldedTopK`), as are AbsTopK and matching pursuit. A latent whose decoder row is zero
    never fires afterwards, except that TopK still spends a place on it, as its file does. The same
    object comes back where there is nothing to do.
    """
    if sae.dtype != torch.float32:
        sae = sae.to(dtype=torch.float32)
    norms = decoder_norms(sae)
    if bool((norms == 1).all()):
        return sae
    W_dec = sae.W_dec / torch.where(norms > 0, norms, 1.0).unsqueeze(1)
    folded = sae.replaced(W_enc=sae.W_enc * norms, W_dec=W_dec, b_enc=sae.b_enc * norms)
    if sae.architecture in (*TOP_K, *READ_ONLY):
        return FoldedTopK(folded, sae, norms)
    if sae.architecture in THRESHOLDED:
        folded = folded.replaced(threshold=sae.threshold * norms)
    return folded


def fold_for_file(sae: SAE) -> SAE:
    """:func:`fold_norms` where a file of plain weights can hold the result. TopK with unequal norms
    stays as it is, in float32: no format says which latents to choose by other numbers.
    """
    folded = fold_norms(sae)
    return folded.own if isinstance(folded, FoldedTopK) else folded


class FoldedTopK(SAE):
    """TopK with folded norms: chooses by the pre-activations of the SAE that it was made of."""

    def __init__(self, folded: SAE, own: SAE, norms: torch.Tensor):
        vars(self).update(vars(folded), own=own, norms=norms)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code of shape ``(..., d_sae)`` of inputs ``(..., d_in)``, in units of folded latents."""
        return self.own.encode(x) * self.norms

    def to(self, device=None, dtype=None) -> FoldedTopK:
        """The same SAE on another device or in another number format."""
        norms = self.norms.to(device=device, dtype=dtype)
        return FoldedTopK(super().to(device, dtype), self.own.to(device, dtype), norms)

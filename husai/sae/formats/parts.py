"""The weights of an SAE on their way from a file: what lies beside them (a scale, a whitening,
norms of the decoder) is folded in, so that the SAE reads activations as they are.

Every fold is exact: the function of the raw activations stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from husai.errors import HusaiError
from husai.sae.architectures import SAE


@dataclass(frozen=True)
class Parts:
    """Weights and rule of one SAE; see :class:`husai.sae.SAE` for shapes and meaning."""

    architecture: str
    W_enc: torch.Tensor
    W_dec: torch.Tensor
    b_enc: torch.Tensor
    b_dec: torch.Tensor
    threshold: torch.Tensor | None = None
    k: int | None = None
    centred: bool = True
    """``b_dec`` is subtracted from the input."""
    transcodes: bool = False
    """What is reconstructed is not the input."""

    def scaled(self, factor: float) -> Parts:
        """The SAE of ``x`` when this one reads, and reconstructs, ``factor * x``."""
        W_dec, b_dec = self.W_dec / factor, self.b_dec / factor
        return replace(self, W_enc=self.W_enc * factor, W_dec=W_dec, b_dec=b_dec)

    def whitened(self, mean: torch.Tensor, matrix: torch.Tensor, inverse: torch.Tensor) -> Parts:
        """The SAE of ``x`` when this one reads ``(x - mean) @ matrix``, and its output ``y`` means
        ``y @ inverse + mean``; ``mean`` is ``(d_in,)``, ``matrix`` and ``inverse`` are
        ``(d_in, d_in)``.
        """
        W_enc = matrix @ self.W_enc
        return replace(
            self,
            W_enc=W_enc,
            b_enc=self.b_enc if self.centred else self.b_enc - mean @ W_enc,
            W_dec=self.W_dec @ inverse,
            b_dec=self.b_dec @ inverse + mean,
        )

    def unit_decoder(self) -> Parts:
        """The same SAE with decoder rows of length one and their norms moved into the code.

        A threshold is left alone: it is given for the code so scaled."""
        norms = self.W_dec.norm(dim=1)
        W_dec = self.W_dec / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]
        return replace(self, W_enc=self.W_enc * norms, b_enc=self.b_enc * norms, W_dec=W_dec)

    def sae(self, cfg: dict[str, Any]) -> SAE:
        """The SAE, with ``cfg`` as its notes."""
        *rule, centred, transcodes = vars(self).values()
        return SAE(*rule, cfg, centred, transcodes)


def gated(
    W_enc: torch.Tensor,
    W_dec: torch.Tensor,
    r_mag: torch.Tensor,
    b_gate: torch.Tensor,
    b_mag: torch.Tensor,
    b_dec: torch.Tensor,
    centred: bool,
) -> Parts:
    """A gated SAE with tied encoders as the JumpReLU SAE it equals (Rajamanoharan et al.
    2404.16014).

    ``1[p + b_gate > 0] relu(e^r p + b_mag)`` with ``p`` the shared pre-activation is JumpReLU of
    ``e^r p + b_mag`` at threshold ``b_mag - e^r b_gate``.

    ``W_enc`` is ``(d_in, d_sae)``, ``W_dec`` ``(d_sae, d_in)`` and ``b_dec`` ``(d_in,)``;
    ``r_mag``, ``b_gate`` and ``b_mag`` are ``(d_sae,)``.
    """
    scale = r_mag.exp()
    threshold = (b_mag - scale * b_gate).clamp_min(0)
    return Parts("jumprelu", W_enc * scale, W_dec, b_mag, b_dec, threshold, centred=centred)


def check_sizes(sae: SAE, d_in: Any, d_sae: Any, where: str, keys: str) -> SAE:
    """``sae`` when its sizes are those the settings name; None names none.

    Raises
    ------
    HusaiError
        Its ``d_in`` or ``d_sae`` is another.
    """
    for name, have, want in (("d_in", sae.d_in, d_in), ("d_sae", sae.d_sae, d_sae)):
        if want is not None and have != int(want):
            raise HusaiError(
                f"{where}: the tensors give {name} = {have} but {keys} say {want}; settings and "
                "weights do not belong together"
            )
    return sae

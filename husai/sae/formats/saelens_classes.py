"""SAEs without a closed form here, computed by SAELens' own classes, which are imported only when
such an SAE is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from husai.errors import HusaiError
from husai.sae.architectures import SAE


class SAELensSAE(SAE):
    """An :class:`husai.sae.SAE` whose code is computed by ``inner``, an SAE of SAELens with a
    row-wise ``encode`` and a ``decode`` that is linear in the code.
    """

    def __init__(self, inner: Any, cfg: dict[str, Any]):
        self.inner = inner.to(dtype=torch.float32).requires_grad_(False)
        W_dec, bias = inner.W_dec, inner.b_dec
        super().__init__(
            inner.cfg.architecture(),
            W_dec.T,
            W_dec,
            W_dec.new_zeros(len(W_dec)),
            bias if inner.cfg.apply_b_dec_to_input else torch.zeros_like(bias),
            cfg=cfg,
            apply_b_dec_to_input=inner.cfg.apply_b_dec_to_input,
        )

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code of shape ``(..., d_sae)``, float32, of inputs ``(..., d_in)``."""
        with torch.no_grad():
            return self.inner.encode(x.to(self.dtype))

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> SAELensSAE:
        """The same SAE with its weights elsewhere; the number format stays float32."""
        if device is not None:
            self.inner.to(device=torch.device(device))
        return SAELensSAE(self.inner, self.cfg)

    def own_tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors under SAELens' names, in float32 and each of the shape that its class gives
        it: ``W_dec (d_sae, d_in)`` and ``b_dec (d_in,)`` are among them.
        """
        return dict(self.inner.state_dict())

    def own_settings(self) -> dict[str, Any]:
        """Its settings under SAELens' names."""
        return {k: v for k, v in self.inner.cfg.to_dict().items() if k != "metadata"}


def read_with_saelens(directory: Path, notes: dict[str, Any]) -> SAELensSAE:
    """The SAE in ``directory`` as SAELens loads it."""
    return SAELensSAE(saelens().SAE.load_from_disk(directory), {**notes, "format": "saelens"})


def saelens() -> Any:
    """The SAELens package.

    Raises
    ------
    HusaiError
        It is not installed.
    """
    try:
        import sae_lens
    except ImportError:
        raise HusaiError(
            "this SAE needs SAELens, which is not installed; pip install 'husai[formats]'"
        ) from None
    return sae_lens

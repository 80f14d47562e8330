"""What probes read: of each row the mean of its tokens' activations, or of their codes; and which
columns of it are best for a probe.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from husai.errors import HusaiError, RecipeFailed
from husai.sae.pooled import pooled


class ProbeData(NamedTuple):
    """Activations and labels of one data set at one hook. Of each row the tokens that count are
    kept: the last one, or all that SAEs are trained on.
    """

    name: str
    family: str
    tokens: torch.Tensor
    """``(n_tokens, d)``, in file order, in any number format."""
    offsets: torch.Tensor
    """int64 ``(n_rows + 1,)``: row i has tokens ``offsets[i]:offsets[i + 1]``, at least one."""
    y: np.ndarray
    """``(n_rows,)`` labels 0/1."""

    def activations(self) -> torch.Tensor:
        """Mean activations of each row, ``(n_rows, d)`` float32: what the baselines read."""
        return pooled(lambda x: x, self.tokens, self.offsets, self.tokens.shape[1])


@torch.inference_mode()
def codes_of(sae, data: ProbeData, device: str | torch.device = "cpu") -> torch.Tensor:
    """Mean codes of each row, ``(n_rows, d_sae)`` float32 on ``device``.

    Raises
    ------
    HusaiError
        The activations have another width than the SAE reads.
    RecipeFailed
        Codes that are not finite.
    """
    if data.tokens.shape[1] != sae.d_in:
        raise HusaiError(
            f"data set '{data.name}': activations have d = {data.tokens.shape[1]} but the SAE has "
            f"d_in = {sae.d_in}; probe the hook the SAE was trained on"
        )
    codes = pooled(sae.encode, data.tokens, data.offsets, sae.d_sae, device)
    if not torch.isfinite(codes.sum(dtype=torch.float64)):  # anything not finite makes it so
        raise RecipeFailed(
            f"data set '{data.name}': the SAE's code has NaN or infinite values; check the "
            "checkpoint and the activations"
        )
    return codes


def rank_columns(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Columns of ``z (n_rows, m)`` by |difference of class means| of mean-normalised values,
    largest first.

    The arithmetic, including the two 1e-6 terms, is that of ``mean_act_normalization`` and
    ``get_sorted_indices`` in sae-probes, from sums over rows instead of every value. Columns that
    are equally good but for rounding may come in another order than there.

    Parameters
    ----------
    y : Tensor, ``(n_rows,)`` labels 0/1
    """
    sums = torch.stack([y == 0, y == 1]).to(z.dtype) @ z
    scale = z.abs().sum(0).double() / ((z != 0).sum(0).double() + 1e-6) + 1e-6
    means = sums.double() / torch.bincount(y, minlength=2).unsqueeze(1) / scale
    return (means[1] - means[0]).abs().argsort(descending=True, stable=True)

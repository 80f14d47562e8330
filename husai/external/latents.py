"""What a probe reads: the code of an SAE, raw dimensions, or principal components, with the few columns it needs computed cheaply."""

from __future__ import annotations

import torch

from husai.errors import HusaiError

CHUNK_ROWS = 1024
CANDIDATES = 32


class SAEEncoder:
    """Latents of an SAE; ``columns`` computes chosen latents without building the whole code where the architecture allows."""

    def __init__(self, sae):
        self.sae, self.d_in = sae, sae.d_in

    @torch.inference_mode()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code ``(n, d_sae)`` float32 of ``x (n, d_in)``."""
        return (
            torch.cat([self.sae.encode(rows).float() for rows in x.split(CHUNK_ROWS)])
            if len(x) > CHUNK_ROWS
            else self.sae.encode(x).float()
        )

    @torch.inference_mode()
    def columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Columns ``latents`` of the code of ``x``, ``(n, len(latents))``."""
        architecture = getattr(self.sae, "architecture", None)
        if architecture in ("topk", "transcoder"):
            return torch.cat([self._top_k_columns(rows, latents) for rows in x.split(CHUNK_ROWS)])
        if architecture in ("relu", "jumprelu", "batchtopk"):
            return self._columns_alone(x, latents)
        return torch.cat([self.sae.encode(rows)[:, latents].float() for rows in x.split(CHUNK_ROWS)])

    def _top_k_columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        from husai.sae.kernels import top_k

        pre = self.sae.pre_activations(x)
        smallest = top_k(pre, self.sae.k)[0].amin(1, keepdim=True)
        chosen = pre[:, latents]
        return torch.where(chosen >= smallest, chosen.relu(), 0.0).float()

    def _columns_alone(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        sae = self.sae
        x = x.to(sae.W_enc.dtype)
        x = x - sae.b_dec if sae.apply_b_dec_to_input else x
        pre = x @ sae.W_enc[:, latents] + sae.b_enc[latents]
        if sae.threshold is not None:
            return (pre.relu() * (pre > sae.threshold[latents])).float()
        return pre.relu().float()


class Neurons:
    """The raw dimensions themselves: the top-k-neurons baseline."""

    def __init__(self, d_in: int):
        self.d_in = d_in

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` itself."""
        return x.float()

    def columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Chosen dimensions of ``x``."""
        return x[:, latents].float()


def rank_latents(z: torch.Tensor, y: torch.Tensor, n: int | None = None) -> torch.Tensor:
    """The ``n`` best latents (all by default) by |difference of class means| of mean-normalised activations, best first.

    The arithmetic, including the two 1e-6 terms, is that of ``mean_act_normalization`` and ``get_sorted_indices`` in sae-probes. Asked for
    few of many latents, sums over rows find the candidates and only those are ranked by that arithmetic.

    Parameters
    ----------
    z : Tensor, ``(n_rows, d_sae)`` float32
    y : Tensor, ``(n_rows,)``
    """
    n = z.shape[1] if n is None else min(n, z.shape[1])
    membership = torch.stack([y == 0, y == 1]).to(z.dtype)
    sums = membership @ z
    if not torch.isfinite(sums).all():
        raise HusaiError("probing: the SAE's code has NaN or infinite values; check the checkpoint and the activations")
    if z.shape[1] <= n + CANDIDATES:
        return _rank_exactly(z, y)[:n]
    means = z.abs().sum(0) / ((z != 0).sum(0) + 1e-6) + 1e-6
    rates = sums / membership.sum(1, keepdim=True) / means
    likely = (rates[1] - rates[0]).abs().topk(n + CANDIDATES).indices.sort().values
    return likely[_rank_exactly(z[:, likely], y)[:n]]


def _rank_exactly(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    means = z.abs().sum(0) / ((z != 0).sum(0) + 1e-6)
    normalised = z / (means + 1e-6)
    difference = normalised[y == 1].mean(0) - normalised[y == 0].mean(0)
    return torch.argsort(difference.abs(), descending=True)

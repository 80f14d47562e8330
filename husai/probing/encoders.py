"""What a probe reads: the code of an SAE, raw dimensions, or principal components, with the few
columns it needs computed cheaply.
"""

from __future__ import annotations

import torch

from husai.errors import RecipeFailed
from husai.probing import codes, screening
from husai.sae.architectures import TOP_K

CHUNK_ROWS = 128  # sae-probes' batch
MARGIN = 1.0e-3
TIE = 1.0e-5
CANDIDATES = 32
NOT_FINITE = (
    "probing: the SAE's code has NaN or infinite values; check the checkpoint and the activations"
)


class SAEEncoder:
    """Latents of an SAE; only the columns a probe needs are built where the architecture allows it.

    ``best_is_official`` says whether the columns that ``best`` gives are those of the whole
    product, and so the official ones to the last bit."""

    def __init__(self, sae):
        self.sae, self.d_in = sae, sae.d_in
        self.architecture = getattr(sae, "architecture", None)
        self._screen = (
            screening.Screen(sae) if self.architecture in TOP_K and screening.applies(sae) else None
        )
        self.best_is_official = self.architecture in TOP_K and self._screen is None

    @torch.inference_mode()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code ``(n, d_sae)`` float32 of ``x (n, d_in)``."""
        return torch.cat([self.sae.encode(rows).float() for rows in x.split(CHUNK_ROWS)])

    @torch.inference_mode()
    def best(self, x: torch.Tensor, y: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``n`` best latents for labels ``y`` (see :func:`rank_latents`) and their columns of
        the code, ``(n_rows, n)``.
        """
        if self.architecture is not None and self.sae.d_sae > n + CANDIDATES:
            likely, columns = None, None
            if codes.applies(self.sae, x):
                likely, columns = self._likely_by_kernels(x, y, n)
            elif self.architecture in TOP_K:
                likely, columns = self._likely_of_top_k(x, y, n)
            z = None if likely is None else columns(likely)
            order = None if z is None else _clear_order(z, y, n)
            if order is not None:
                return likely[order], z[:, order]
        z = self.encode(x)
        latents = rank_latents(z, y, n)
        return latents, z[:, latents]

    def _likely_by_kernels(self, x: torch.Tensor, y: torch.Tensor, n: int):
        code = None if self._screen is None else self._screen.class_sums(x, y)
        code = codes.ClassSums(self.sae, x, y) if code is None else code
        if not torch.isfinite(code.sums).all():
            raise RecipeFailed(NOT_FINITE)
        return _likely(code.sums, code.sums.sum(0), code.fired, y, n), code.columns

    def _likely_of_top_k(self, x: torch.Tensor, y: torch.Tensor, n: int):
        parts = [self._top_k(rows) for rows in x.split(CHUNK_ROWS)]
        pre, values, indices = (torch.cat(p) for p in zip(*parts, strict=True))
        likely = _likely_from_code(values.float().relu(), indices, y, self.sae.d_sae, n)
        return likely, lambda latents: _kept(pre[:, latents], values)

    @torch.inference_mode()
    def columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Columns ``latents`` of the code of ``x``, ``(n, len(latents))``."""
        if self.architecture in TOP_K:
            if codes.applies(self.sae, x):
                found = None if self._screen is None else self._screen.columns(x, latents)
                return codes.top_k_columns(self.sae, x, latents) if found is None else found
            parts = [
                (pre[:, latents], values)
                for pre, values, _ in map(self._top_k, x.split(CHUNK_ROWS))
            ]
            return torch.cat([_kept(*part) for part in parts])
        if self.architecture in codes.ONE_BY_ONE:
            return codes.threshold_columns(self.sae, x, latents)
        return self.official_columns(x, latents)

    @torch.inference_mode()
    def official_columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The same to the last bit of what sae-probes reads, at the price of the whole product."""
        if codes.applies(self.sae, x):
            return codes.product_columns(self.sae, x, latents)
        return torch.cat(
            [self.sae.encode(rows)[:, latents].float() for rows in x.split(CHUNK_ROWS)]
        )

    def _top_k(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        from husai.sae.kernels import top_k

        pre = self.sae.pre_activations(x)
        return pre, *top_k(pre, self.sae.k)


def _kept(pre: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Code of some latents from their pre-activations and the row's k largest."""
    return torch.where(pre >= top.amin(1, keepdim=True), pre.relu(), 0.0).float()


class Neurons:
    """The raw dimensions themselves: the top-k-neurons baseline."""

    best_is_official = True

    def __init__(self, d_in: int):
        self.d_in = d_in

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` itself."""
        return x.float()

    def best(self, x: torch.Tensor, y: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``n`` best dimensions for labels ``y`` and their columns."""
        latents = rank_latents(x.float(), y, n)
        return latents, x[:, latents].float()

    def columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Chosen dimensions of ``x``."""
        return x[:, latents].float()

    official_columns = columns


def rank_latents(z: torch.Tensor, y: torch.Tensor, n: int | None = None) -> torch.Tensor:
    """The ``n`` best latents (all by default) by |difference of class means| of mean-normalised
    activations, best first.

    The arithmetic, including the two 1e-6 terms, is that of ``mean_act_normalization`` and
    ``get_sorted_indices`` in sae-probes. Asked for few of many latents, sums over rows find the
    candidates and only those are ranked by that arithmetic, unless rounding could decide.

    Parameters
    ----------
    z : Tensor, ``(n_rows, d_sae)`` float32
    y : Tensor, ``(n_rows,)``
    """
    n = z.shape[1] if n is None else min(n, z.shape[1])
    if not torch.isfinite(z.sum(0)).all():
        raise RecipeFailed(NOT_FINITE)
    if z.shape[1] <= n + CANDIDATES:
        return _rank_exactly(z, y)[:n]
    likely = _likely(
        torch.stack([y == 0, y == 1]).to(z.dtype) @ z, z.abs().sum(0), (z != 0).sum(0), y, n
    )
    order = None if likely is None else _clear_order(z[:, likely], y, n)
    return _rank_exactly(z, y)[:n] if order is None else likely[order]


def _likely(
    sums: torch.Tensor, total: torch.Tensor, fired: torch.Tensor, y: torch.Tensor, n: int
) -> torch.Tensor | None:
    """Sorted latents among which the ``n`` best are, by class sums ``(2, d_sae)``; None where too
    many are nearly as good to tell.
    """
    rows = torch.stack([(y == 0).sum(), (y == 1).sum()]).unsqueeze(1)
    rates = sums / rows / (total / (fired + 1e-6) + 1e-6)
    best = (rates[1] - rates[0]).abs().topk(n + CANDIDATES)
    if best.values[-1] >= (1 - MARGIN) * best.values[n - 1]:
        return None
    return best.indices.sort().values


def _likely_from_code(
    values: torch.Tensor, indices: torch.Tensor, y: torch.Tensor, d_sae: int, n: int
) -> torch.Tensor | None:
    """:func:`_likely` from a non-negative sparse code ``(n_rows, k)``, without its dense form."""
    if not torch.isfinite(values).all():
        raise RecipeFailed(NOT_FINITE)
    cell = (indices + d_sae * y.unsqueeze(1)).flatten()
    sums = torch.bincount(cell, values.flatten(), 2 * d_sae).view(2, d_sae)
    fired = torch.bincount(indices.flatten(), (values > 0).flatten().to(values.dtype), d_sae)
    return _likely(sums, sums.sum(0), fired, y, n)


def _clear_order(z: torch.Tensor, y: torch.Tensor, n: int) -> torch.Tensor | None:
    """Positions of the ``n`` best columns, best first; None where two follow each other so closely
    that the last bit of a sum decides, which depends on how many columns are summed together."""
    found = _differences(z, y)
    best = found.topk(n + 1)
    close = best.values[:-1] - best.values[1:] <= TIE * best.values[:-1]
    return None if bool(close.any()) else best.indices[:n]


def _rank_exactly(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.argsort(_differences(z, y), descending=True)


def _differences(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """|Difference of class means| of each mean-normalised column, by the arithmetic of
    sae-probes.
    """
    means = z.abs().sum(0) / ((z != 0).sum(0) + 1e-6)
    normalised = z / (means + 1e-6)
    return (normalised[y == 1].mean(0) - normalised[y == 0].mean(0)).abs()

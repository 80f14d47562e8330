"""Loss and hand-written gradients of every architecture, for all members at once; no autograd on
the training path.

With rows x, unit decoder rows w_i, and everything in normalised units (see
:mod:`husai.sae.training.initialise`), the loss of a member is

``L = (1 / d_out) * [ mean_b ||x_hat - y||^2 + c * mean_b sparsity(x_b) ]``,

so the first part is close to the fraction of variance unexplained. ``sparsity`` is 0 for the TopK
family, ``sum_i z_i ||w_i||`` for ReLU and the number of active latents for JumpReLU; c is the
recipe's ``sparsity_coefficient`` (the unit of the papers, where errors are summed).

- ``topk``: the k largest pre-activations of a row, then ReLU (Gao et al. 2406.04093, eq. 2); AuxK
  is in :mod:`husai.sae.training.objectives`.
- ``batchtopk``: the k*B largest of a batch (Bussmann et al. 2412.06410, eq. 3).
- ``matryoshka``: BatchTopK whose error is summed over the reconstructions by nested prefixes of the
  latents (Bussmann et al. 2503.17547, eq. 5; SAELens sums as well).
- ``relu``: L1 of the activations weighted by the norms of their decoder rows (Bricken et al. 2023;
  Anthropic, April 2024 update), which are 1.
- ``jumprelu``: L0 through a step with a rectangle of width ``bandwidth`` for its derivative
  (Rajamanoharan et al. 2407.14435, eq. 11, 12).
- ``transcoder``: TopK from one space to another (Dunefsky et al. 2406.11944), with a target of its
  own."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch

from husai.recipe import BATCH_TOP_K
from husai.sae import kernels
from husai.sae.kernels import matmul

JUMPRELU_BANDWIDTH = 0.05
"""The paper has 0.001 for rows of mean squared norm 1; rows here have d_in, and at a width of 2500
that is 0.05."""
MEASURED_CROSSOVER = 0.2
"""Share of active latents up to which k-sparse kernels are the faster ones on a CPU, as
``benchmarks/bench_sae.py --crossover`` measured."""
Parameters = dict[str, torch.Tensor]


class Settings(NamedTuple):
    """What the gradient of a member depends on besides its weights and rows."""

    architecture: str
    k: int | None = None
    sparse: bool = False
    """Use the k-sparse kernels rather than dense products; of ReLU, in steps that are sparse."""
    frozen_decoder: bool = False
    groups: tuple[int, ...] = ()
    """Matryoshka: latents of each prefix that reconstructs by itself; the last has all."""
    matmul_dtype: torch.dtype | None = None
    """Round operands of dense products to this format (bfloat16 on a GPU)."""
    count_fired: bool = False
    """Report which latents fired, for AuxK."""
    bandwidth: float = JUMPRELU_BANDWIDTH
    fused: bool = False
    """Use the k-sparse kernels of :mod:`husai.sae.fused`."""


class Gradients(NamedTuple):
    """Result of :func:`gradients`."""

    loss: torch.Tensor
    """Loss per member (S,)."""
    by_name: Parameters
    """Gradient of each trained parameter, in its shape."""
    residual: torch.Tensor
    """``x_hat - y`` (S, B, d_out), normalised units."""
    fired: torch.Tensor | None
    """Latents that fired in the batch (S, d_sae), when asked for."""


def gradients(
    settings: Settings,
    p: Parameters,
    x: torch.Tensor,
    y: torch.Tensor,
    coefficient: torch.Tensor | None = None,
) -> Gradients:
    """Loss and gradients of S members, each on its own batch.

    Parameters
    ----------
    settings : Settings
    p : dict
        ``W_enc`` (S, d_sae, d_in), ``b_enc`` (S, d_sae), ``W_dec`` (S, d_sae, d_out), ``b_dec`` (S,
        d_out), JumpReLU also ``threshold`` (S, d_sae).
    x : Tensor (S, B, d_in)
        Centred input: rows less ``b_dec``, or less the fixed input centre for a transcoder.
    y : Tensor (S, B, d_out)
        Centred target: rows less ``b_dec``; ``x`` itself for an autoencoder.
    coefficient : Tensor (S,) or None
        Sparsity coefficient per member (ReLU, JumpReLU).
    """
    compute = _fused if settings.fused else _sparse if settings.sparse else _dense
    loss, residual, pull, found, fired = compute(settings, p, x, y, coefficient)
    db_dec = pull.sum(1).mul_(2.0 / (residual.shape[1] * residual.shape[2]))
    if settings.architecture != "transcoder":
        db_dec -= matmul(found["b_enc"].unsqueeze(1), p["W_enc"]).squeeze(1)
    return Gradients(loss, {**found, "b_dec": db_dec}, residual, fired)


def _sparse(settings: Settings, p: Parameters, x, y, coefficient: torch.Tensor | None):
    """By kernels at the cost of the active latents alone."""
    S, B, d_in = x.shape
    d_sae, d_out = p["W_dec"].shape[1:]
    encoder, half = (p["W_enc"], p["b_enc"]), settings.matmul_dtype
    if settings.architecture == "relu":
        pre = kernels.pre_activations(x, *encoder, half)
        if int((pre > 0).count_nonzero()) > MEASURED_CROSSOVER * pre.numel():
            return _dense(settings, p, x, y, coefficient, pre)
        code = kernels.positive_code(pre)
    else:
        by_batch = settings.architecture in BATCH_TOP_K
        make = kernels.batch_top_k_code if by_batch else kernels.top_k_code
        code = make(x, *encoder, settings.k, half)
    if settings.groups:
        wide = kernels.by_group(code, settings.groups, d_sae)
        parts = kernels.decode(wide, p["W_dec"]).view(S * B, -1, d_out)
        loss, residual, pull = _nested(parts, y)
    else:
        wide = code
        residual = pull = kernels.decode(code, p["W_dec"]).sub_(y.reshape(S * B, d_out))
        loss = _mean_square(residual.view(S, B, d_out))
    scale = 2.0 / (B * d_out)
    dpre = kernels.code_gradient(wide, pull, p["W_dec"]).mul_(scale)
    if settings.architecture == "relu":
        per_row = coefficient / (B * d_out)
        activity = kernels.sum_by_latent(code, code.values, S * d_sae)
        loss = loss + per_row * activity.view(S, -1).sum(1)
        dpre += per_row[torch.div(code.rows, B, rounding_mode="floor")]
    scaled = code._replace(values=code.values * scale)
    g_rows = None if settings.frozen_decoder else wide.rows
    dW_enc, dW_dec = kernels.weight_gradients(
        scaled, dpre, pull, x.reshape(S * B, d_in), S * d_sae, g_rows
    )
    found = {
        "W_enc": dW_enc.view(S, d_sae, d_in),
        "b_enc": kernels.sum_by_latent(code, dpre, S * d_sae).view(S, d_sae),
    }
    if dW_dec is not None:
        found["W_dec"] = dW_dec.view(S, d_sae, d_out)
    fired = None
    if settings.count_fired:
        fired = (kernels.sum_by_latent(code, code.values, S * d_sae) > 0).view(S, d_sae)
    whole = pull.view(S, B, -1, d_out)[:, :, 0]
    return loss, residual.view(S, B, d_out), whole, found, fired


def _nested(parts: torch.Tensor, y: torch.Tensor):
    """Loss (S,) summed over prefixes, residual (S*B, d_out) of all latents, and what the loss asks
    of each group: the sum of the residuals it takes part in, (S*B*n_groups, d_out).

    ``parts`` (S*B, n_groups, d_out), what each group writes, is overwritten.
    """
    n_groups = parts.shape[1]
    parts[:, 0].sub_(y.reshape(parts[:, 0].shape))
    for g in range(1, n_groups):
        parts[:, g] += parts[:, g - 1]
    loss = _mean_square(parts.view(len(y), -1, y.shape[2])).mul_(n_groups)
    residual = parts[:, -1].clone()
    for g in reversed(range(n_groups - 1)):
        parts[:, g] += parts[:, g + 1]
    return loss, residual, parts.view(-1, y.shape[2])


def _fused(settings: Settings, p: Parameters, x, y, _coefficient: torch.Tensor | None):
    """As :func:`_sparse`, by kernels that read pre-activations, decoder rows and sums once each."""
    from husai.sae.fused import select, update

    S, B, d_in = x.shape
    d_sae, d_out = p["W_dec"].shape[1:]
    k = None if settings.architecture in BATCH_TOP_K else settings.k
    if k is None:
        encoder = p["W_enc"], p["b_enc"]
        code = kernels.batch_top_k_code(x, *encoder, settings.k, settings.matmul_dtype)
    else:
        half = settings.matmul_dtype or x.dtype
        pre = matmul(x.to(half), p["W_enc"].to(half).mT)
        values, columns = select.top_k(pre, p["b_enc"], k)
        rows = torch.arange(S * B * k, device=x.device, dtype=torch.int32) // k
        starts = torch.arange(0, S * B * k + 1, k, device=x.device)
        code = kernels.Code(values, columns, rows, starts)
    scale = 2.0 / (B * d_out)
    W_dec, target = p["W_dec"].view(-1, d_out), y.reshape(S * B, d_out)
    residual, dpre, squares = update.decode(*code[:2], code.starts, W_dec, target, scale, k)
    order, starts = kernels.by_latent(code.columns, S * d_sae)
    dW_enc, db_enc = update.sum_rows(order, starts, code.rows, dpre, x.reshape(S * B, d_in))
    found = {"W_enc": dW_enc.view(S, d_sae, d_in), "b_enc": db_enc.view(S, d_sae)}
    if not settings.frozen_decoder:
        dW_dec, activity = update.sum_rows(order, starts, code.rows, code.values, residual, scale)
        found["W_dec"] = dW_dec.view(S, d_sae, d_out)
    elif settings.count_fired:
        activity = kernels.sum_by_latent(code, code.values, S * d_sae)
    fired = (activity > 0).view(S, d_sae) if settings.count_fired else None
    loss = squares.view(S, B).sum(1).div_(B * d_out)
    residual = residual.view(S, B, d_out)
    return loss, residual, residual, found, fired


def _dense(settings: Settings, p: Parameters, x, y, coefficient, pre: torch.Tensor | None = None):
    """By products of whole matrices; ``pre`` are pre-activations that are there already."""
    B, d_out = y.shape[1:]
    half = settings.matmul_dtype
    if pre is None:
        pre = kernels.pre_activations(x, p["W_enc"], p["b_enc"], half)
    z = _activate(settings, pre, p.get("threshold"))
    spans = [slice(*ends) for ends in pairwise((0, *(settings.groups or z.shape[2:])))]
    residuals: list[torch.Tensor] = []
    for span in spans:
        part = matmul(z[..., span], p["W_dec"][:, span], half)
        residuals.append(part.add_(residuals[-1]) if residuals else part.sub_(y))
    loss = torch.stack([_mean_square(r) for r in residuals]).sum(0)
    pulls = residuals[-1:]
    for residual in reversed(residuals[:-1]):
        pulls.insert(0, residual + pulls[0])
    scale = 2.0 / (B * d_out)
    grouped = list(zip(spans, pulls, strict=True))
    dz = _joined([matmul(g, p["W_dec"][:, s].mT, half) for s, g in grouped], 2).mul_(scale)
    found = {}
    if settings.architecture == "relu":
        per_row = coefficient / (B * d_out)
        loss = loss + per_row * z.sum((1, 2))
        dz += per_row.view(-1, 1, 1)
    if settings.architecture == "jumprelu":
        per_row = coefficient / (B * d_out)
        loss = loss + per_row * (z > 0).sum((1, 2))
        threshold = p["threshold"].unsqueeze(1)
        near = (pre - threshold).abs_() < settings.bandwidth / 2
        weight = (dz * threshold).add_(per_row.view(-1, 1, 1)).mul_(near)
        found["threshold"] = weight.sum(1).div_(-settings.bandwidth)
    dpre = dz.mul_(z > 0)
    found |= {"W_enc": matmul(dpre.mT, x, half), "b_enc": dpre.sum(1)}
    if not settings.frozen_decoder:
        found["W_dec"] = _joined([matmul(z[..., s].mT, g, half) for s, g in grouped], 1).mul_(scale)
    fired = (z > 0).any(1) if settings.count_fired else None
    return loss, residuals[-1], pulls[0], found, fired


def _joined(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _activate(settings: Settings, pre: torch.Tensor, threshold: torch.Tensor | None):
    """Dense code (S, B, d_sae) of the training forward pass."""
    S, B, d_sae = pre.shape
    if settings.architecture == "relu":
        return pre.relu()
    if settings.architecture == "jumprelu":
        return pre.relu() * (pre > threshold.unsqueeze(1))
    if settings.architecture in BATCH_TOP_K:
        z = torch.zeros_like(pre)
        for member, flat in zip(z, pre.view(S, -1), strict=True):
            values, place = kernels.batch_top_k(flat, settings.k * B)
            member.view(-1).index_copy_(0, place, values.relu())
        return z
    rows = pre.view(S * B, d_sae)
    values, columns = kernels.top_k(rows, settings.k)
    return torch.zeros_like(rows).scatter_(1, columns, values.relu()).view_as(pre)


def _mean_square(residual: torch.Tensor) -> torch.Tensor:
    """Mean of the squared entries per member (S,)."""
    if residual.device.type != "cpu":
        # A product would sum in the format of the products, and in one block of threads.
        norms = torch.linalg.vector_norm(residual.flatten(1), dim=1)
        return norms.square_().div_(residual[0].numel())
    flat = residual.reshape(residual.shape[0], 1, -1)
    if flat.shape[0] == 1:
        return torch.dot(flat[0, 0], flat[0, 0]).div(flat.shape[2])[None]
    return torch.bmm(flat, flat.mT).view(-1).div(flat.shape[2])

"""The k-sparse arithmetic of one training step: exact top-k, and decoder and weight-gradient
products at cost B*k*d instead of B*d*d_sae.

Every function takes a leading member axis S. Rows and latents of all members are numbered through
(row ``s*B + b``, latent ``s*d_sae + j``), so one call serves a single member on a CPU and a whole
ensemble on a GPU."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import embedding_bag

CHUNK_BYTES = 8 << 20
"""Pre-activations held at once on a CPU, about what the caches of its cores hold together."""


class Code(NamedTuple):
    """A sparse code of S*B rows over S*d_sae latents; entries are grouped by row."""

    values: torch.Tensor
    """Activations (n,), non-negative; an entry may be exactly 0."""
    columns: torch.Tensor
    """Latent of each entry (n,), numbered through the members."""
    rows: torch.Tensor
    """Row of each entry (n,), numbered through the members."""
    starts: torch.Tensor
    """First entry of each row and the number of entries at the end (S*B + 1,)."""


def matmul(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Batched product (S, m, n) of (S, m, p) and (S, p, n); operands are rounded to ``dtype`` first
    when one is given.
    """
    if dtype is not None and dtype != a.dtype:
        return matmul(a.to(dtype), b.to(dtype)).to(a.dtype)
    return torch.mm(a[0], b[0])[None] if a.shape[0] == 1 else torch.bmm(a, b)


def pre_activations(
    x: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """``x @ W_enc^T + b_enc`` (S, B, d_sae) from x (S, B, d_in) and W_enc (S, d_sae, d_in)."""
    if dtype is not None and dtype != x.dtype:
        return matmul(x, W_enc.mT, dtype).add_(b_enc.unsqueeze(1))
    if x.shape[0] == 1:
        return torch.addmm(b_enc[0], x[0], W_enc[0].t())[None]
    return torch.baddbmm(b_enc.unsqueeze(1), x, W_enc.mT)


def _group_size(d_sae: int, k: int) -> int:
    """Power of two m dividing d_sae that makes ``d_sae/m + k*m`` (elements looked at by
    :func:`top_k`) smallest, 1 when grouping does not pay.
    """
    cost = {m: d_sae // m + k * m for m in (4, 8, 16, 32, 64) if d_sae % m == 0 and d_sae // m > k}
    best = min(cost, key=cost.get, default=1)
    return best if cost.get(best, d_sae) <= 0.6 * d_sae else 1


def top_k(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest values of each row and where they are, in any order: (R, k) and int64 (R, k)
    from (R, d_sae).

    Exact, in two stages: the k largest elements lie in the k groups with the largest maxima (an
    element outside them would be no larger than k others), so only those groups are searched. Among
    equal values any k are chosen, as by ``torch.topk``."""
    R, d_sae = pre.shape
    m = _group_size(d_sae, k)
    if m == 1:
        return pre.topk(k, dim=-1, sorted=False)
    n_groups = d_sae // m
    by_group = pre.view(R, m, n_groups)
    groups = by_group.amax(1).topk(k, dim=-1, sorted=False).indices
    candidates = by_group.gather(2, groups.unsqueeze(1).expand(R, m, k)).view(R, m * k)
    values, position = candidates.topk(k, dim=-1, sorted=False)
    return values, groups.gather(1, position % k) + (position // k) * n_groups


def top_k_code(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    dtype: torch.dtype | None = None,
) -> Code:
    """TopK code: the k largest raw pre-activations of each row, then ReLU (Gao et al. 2406.04093,
    eq. 2); S*B*k entries from x (S, B, d_in), W_enc (S, d_sae, d_in) and b_enc (S, d_sae).

    On a CPU rows go through in chunks small enough that the pre-activations stay in cache; they are
    never held as a whole.
    """
    S, B, _ = x.shape
    d_sae = W_enc.shape[1]
    chunk = B
    if x.device.type == "cpu" and S == 1:
        chunk = max(256, CHUNK_BYTES // (d_sae * x.element_size()))
    parts = [
        top_k(pre_activations(x[:, start : start + chunk], W_enc, b_enc, dtype).view(-1, d_sae), k)
        for start in range(0, B, chunk)
    ]
    values, columns = (torch.cat(part) for part in zip(*parts, strict=True))
    firsts = torch.arange(0, S * d_sae, d_sae, device=x.device).unsqueeze(1)
    columns = (columns.view(S, B * k) + firsts).view(-1)
    starts = torch.arange(0, S * B * k + 1, k, device=x.device)
    rows = torch.arange(S * B * k, device=x.device) // k
    return Code(values.view(-1).relu_(), columns, rows, starts)


def batch_top_k_code(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    k: int,
    dtype: torch.dtype | None = None,
) -> Code:
    """BatchTopK code: the k*B largest positive pre-activations of each member's batch (Bussmann et
    al. 2412.06410, eq. 3); S*B*k entries from x (S, B, d_in), W_enc (S, d_sae, d_in) and b_enc
    (S, d_sae).
    """
    pre = pre_activations(x, W_enc, b_enc, dtype)
    found = [batch_top_k(p, k * x.shape[1]) for p in pre]
    values = torch.cat([v for v, _ in found])
    place = torch.cat([i + s * pre[0].numel() for s, (_, i) in enumerate(found)])
    return _code_at(place, values.relu_(), pre.shape)


def positive_code(pre: torch.Tensor) -> Code:
    """ReLU code: the positive entries of pre-activations (S, B, d_sae)."""
    place = (pre > 0).view(-1).nonzero().view(-1)
    return _code_at(place, pre.view(-1)[place], pre.shape)


def _code_at(place: torch.Tensor, values: torch.Tensor, shape: torch.Size) -> Code:
    """The code with ``values`` at ascending flat places in a tensor of ``shape`` (S, B, d_sae)."""
    S, B, d_sae = shape
    rows = place // d_sae
    columns = place % d_sae + torch.div(rows, B, rounding_mode="floor") * d_sae
    starts = torch.searchsorted(rows, torch.arange(S * B + 1, device=place.device))
    return Code(values, columns, rows, starts)


def batch_top_k(pre: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The n largest elements of a matrix (R, d_sae), or all where it has fewer, and their flat
    positions in ascending order: (n,) and int64 (n,).

    On a CPU only candidates above a bound found on a subsample are sorted; should the bound turn
    out too high, all elements are.
    """
    flat = pre.reshape(-1)
    n = min(n, flat.numel())
    if flat.device.type == "cpu" and flat.numel() >= 65536:
        sample = flat[:: max(1, flat.numel() // 32768)]
        keep = min(sample.numel(), int(1.25 * n / flat.numel() * sample.numel()) + 64)
        candidates = (flat >= sample.topk(keep, sorted=False).values.min()).nonzero().view(-1)
        if candidates.numel() >= n:
            chosen = candidates[flat[candidates].topk(n, sorted=False).indices].sort().values
            return flat[chosen], chosen
    chosen = flat.topk(n, sorted=False).indices.sort().values
    return flat[chosen], chosen


def by_group(code: Code, groups: Sequence[int], d_sae: int) -> Code:
    """The same entries with a row for every group of latents: row ``r`` becomes ``r * n_groups`` to
    ``r * n_groups + n_groups - 1``. Entries of a row must be in the order of their latents;
    ``groups`` are the latents up to the end of each group, the last ``d_sae``.
    """
    latents, rows = code.columns % d_sae, code.rows * len(groups)
    for end in groups[:-1]:  # a tensor of ends would be copied to a GPU, which no recorded step may
        rows += latents >= end
    n_rows = (len(code.starts) - 1) * len(groups)
    starts = torch.searchsorted(rows, torch.arange(n_rows + 1, device=rows.device))
    return code._replace(rows=rows, starts=starts)


def decode(code: Code, W_dec: torch.Tensor) -> torch.Tensor:
    """``z @ W_dec``: (S*B, d_out) from W_dec (S, d_sae, d_out)."""
    decoder, starts = W_dec.reshape(-1, W_dec.shape[-1]), code.starts[:-1]
    return embedding_bag(code.columns, decoder, starts, per_sample_weights=code.values, mode="sum")


def code_gradient(code: Code, g: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    """Entries of ``g @ W_dec^T`` where the code has entries, zero where its value is 0 (ReLU): (n,)
    from g (S*B, d_out).
    """
    decoder = W_dec.reshape(-1, W_dec.shape[-1])
    if g.device.type == "cpu":
        quiet()
        shape = (g.shape[0], decoder.shape[0])
        pattern = torch.sparse_csr_tensor(
            code.starts, code.columns, torch.zeros_like(code.values), shape, check_invariants=False
        )
        gradient = torch.sparse.sampled_addmm(pattern, g, decoder.t(), beta=0.0).values()
    else:
        gradient = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            g, decoder, code.columns, code.starts[:-1], code.rows, 0
        )
    return gradient.mul_(code.values > 0)


def weight_gradients(
    code: Code,
    dpre: torch.Tensor,
    g: torch.Tensor,
    x: torch.Tensor,
    n_latents: int,
    g_rows: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``dpre^T x`` (S*d_sae, d_in) and ``z^T g`` (S*d_sae, d_out), for every latent summed over the
    rows in which it has an entry.

    ``dpre`` (n,) is the gradient of each entry's pre-activation, ``g`` (S*B, d_out) that of the
    reconstruction, ``x`` (S*B, d_in) the centred input, and ``g_rows`` (n,) the row of ``g`` that
    each entry belongs to; None leaves out ``z^T g`` (frozen decoder).
    """
    order, ends = by_latent(code.columns, n_latents)
    rows, starts = code.rows[order], ends[:-1]
    dW_enc = embedding_bag(rows, x, starts, per_sample_weights=dpre[order], mode="sum")
    if g_rows is None:
        return dW_enc, None
    rows, weights = g_rows[order], code.values[order]
    return dW_enc, embedding_bag(rows, g, starts, per_sample_weights=weights, mode="sum")


def by_latent(columns: torch.Tensor, n_latents: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries in the order of their latents, int64 (n,), and where those of each latent begin.

    The beginnings (n_latents + 1,) end with the number of entries.
    """
    narrow = torch.int16 if n_latents < 2**15 else torch.int32
    latents, order = columns.to(narrow).sort(stable=True)
    each = torch.arange(n_latents + 1, device=columns.device, dtype=narrow)
    return order, torch.searchsorted(latents, each)


def sum_by_latent(code: Code, entries: torch.Tensor, n_latents: int) -> torch.Tensor:
    """Sum of per-entry values over rows, per latent: (n_latents,) from (n,)."""
    return entries.new_zeros(n_latents).index_add_(0, code.columns, entries)


@functools.cache
def quiet() -> None:
    """Torch says once per process that CSR support is in beta; let it say so here, unheard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(
            torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=False
        )

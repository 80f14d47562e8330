"""One-to-one (Hungarian) matching of two dictionaries: PW-MCC and the shared fraction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from husai.errors import HusaiError
from husai.stability.rows import UnitRows, matrix_of, paired_cosines, unit_pair
from husai.stability.similarity import FEATURE_MATCH

EXACT_LIMIT = 8192
"""Rows up to which an exact matching is tried on the whole matrix, which then takes 512 MB in
float64."""
CANDIDATES = 32
"""Partners kept of a row beyond that: a small part of the matrix, and a row whose best ones are
taken still has others."""


class Match(NamedTuple):
    """A one-to-one matching of (living) rows: ``min(n_a, n_b)`` pairs ordered by row of A."""

    rows: torch.Tensor
    """Row numbers in A (int64, in the full dictionary)."""
    cols: torch.Tensor
    """Row numbers in B."""
    cosine: torch.Tensor
    """Signed decoder cosine of each pair, float64."""
    n_a: int
    """Living rows of A."""
    n_b: int
    """Living rows of B."""


def hungarian(
    A: torch.Tensor,
    B: torch.Tensor,
    alive_a=None,
    alive_b=None,
    device=None,
    exact_limit: int = EXACT_LIMIT,
) -> Match:
    """One-to-one matching of rows with the highest total signed cosine.

    Exact (scipy's shortest augmenting paths) up to ``exact_limit`` rows. Beyond, the problem is
    restricted to each row's and each column's ``CANDIDATES`` best partners, solved exactly on that
    sparse graph (LAPJVsp), and what stays unmatched is matched among itself: exact up to the limit,
    else greedily. The result is always one-to-one; its total is a lower bound of the optimum and
    equals it whenever the optimal partners are among the candidates.

    Parameters and errors are those of :func:`husai.stability.pwmcc`.

    References
    ----------
    Crouse, "On implementing 2D rectangular assignment algorithms", IEEE TAES 2016 (scipy's
    solver); Jonker & Volgenant, Computing 1987 (LAPJV, of which LAPJVsp is the sparse form).
    """
    a, b = unit_pair(A, B, alive_a, alive_b, device)
    if max(a.n, b.n) <= exact_limit:
        rows, cols, value = _exact_assignment(a.block(0, a.n), b.block(0, b.n))
    else:
        rows, cols, value = _sparse_assignment(a, b, exact_limit)
    rows, cols = (torch.from_numpy(np.asarray(index, np.int64)) for index in (rows, cols))
    value = torch.from_numpy(np.asarray(value, np.float64)).clamp_(-1.0, 1.0)
    rows = rows if a.index is None else a.index.cpu()[rows]
    cols = cols if b.index is None else b.index.cpu()[cols]
    return Match(rows, cols, value, a.n, b.n)


Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row, column and cosine of pairs."""


def _exact_assignment(left: torch.Tensor, right: torch.Tensor) -> Found:
    """The best one-to-one matching of unit rows.

    The solver works on float64 costs; handing it those, already negated, spares it two copies of
    the matrix."""
    cost = (left @ right.T).cpu().double().neg_().numpy()
    rows, cols = linear_sum_assignment(cost)
    return rows, cols, -cost[rows, cols]


def _candidate_edges(a: UnitRows, b: UnitRows, step: int = 1024) -> Found:
    """Each row's ``CANDIDATES`` best columns, computed block by block."""
    count, parts = min(CANDIDATES, b.n), []
    for i in range(0, a.n, step):
        left = a.block(i, i + step)
        value = torch.empty((left.shape[0], 0), dtype=left.dtype, device=left.device)
        where = torch.empty((left.shape[0], 0), dtype=torch.int64, device=left.device)
        for j in range(0, b.n, 8 * step):
            top = (left @ b.block(j, j + 8 * step).T).topk(min(count, b.n - j, 8 * step), dim=1)
            both = torch.cat([value, top.values], 1)
            value, order = both.topk(min(count, both.shape[1]), dim=1)
            where = torch.cat([where, top.indices + j], 1).gather(1, order)
        row = torch.arange(i, i + left.shape[0]).repeat_interleave(value.shape[1])
        parts.append((row, where.flatten().cpu(), value.flatten().cpu()))
    rows, cols, values = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    return rows, cols, values.astype(np.float64)


def _sparse_assignment(a: UnitRows, b: UnitRows, exact_limit: int) -> Found:
    if a.n > b.n:
        cols, rows, value = _sparse_assignment(b, a, exact_limit)
        order = np.argsort(rows)
        return rows[order], cols[order], value[order]
    rows, cols, value = _candidate_edges(a, b)
    other_cols, other_rows, other_value = _candidate_edges(b, a)
    key = np.concatenate([rows * b.n + cols, other_rows * b.n + other_cols])
    key, first = np.unique(key, return_index=True)
    value = np.concatenate([value, other_value])[first]
    rows, cols = key // b.n, key % b.n
    # A private spare column per row, costlier than any real edge, makes a full matching always
    # exist. Costs are shifted above zero because an explicit zero counts as no edge.
    spare = np.arange(a.n)
    cost = np.concatenate([2.0 - value, np.full(a.n, 4.0)])
    edges = np.concatenate([rows, spare]), np.concatenate([cols, b.n + spare])
    graph = coo_array((cost, edges), shape=(a.n, b.n + a.n))
    row, col = min_weight_full_bipartite_matching(graph.tocsr())
    partner = np.empty(a.n, np.int64)
    partner[row] = col
    left = np.flatnonzero(partner >= b.n)
    if left.size:
        free = np.setdiff1d(np.arange(b.n), partner)
        partner[left] = _match_leftovers(a, b, left, free, exact_limit)
    cosines = paired_cosines(a, b, torch.arange(a.n), torch.from_numpy(partner))
    return np.arange(a.n), partner, cosines.numpy()


def _match_leftovers(
    a: UnitRows, b: UnitRows, left: np.ndarray, free: np.ndarray, exact_limit: int
) -> np.ndarray:
    """Partners among the columns ``free`` for the rows ``left``, which have no candidate."""
    partner = np.empty(left.size, np.int64)
    for i in range(0, left.size, exact_limit):
        rows = left[i : i + exact_limit]
        some = free[: max(exact_limit, rows.size)]
        r, c, _ = _exact_assignment(a.take(torch.from_numpy(rows)), b.take(torch.from_numpy(some)))
        partner[i + r] = some[c]
        free = np.setdiff1d(free, some[c])
    return partner


def pw_mcc(A: torch.Tensor, B: torch.Tensor, alive_a=None, alive_b=None, device=None) -> float:
    """Mean signed cosine under a one-to-one Hungarian matching (Song et al., arXiv 2505.20254).

    Not PWMCC: signed, and no feature is used twice. With different numbers of rows the mean is over
    the matched ones. Parameters and errors are those of :func:`husai.stability.pwmcc`.

    Examples
    --------
    >>> A = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    >>> pw_mcc(A, A[[1, 0]]), pw_mcc(A, -A)
    (1.0, 0.0)
    """
    return float(hungarian(A, B, alive_a, alive_b, device).cosine.mean())


def shared_fraction(
    A: torch.Tensor,
    B: torch.Tensor,
    enc_a: torch.Tensor | None = None,
    enc_b: torch.Tensor | None = None,
    threshold: float = FEATURE_MATCH,
    alive_a=None,
    alive_b=None,
    device=None,
) -> float:
    """Share of latents whose Hungarian match has cosine above ``threshold`` on both decoder and
    encoder.

    Source: Paulo & Belrose, arXiv 2501.16615. The matching is by decoder; signed cosines. A latent
    left over in the larger dictionary counts as not shared.

    Parameters
    ----------
    A, B : Tensor (d_sae, d_in)
        Decoders, features as rows.
    enc_a, enc_b : Tensor (d_sae, d_in) or None
        Encoders, features as rows (``W_enc.T``). None for both tests the decoder alone.

    Raises
    ------
    HusaiError
        Only one encoder was given, an encoder has another number of rows than its decoder, or
        :func:`hungarian` refuses the dictionaries.

    Examples
    --------
    >>> e = torch.eye(4)
    >>> shared_fraction(e, e[[1, 0, 3, 2]]), shared_fraction(e, e, e, e[[0, 1, 3, 2]])
    (1.0, 0.5)
    """
    if (enc_a is None) != (enc_b is None):
        raise HusaiError("shared_fraction: pass both encoders or neither")
    A, B = matrix_of(A, "A"), matrix_of(B, "B")
    if enc_a is not None:
        enc_a, enc_b = matrix_of(enc_a, "encoder A"), matrix_of(enc_b, "encoder B")
    for name, decoder, encoder in (("A", A, enc_a), ("B", B, enc_b)):
        if encoder is not None and encoder.shape[0] != decoder.shape[0]:
            raise HusaiError(
                f"encoder {name} {tuple(encoder.shape)} and decoder {name} {tuple(decoder.shape)} "
                "do not match: expected both with one row per latent (pass W_enc.T)"
            )
    return shared_from_match(hungarian(A, B, alive_a, alive_b, device), enc_a, enc_b, threshold)


def shared_from_match(
    match: Match,
    enc_a: torch.Tensor | None,
    enc_b: torch.Tensor | None,
    threshold: float = FEATURE_MATCH,
) -> float:
    """:func:`shared_fraction` of a matching that is there; encoders are ``(d_sae, d_in)``."""
    shared = match.cosine > threshold
    if enc_a is not None and enc_b is not None:
        shared &= matched_cosines(match, enc_a, enc_b) > threshold
    return float(shared.double().sum() / max(match.n_a, match.n_b))


def matched_cosines(
    match: Match, enc_a: torch.Tensor, enc_b: torch.Tensor, step: int = 4096
) -> torch.Tensor:
    """Signed cosine of the matched rows of two other matrices ``(d_sae, d)`` (the encoders):
    ``(n_matched,)``, float64 on the CPU; 0 for a row of zeros.

    Raises
    ------
    HusaiError
        The matrices differ in ``d``, or a matched row holds NaN or infinite values.
    """
    if enc_a.shape[1] != enc_b.shape[1]:
        raise HusaiError(
            f"encoder A {tuple(enc_a.shape)} and encoder B {tuple(enc_b.shape)} do not live in "
            "one space"
        )
    parts = []
    for i in range(0, match.rows.numel(), step):
        left = enc_a[match.rows[i : i + step].to(enc_a.device)].double().cpu()
        right = enc_b[match.cols[i : i + step].to(enc_b.device)].double().cpu()
        parts.append(torch.nn.functional.cosine_similarity(left, right, dim=1, eps=1e-30))
    found = torch.cat(parts)
    if not torch.isfinite(found).all():
        raise HusaiError(
            "encoders: hold NaN or infinite values; retrain or export the checkpoint again"
        )
    return found

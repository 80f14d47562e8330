"""How alike two dictionaries are: PWMCC, its per-feature maxima, and the all-pairs matrices built
from them.

Decoders are ``(d_sae, d_in)`` with one feature per row; the orientation is never guessed from the
shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from husai.errors import HusaiError
from husai.stability.rows import UnitRows, matrix_of, unit_ensemble, unit_pair

# Few large products: on a busy CPU every parallel region waits for its slowest thread. One block of
# cosines is 64 (256) MB.
CPU_BLOCK = (4096, 4096)
CUDA_BLOCK = (8192, 8192)
FEATURE_MATCH = 0.7
"""|cosine| above which two latents are the same feature (Paulo & Belrose 2501.16615)."""


def best_cosines(a: UnitRows, b: UnitRows) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row of either dictionary the highest absolute cosine in the other.

    Computed in blocks with a running maximum both ways: beside the inputs it needs a few blocks of
    ``CPU_BLOCK`` (or ``CUDA_BLOCK``) cosines and the two results.

    Returns
    -------
    best_a : Tensor (n_a,), best_b : Tensor (n_b,)
        Values in [0, 1], on the computing device.
    """
    rows, cols = CUDA_BLOCK if a.device.type == "cuda" else CPU_BLOCK
    best_a = torch.full((a.n,), -1.0, dtype=a.dtype, device=a.device)
    best_b = torch.full((b.n,), -1.0, dtype=a.dtype, device=a.device)
    # Normalising b again for every block of a costs d_in / rows of the product; one pass when b
    # fits the budget.
    kept = b.n * b.d_in * b.dtype.itemsize <= 128 * 2**20
    blocks = {j: b.block(j, j + cols).T for j in range(0, b.n, cols)} if kept else {}
    for i in range(0, a.n, rows):
        left = a.block(i, i + rows)
        for j in range(0, b.n, cols):
            cosines = (left @ (blocks[j] if kept else b.block(j, j + cols).T)).abs_()
            torch.maximum(best_a[i : i + rows], cosines.amax(1), out=best_a[i : i + rows])
            torch.maximum(best_b[j : j + cols], cosines.amax(0), out=best_b[j : j + cols])
    return best_a.clamp_(-1.0, 1.0), best_b.clamp_(-1.0, 1.0)


def pwmcc(A, B, alive_a=None, alive_b=None, device=None) -> float:
    r"""Pairwise maximum cosine correlation of two dictionaries (HUSAI).

    With ``C`` the cosines of all rows, ``(mean_i max_j |C_ij| + mean_j max_i |C_ij|) / 2``.
    Invariant to the order and the sign of rows, symmetric; 1 for equal dictionaries, and far above
    0 for random ones: see :mod:`husai.stability.nulls`.

    Parameters
    ----------
    A, B : Tensor or array (d_sae, d_in)
        Features as rows (``W_dec`` of SAELens). ``d_sae`` may differ, ``d_in`` may not.
    alive_a, alive_b : BoolTensor (d_sae,) or None
        Latents to keep; None keeps all.
    device
        Where to compute; None is where A lies.

    Raises
    ------
    HusaiError
        Shapes that do not fit (both are named), NaN, zero rows, no living latent.

    Examples
    --------
    >>> A = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    >>> pwmcc(A, -A[[1, 0]])
    1.0
    >>> round(pwmcc(A, torch.tensor([[1.0, 1.0]])), 6)
    0.707107
    """
    a, b = unit_pair(A, B, alive_a, alive_b, device)
    best_a, best_b = best_cosines(a, b)
    return float((best_a.double().mean() + best_b.double().mean()) / 2)


class PairwiseBest(NamedTuple):
    """All pairs of an ensemble."""

    matrix: torch.Tensor
    """PWMCC ``(n, n)``, float64 on the CPU, ones on the diagonal."""
    best: list[torch.Tensor]
    """For SAE i, ``(n_i, n)``: highest |cosine| of (living) features in SAE j; 1 in column i."""


def pairwise_best(
    decoders: Sequence[torch.Tensor], alive: Sequence | None = None, device=None, names=None
) -> PairwiseBest:
    """PWMCC of every pair and each feature's best match in every other SAE. A pair's value depends
    on that pair alone.

    ``decoders`` are ``(d_sae, d_in)``, ``alive`` masks ``(d_sae,)`` or None. Errors are those of
    :func:`pwmcc`, with the SAE named after ``names``.
    """
    units = unit_ensemble(decoders, alive, device, names)
    n = len(units)
    matrix = torch.eye(n, dtype=torch.float64)
    best = [torch.ones((u.n, n), dtype=torch.float64) for u in units]
    for i in range(n):
        for j in range(i + 1, n):
            best_i, best_j = best_cosines(units[i], units[j])
            best[i][:, j], best[j][:, i] = best_i.double().cpu(), best_j.double().cpu()
            matrix[i, j] = matrix[j, i] = (best[i][:, j].mean() + best[j][:, i].mean()) / 2
    return PairwiseBest(matrix, best)


def pairwise(
    decoders: Sequence[torch.Tensor], alive: Sequence | None = None, device=None, names=None
) -> torch.Tensor:
    """PWMCC of every pair: ``(n, n)`` float64 on the CPU, ones on the diagonal; see
    :func:`pwmcc`, whose errors it raises. ``decoders`` are ``(d_sae, d_in)``.
    """
    return pairwise_best(decoders, alive, device, names).matrix


def mean_to_others(matrix: torch.Tensor) -> torch.Tensor:
    """Each SAE's mean PWMCC with the others, ``(n,)``, from the matrix of :func:`pairwise`; its
    mean is the ensemble's PWMCC.
    """
    n = matrix.shape[0]
    return (matrix.sum(1) - matrix.diagonal()) / (n - 1)


def feature_stability(
    decoders: Sequence[torch.Tensor],
    threshold: float = FEATURE_MATCH,
    alive: Sequence | None = None,
    device=None,
) -> list[torch.Tensor]:
    r"""sigma_i of every feature: the fraction of the other seeds in which a match with |cosine| >
    ``threshold`` reappears.

    Returns one float64 tensor ``(n_living,)`` per decoder, values in [0, 1]. Source: arXiv
    2606.12138."""
    return sigma_from_best(pairwise_best(decoders, alive, device).best, threshold)


def sigma_from_best(
    best: Sequence[torch.Tensor], threshold: float = FEATURE_MATCH
) -> list[torch.Tensor]:
    """:func:`feature_stability`, ``(n_living,)`` float64 per SAE, from the maxima of
    :func:`pairwise_best`, ``(n_living, n)`` per SAE with ones in its own column.
    """
    n = len(best)
    return [((b > threshold).double().sum(1) - 1.0) / (n - 1) for b in best]


def reappearance_matrix(
    best: Sequence[torch.Tensor], threshold: float = FEATURE_MATCH
) -> torch.Tensor:
    """``(n, n)`` share of features with a match above ``threshold``, mean of both directions."""
    share = torch.stack([(b > threshold).double().mean(0) for b in best])
    return (share + share.T) / 2


def movement(W_dec, initial, alive=None) -> float:
    """Median cosine of each decoder row to its own initial row, in [-1, 1]; near 1 means the SAE
    barely moved.

    Both ``(d_sae, d_in)`` in the same row order.

    Raises
    ------
    HusaiError
        The shapes differ, or a decoder holds NaN or rows of zeros.
    """
    W_dec, initial = matrix_of(W_dec, "decoder"), matrix_of(initial, "initial decoder")
    if W_dec.shape != initial.shape:
        raise HusaiError(
            f"decoder {tuple(W_dec.shape)} and initial decoder {tuple(initial.shape)} differ in "
            "shape"
        )
    now = UnitRows(W_dec, alive, "decoder")
    then = UnitRows(initial, alive, "initial decoder", now.device, now.dtype)
    cosines = [
        (now.block(i, i + 4096) * then.block(i, i + 4096)).sum(1) for i in range(0, now.n, 4096)
    ]
    return float(torch.cat(cosines).double().quantile(0.5))

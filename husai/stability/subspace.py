"""Overlap of what two dictionaries span, and how many directions activations really use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from husai.errors import HusaiError
from husai.stability.reconstruction import row_batches
from husai.stability.rows import matrix_of


def principal_directions(matrix, name: str = "dictionary") -> torch.Tensor:
    """Right singular vectors ``(d_in, min(d_sae, d_in))`` of ``(d_sae, d_in)``, strongest first,
    float64 on the CPU.

    Raises
    ------
    HusaiError
        ``matrix`` is no matrix, or holds NaN or infinite values.
    """
    matrix = matrix_of(matrix, name)
    if not torch.isfinite(matrix).all():
        raise HusaiError(
            f"{name}: holds NaN or infinite values; retrain or export the checkpoint again"
        )
    d_sae, d_in = matrix.shape
    if d_sae <= d_in:
        return torch.linalg.svd(matrix.cpu().double(), full_matrices=False).Vh.T
    return torch.linalg.eigh(_gram(matrix)).eigenvectors.flip(1)


def _gram(matrix: torch.Tensor, step: int = 8192) -> torch.Tensor:
    gram = torch.zeros((matrix.shape[1],) * 2, dtype=torch.float64)
    for i in range(0, matrix.shape[0], step):
        block = matrix[i : i + step].cpu().double()
        gram += block.T @ block
    return gram


def default_ranks(d_in: int, d_sae: int | None = None) -> list[int]:
    """Powers of two from 8 up to, and always including, the largest rank ``min(d_in, d_sae)``."""
    limit = min(d_in, d_sae or d_in)
    return [r for r in (2**i for i in range(3, 32)) if r < limit] + [limit]


def subspace_overlap(A, B, rank: int) -> float:
    """``||U_a^T U_b||_F^2 / rank`` of the top singular subspaces: 1 when equal, ``rank / d_in`` by
    chance.

    Parameters
    ----------
    A, B : Tensor or array (d_sae, d_in)
        Features as rows; the subspaces are those of ``R^d_in`` (right singular vectors).
    rank : int
        Between 1 and ``min(d_sae, d_in)`` of both.

    Raises
    ------
    HusaiError
        Another rank, dictionaries of two spaces, NaN.

    References
    ----------
    The mean squared cosine of the principal angles: Bjorck & Golub, Math. Comp. 1973.

    Examples
    --------
    >>> e = torch.eye(8)
    >>> round(subspace_overlap(e[:2], e[1:3], rank=2), 6)
    0.5
    """
    return subspace_overlaps(A, B, [rank])[int(rank)]


def subspace_overlaps(A, B, ranks: Sequence[int] | None = None) -> dict[int, float]:
    """:func:`subspace_overlap` of ``A`` and ``B``, each ``(d_sae, d_in)``, at several ranks from
    one decomposition; :func:`default_ranks` when none are given.

    Raises
    ------
    HusaiError
        The two differ in ``d_in``, hold NaN or infinite values, or have no subspace of a rank.
    """
    A, B = matrix_of(A, "A"), matrix_of(B, "B")
    if A.shape[1] != B.shape[1]:
        raise HusaiError(
            f"A {tuple(A.shape)} and B {tuple(B.shape)} do not live in one space: expected the "
            "same d_in"
        )
    ranks = default_ranks(A.shape[1], min(A.shape[0], B.shape[0])) if ranks is None else ranks
    return overlaps_of_directions(principal_directions(A, "A"), principal_directions(B, "B"), ranks)


def overlaps_of_directions(
    u: torch.Tensor, v: torch.Tensor, ranks: Iterable[int]
) -> dict[int, float]:
    """Overlaps, by rank, from two sets of :func:`principal_directions`, ``u (d_in, n_u)`` and
    ``v (d_in, n_v)``.

    Raises
    ------
    HusaiError
        A rank does not lie between 1 and the smaller of ``n_u`` and ``n_v``.
    """
    limit, found = min(u.shape[1], v.shape[1]), {}
    squares = (u[:, :limit].T @ v[:, :limit]).square()
    for rank in ranks:
        if not 1 <= int(rank) <= limit:
            raise HusaiError(
                f"subspace overlap: rank {rank} is not between 1 and {limit}, the smaller of d_in "
                "and d_sae"
            )
        found[int(rank)] = float(squares[:rank, :rank].sum() / rank)
    return found


def activation_covariance(rows, step: int = 8192) -> torch.Tensor:
    """Covariance ``(d, d)`` of activations ``(n, d)``, float64 on the CPU, in two passes of
    ``step`` rows.

    ``rows`` is a tensor, an array, or anything with ``n_rows`` and ``rows(start, stop)`` (an
    activation store).

    Raises
    ------
    HusaiError
        There are fewer than two rows, or they hold NaN or infinite values.
    """
    if isinstance(rows, (torch.Tensor, np.ndarray)):
        rows = matrix_of(rows, "activations")
    n = len(rows) if isinstance(rows, torch.Tensor) else int(rows.n_rows)
    if n < 2:
        raise HusaiError(
            f"activations: {n} rows are too few for a covariance; at least 2 are needed"
        )
    mean = sum(b.double().sum(0) for b in row_batches(rows, n, None, step)) / n
    total = 0.0
    for block in row_batches(rows, n, None, step):
        centred = block.double() - mean
        total = total + centred.T @ centred
    if not torch.isfinite(total).all():
        raise HusaiError(
            f"{getattr(rows, 'path', 'activations')}: NaN or infinite values in the activations; "
            "store them again"
        )
    return (total / (n - 1)).cpu()


def spectrum(x) -> torch.Tensor:
    """Eigenvalues ``(d,)`` of the covariance of activations ``(n, d)`` (or ``x`` itself when
    one-dimensional), as shares that sum to 1.

    Raises
    ------
    HusaiError
        The activations do not vary (no eigenvalue is above 0), are fewer than two rows, or hold NaN
        or infinite values.
    """
    if isinstance(x, (torch.Tensor, np.ndarray)) and x.ndim == 1:
        values = torch.as_tensor(x).detach().cpu().double()
    else:
        values = torch.linalg.eigvalsh(activation_covariance(x))
    values = values.clamp_min(0)
    total = float(values.sum())
    if not total > 0:
        raise HusaiError(
            "effective rank: the activations do not vary (all rows are equal), so there is no "
            "spectrum"
        )
    return values / total


def effective_rank(x) -> float:
    r"""``exp(H(p))`` with ``p = lambda / sum(lambda)``: the number of directions activations use,
    in [1, d].

    Parameters
    ----------
    x : Tensor or array (n, d), activation store, or Tensor or array (d,)
        Activations, whose centred covariance gives the eigenvalues lambda; or the eigenvalues
        themselves.

    References
    ----------
    Roy & Vetterli, "The effective rank", EUSIPCO 2007 (there of singular values).

    Examples
    --------
    >>> round(effective_rank(torch.tensor([2.0, 1.0, 1.0])), 4)
    2.8284
    """
    p = spectrum(x)
    p = p[p > 0]
    return float(torch.exp(-(p * p.log()).sum()))


def participation_ratio(x) -> float:
    """``(sum lambda)^2 / sum lambda^2`` of the same eigenvalues as :func:`effective_rank` takes; at
    most the effective rank.

    References
    ----------
    Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", 2017.
    """
    return float(1.0 / spectrum(x).square().sum())

"""How alike two dictionaries are: PWMCC, its per-feature maxima, and the all-pairs matrices built from them.

Decoders are ``(d_sae, d_in)`` with one feature per row; the orientation is never guessed from the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from husai.errors import HusaiError

# Few large products: on a busy CPU every parallel region waits for its slowest thread. One block of cosines is 64 (256) MB.
CPU_BLOCK = (4096, 4096)
CUDA_BLOCK = (8192, 8192)
SMALLEST_NORM = 1e-30
FEATURE_MATCH = 0.7


class UnitRows:
    """The rows of a dictionary scaled to length one, block by block, so that no normalised copy of the whole is made.

    Parameters
    ----------
    matrix : Tensor (d_sae, d_in)
        Features as rows. Half precision is computed in float32, float64 stays float64.
    alive : BoolTensor (d_sae,) or None
        Rows to keep; None keeps all.
    name : str
        What to call the matrix in an error.
    device : torch.device or str or None
        Where blocks are computed; None is where the matrix lies.
    dtype : torch.dtype or None
        Format of the blocks; None is :func:`working_dtype`.

    Raises
    ------
    HusaiError
        Not two-dimensional, no rows, no living rows, a NaN or infinite entry, or a row of length zero.
    """

    def __init__(self, matrix: torch.Tensor, alive: torch.Tensor | None = None, name: str = "dictionary", device=None, dtype=None):
        check_matrix(matrix, name)
        self.matrix, self.name = matrix, name
        self.index = None if alive is None else alive_index(alive, matrix.shape[0], name).to(matrix.device)
        self.n = matrix.shape[0] if self.index is None else int(self.index.numel())
        self.d_in = matrix.shape[1]
        self.device = matrix.device if device is None else torch.device(device)
        self.dtype = dtype or working_dtype(matrix)
        self.scale = self._inverse_norms()

    def _raw(self, start: int, stop: int) -> torch.Tensor:
        rows = self.matrix[start:stop] if self.index is None else self.matrix[self.index[start:stop]]
        return rows.to(self.device)

    def _inverse_norms(self, step: int = 4096) -> torch.Tensor:
        norms = [torch.linalg.vector_norm(self._raw(i, i + step), dim=1, dtype=torch.float64) for i in range(0, self.n, step)]
        norms = torch.cat(norms)
        if not torch.isfinite(norms).all():
            bad = int((~torch.isfinite(norms)).sum())
            raise HusaiError(f"{self.name}: {bad} of {self.n} rows hold NaN or infinite values; retrain or export the checkpoint again")
        zero = norms < SMALLEST_NORM
        if zero.any():
            first = int(zero.nonzero()[0])
            first = first if self.index is None else int(self.index[first])
            raise HusaiError(
                f"{self.name}: {int(zero.sum())} of {self.n} rows are zero (first: row {first}) and have no direction; "
                "exclude them with a mask of living latents"
            )
        return (1.0 / norms).unsqueeze(1)

    def block(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start:stop`` with length one, ``(<= stop - start, d_in)``, on the computing device."""
        rows = self._raw(start, stop)
        return rows.to(self.dtype) * self.scale[start:stop].to(self.dtype)

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """The rows numbered ``index`` (counted among those kept) with length one, on the computing device."""
        where = index if self.index is None else self.index[index.to(self.index.device)]
        rows = self.matrix[where.to(self.matrix.device)].to(self.device, self.dtype)
        return rows * self.scale[index.to(self.device)].to(self.dtype)


def working_dtype(*matrices: torch.Tensor) -> torch.dtype:
    """float64 when any of the tensors is, else float32: half precision is never computed in."""
    return torch.float64 if any(m.dtype == torch.float64 for m in matrices) else torch.float32


def check_matrix(matrix: torch.Tensor, name: str = "dictionary") -> None:
    """Raise a :class:`HusaiError` unless ``matrix`` is a two-dimensional tensor with rows and columns."""
    if not isinstance(matrix, torch.Tensor):
        raise HusaiError(f"{name}: expected a tensor of shape (d_sae, d_in), got {type(matrix).__name__}")
    if matrix.ndim != 2:
        raise HusaiError(f"{name}: expected shape (d_sae, d_in), got {tuple(matrix.shape)}")
    if 0 in matrix.shape:
        raise HusaiError(f"{name}: shape {tuple(matrix.shape)} holds no features; expected (d_sae, d_in) with both at least 1")


def alive_index(alive: torch.Tensor, d_sae: int, name: str = "dictionary") -> torch.Tensor:
    """Row numbers of the living latents of a mask ``(d_sae,)``; all dead, or a mask of another length, is an error."""
    alive = torch.as_tensor(alive)
    if alive.dtype != torch.bool or alive.shape != (d_sae,):
        raise HusaiError(f"{name}: the mask of living latents must be bool of shape ({d_sae},), got {alive.dtype} {tuple(alive.shape)}")
    index = alive.nonzero().flatten()
    if index.numel() == 0:
        raise HusaiError(
            f"{name}: all {d_sae} latents are dead on the held-out rows, so there is nothing to compare; train longer or denser"
        )
    return index


def unit_pair(A, B, alive_a=None, alive_b=None, device=None, names=("A", "B")) -> tuple[UnitRows, UnitRows]:
    """Both dictionaries as :class:`UnitRows`; a different ``d_in`` is an error that names both shapes."""
    check_matrix(A, names[0])
    check_matrix(B, names[1])
    if A.shape[1] != B.shape[1]:
        raise HusaiError(
            f"{names[0]} {tuple(A.shape)} and {names[1]} {tuple(B.shape)} do not live in one space: "
            "expected (d_sae, d_in) with the same d_in, features as rows"
        )
    device, dtype = A.device if device is None else device, working_dtype(A, B)
    a = UnitRows(A, alive_a, names[0], device, dtype)
    same = A is B and alive_a is alive_b
    return a, (a if same else UnitRows(B, alive_b, names[1], device, dtype))


def best_cosines(a: UnitRows, b: UnitRows, signed: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row of either dictionary the highest cosine (absolute unless ``signed``) in the other.

    Computed in blocks with a running maximum both ways: beside the inputs it needs a few blocks of
    ``CPU_BLOCK`` (or ``CUDA_BLOCK``) cosines and the two results.

    Returns
    -------
    best_a : Tensor (n_a,), best_b : Tensor (n_b,)
        Values in [-1, 1], on the computing device.
    """
    rows, cols = CUDA_BLOCK if a.device.type == "cuda" else CPU_BLOCK
    best_a = torch.full((a.n,), -1.0, dtype=a.dtype, device=a.device)
    best_b = torch.full((b.n,), -1.0, dtype=a.dtype, device=a.device)
    # Normalising b again for every block of a costs d_in / rows of the product; one pass when b fits the budget.
    kept = b.n * b.d_in * b.dtype.itemsize <= 128 * 2**20
    blocks = {j: b.block(j, j + cols).T for j in range(0, b.n, cols)} if kept else {}
    for i in range(0, a.n, rows):
        left = a.block(i, i + rows)
        for j in range(0, b.n, cols):
            cosines = left @ (blocks[j] if kept else b.block(j, j + cols).T)
            if not signed:
                cosines.abs_()
            torch.maximum(best_a[i : i + rows], cosines.amax(1), out=best_a[i : i + rows])
            torch.maximum(best_b[j : j + cols], cosines.amax(0), out=best_b[j : j + cols])
    return best_a.clamp_(-1.0, 1.0), best_b.clamp_(-1.0, 1.0)


def pwmcc(A: torch.Tensor, B: torch.Tensor, alive_a=None, alive_b=None, device=None) -> float:
    r"""Pairwise maximum cosine correlation of two dictionaries (HUSAI).

    With ``C`` the cosines of all rows, ``(mean_i max_j |C_ij| + mean_j max_i |C_ij|) / 2``. Invariant to the order and
    the sign of rows, symmetric; 1 for equal dictionaries, and far above 0 for random ones: see :mod:`husai.stability.nulls`.

    Parameters
    ----------
    A, B : Tensor (d_sae, d_in)
        Features as rows (``W_dec`` of SAELens). ``d_sae`` may differ, ``d_in`` may not.
    alive_a, alive_b : BoolTensor (d_sae,) or None
        Latents to keep; None keeps all.
    device
        Where to compute; None is where A lies.

    Raises
    ------
    HusaiError
        Shapes that do not fit (both are named), NaN, zero rows, no living latent.
    """
    a, b = unit_pair(A, B, alive_a, alive_b, device)
    best_a, best_b = best_cosines(a, b)
    return float((best_a.double().mean() + best_b.double().mean()) / 2)


class PairwiseBest(NamedTuple):
    """All pairs of an ensemble."""

    matrix: torch.Tensor
    """PWMCC ``(n, n)``, float64 on the CPU, ones on the diagonal."""
    best: list[torch.Tensor]
    """For SAE i, ``(n_i, n)``: the highest |cosine| of each of its (living) features in SAE j; ones in column i."""


def pairwise_best(decoders: Sequence[torch.Tensor], alive: Sequence | None = None, device=None, names=None) -> PairwiseBest:
    """PWMCC of every pair and each feature's best match in every other SAE. A pair's value depends on that pair alone."""
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


def pairwise(decoders: Sequence[torch.Tensor], alive: Sequence | None = None, device=None, names=None) -> torch.Tensor:
    """PWMCC of every pair: ``(n, n)`` float64 on the CPU, ones on the diagonal; see :func:`pwmcc`."""
    return pairwise_best(decoders, alive, device, names).matrix


def mean_to_others(matrix: torch.Tensor) -> torch.Tensor:
    """Each SAE's mean PWMCC with the others, ``(n,)``, from the matrix of :func:`pairwise`; its mean is the ensemble's PWMCC."""
    n = matrix.shape[0]
    return (matrix.sum(1) - matrix.diagonal()) / (n - 1)


def unit_ensemble(decoders: Sequence[torch.Tensor], alive: Sequence | None = None, device=None, names=None) -> list[UnitRows]:
    """Every decoder as :class:`UnitRows`, checked to live in one space; fewer than two is an error."""
    n = len(decoders)
    names = names or [f"decoder {i}" for i in range(n)]
    if n < 2:
        raise HusaiError(f"stability needs at least two SAEs of different seeds, got {n}; train or pass more")
    alive = alive if alive is not None else [None] * n
    for name, decoder in zip(names, decoders, strict=True):
        check_matrix(decoder, name)
        if decoder.shape[1] != decoders[0].shape[1]:
            raise HusaiError(
                f"{names[0]} {tuple(decoders[0].shape)} and {name} {tuple(decoder.shape)} do not live in one space: "
                "expected (d_sae, d_in) with the same d_in, features as rows"
            )
    device = decoders[0].device if device is None else device
    dtype = working_dtype(*decoders)
    return [UnitRows(d, m, name, device, dtype) for d, m, name in zip(decoders, alive, names, strict=True)]


def feature_stability(
    decoders: Sequence[torch.Tensor], threshold: float = FEATURE_MATCH, alive: Sequence | None = None, device=None
) -> list[torch.Tensor]:
    r"""sigma_i of every feature: the fraction of the other seeds in which a match with |cosine| > ``threshold`` reappears.

    Returns one float64 tensor ``(n_living,)`` per decoder, values in [0, 1]. Source: arXiv 2606.12138.
    """
    return sigma_from_best(pairwise_best(decoders, alive, device).best, threshold)


def sigma_from_best(best: Sequence[torch.Tensor], threshold: float = FEATURE_MATCH) -> list[torch.Tensor]:
    """:func:`feature_stability` from the maxima of :func:`pairwise_best`."""
    n = len(best)
    return [((b > threshold).double().sum(1) - 1.0) / (n - 1) for b in best]


def reappearance_matrix(best: Sequence[torch.Tensor], threshold: float = FEATURE_MATCH) -> torch.Tensor:
    """``(n, n)`` share of features with a match above ``threshold``, averaged over both directions of a pair."""
    n = len(best)
    share = torch.stack([(b > threshold).double().mean(0) for b in best])
    return (share + share.T) / 2 if n > 1 else share


def movement(W_dec: torch.Tensor, initial: torch.Tensor, alive=None) -> float:
    """Median cosine of each decoder row to its own initial row, in [-1, 1]; near 1 means the SAE barely moved.

    Both ``(d_sae, d_in)`` in the same row order.
    """
    check_matrix(W_dec, "decoder")
    check_matrix(initial, "initial decoder")
    if W_dec.shape != initial.shape:
        raise HusaiError(f"decoder {tuple(W_dec.shape)} and initial decoder {tuple(initial.shape)} differ in shape")
    now, then = UnitRows(W_dec, alive, "decoder"), UnitRows(initial, alive, "initial decoder", W_dec.device, working_dtype(W_dec))
    cosines = [(now.block(i, i + 4096) * then.block(i, i + 4096)).sum(1) for i in range(0, now.n, 4096)]
    return float(torch.cat(cosines).double().quantile(0.5))

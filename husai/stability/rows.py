"""Dictionaries as they come in: checked, converted, and their rows scaled to length one block by
block.

A dictionary is ``(d_sae, d_in)`` with one feature per row; the orientation is never guessed from
the shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from husai.errors import HusaiError

SMALLEST_NORM = 1e-30
"""A shorter row has no direction: its square underflows in float32."""


class UnitRows:
    """The rows of a dictionary scaled to length one, block by block, so that no normalised copy of
    the whole is made.

    ``matrix (d_sae, d_in)`` has features as rows, of which ``alive (d_sae,)`` are kept. Blocks are
    computed on ``device`` (by default where the matrix lies) in ``dtype`` (by default
    :func:`working_dtype`); ``name`` is for errors.

    Raises
    ------
    HusaiError
        Not two-dimensional, no rows, no living rows, a NaN or infinite entry, or a row of length
        zero.
    """

    def __init__(
        self,
        matrix: torch.Tensor,
        alive: torch.Tensor | None = None,
        name: str = "dictionary",
        device=None,
        dtype=None,
    ):
        matrix = matrix_of(matrix, name)
        self.matrix, self.name = matrix, name
        self.index, self.n = None, matrix.shape[0]
        if alive is not None:
            self.index = alive_index(alive, matrix.shape[0], name).to(matrix.device)
            self.n = len(self.index)
        self.d_in = matrix.shape[1]
        self.device = matrix.device if device is None else torch.device(device)
        self.dtype = dtype or working_dtype(matrix)
        self.scale = self._inverse_norms()

    def _raw(self, start: int, stop: int) -> torch.Tensor:
        kept = slice(start, stop) if self.index is None else self.index[start:stop]
        return self.matrix[kept].to(self.device)

    def _inverse_norms(self, step: int = 4096) -> torch.Tensor:
        blocks = (self._raw(i, i + step) for i in range(0, self.n, step))
        norms = [torch.linalg.vector_norm(b, dim=1, dtype=torch.float64) for b in blocks]
        norms = torch.cat(norms)
        if not torch.isfinite(norms).all():
            bad = int((~torch.isfinite(norms)).sum())
            raise HusaiError(
                f"{self.name}: {bad} of {self.n} rows hold NaN or infinite values; retrain or "
                "export the checkpoint again"
            )
        zero = norms < SMALLEST_NORM
        if zero.any():
            first = int(zero.nonzero()[0])
            first = first if self.index is None else int(self.index[first])
            raise HusaiError(
                f"{self.name}: {int(zero.sum())} of {self.n} rows are zero (first: row {first}) "
                "and have no direction; exclude them with a mask of living latents"
            )
        return (1.0 / norms).unsqueeze(1)

    def block(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start:stop`` of the ``(n, d_in)`` kept, with length one, on the computing device:
        ``(<= stop - start, d_in)``.
        """
        return self._raw(start, stop).to(self.dtype) * self.scale[start:stop].to(self.dtype)

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """The rows numbered ``index (m,)`` (counted among those kept) with length one,
        ``(m, d_in)``, on the computing device.
        """
        where = index if self.index is None else self.index[index.to(self.index.device)]
        rows = self.matrix[where.to(self.matrix.device)].to(self.device, self.dtype)
        return rows * self.scale[index.to(self.device)].to(self.dtype)


def working_dtype(*matrices: torch.Tensor) -> torch.dtype:
    """float64 when any of the tensors is, else float32: half precision is never computed in."""
    return torch.float64 if any(m.dtype == torch.float64 for m in matrices) else torch.float32


def matrix_of(value, name: str = "dictionary") -> torch.Tensor:
    """A tensor or numpy array ``(rows, columns)`` as a floating-point tensor without gradient;
    shares memory where it can.

    Raises
    ------
    HusaiError
        Anything else, not two-dimensional, or without rows or columns; says what was found.
    """
    if isinstance(value, np.ndarray):
        value = _tensor_of(value, name)
    if not isinstance(value, torch.Tensor):
        raise HusaiError(
            f"{name}: expected a tensor or numpy array of shape (d_sae, d_in), got "
            f"{type(value).__name__}"
        )
    if value.ndim != 2:
        raise HusaiError(f"{name}: expected shape (d_sae, d_in), got {tuple(value.shape)}")
    if 0 in value.shape:
        raise HusaiError(
            f"{name}: shape {tuple(value.shape)} holds no features; expected (d_sae, d_in) with "
            "both at least 1"
        )
    if value.is_complex():
        raise HusaiError(f"{name}: expected real numbers, got {value.dtype}")
    return value.detach() if value.is_floating_point() else value.detach().float()


def _tensor_of(array: np.ndarray, name: str) -> torch.Tensor:
    shareable = array.flags.writeable and all(step >= 0 for step in array.strides)
    try:
        return torch.from_numpy(array if shareable else array.copy())
    except (TypeError, ValueError):
        raise HusaiError(
            f"{name}: cannot compute with a numpy array of {array.dtype}; convert it to float32 "
            "or float64"
        ) from None


def alive_index(alive: torch.Tensor, d_sae: int, name: str = "dictionary") -> torch.Tensor:
    """Row numbers ``(n_living,)``, int64, of the living latents of a mask ``(d_sae,)``.

    Raises
    ------
    HusaiError
        The mask is not bool or of another length, or all latents are dead.
    """
    alive = torch.as_tensor(alive)
    if alive.dtype != torch.bool or alive.shape != (d_sae,):
        raise HusaiError(
            f"{name}: the mask of living latents must be bool of shape ({d_sae},), got "
            f"{alive.dtype} {tuple(alive.shape)}"
        )
    index = alive.nonzero().flatten()
    if index.numel() == 0:
        raise HusaiError(
            f"{name}: all {d_sae} latents are dead on the held-out rows, so there is nothing to "
            "compare; train longer or denser"
        )
    return index


def unit_pair(A, B, alive_a=None, alive_b=None, device=None, names=("A", "B")) -> list[UnitRows]:
    """Both dictionaries ``(d_sae, d_in)`` as :func:`unit_ensemble`, whose errors it raises."""
    return unit_ensemble([A, B], [alive_a, alive_b], device, names)


def unit_ensemble(
    decoders: Sequence[torch.Tensor], alive: Sequence | None = None, device=None, names=None
) -> list[UnitRows]:
    """Every decoder ``(d_sae, d_in)`` as :class:`UnitRows`, with one mask ``(d_sae,)`` or None
    each.

    Raises
    ------
    HusaiError
        There are fewer than two, they differ in ``d_in``, or :class:`UnitRows` refuses one.
    """
    n = len(decoders)
    if n < 2:
        raise HusaiError(
            f"stability needs at least two SAEs of different seeds, got {n}; train or pass more"
        )
    names = names or [f"decoder {i}" for i in range(n)]
    alive = alive if alive is not None else [None] * n
    decoders = [matrix_of(decoder, name) for name, decoder in zip(names, decoders, strict=True)]
    for name, decoder in zip(names, decoders, strict=True):
        if decoder.shape[1] != decoders[0].shape[1]:
            raise HusaiError(
                f"{names[0]} {tuple(decoders[0].shape)} and {name} {tuple(decoder.shape)} do not "
                "live in one space: expected (d_sae, d_in) with the same d_in, features as rows"
            )
    device = decoders[0].device if device is None else device
    dtype = working_dtype(*decoders)
    return [
        UnitRows(d, m, name, device, dtype)
        for d, m, name in zip(decoders, alive, names, strict=True)
    ]


def paired_cosines(
    a: UnitRows, b: UnitRows, rows_a: torch.Tensor, rows_b: torch.Tensor, step: int = 4096
) -> torch.Tensor:
    """Signed cosine of row ``rows_a[k]`` of A with row ``rows_b[k]`` of B (numbers among the rows
    kept): ``(n_pairs,)`` float64 on the CPU.
    """
    parts = [
        (a.take(rows_a[k : k + step]) * b.take(rows_b[k : k + step])).sum(1)
        for k in range(0, len(rows_a), step)
    ]
    return torch.cat(parts).double().cpu() if parts else torch.zeros(0, dtype=torch.float64)

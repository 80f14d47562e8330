"""The code "the k largest of a row, then ReLU" on a CPU with 8-bit dot products: the whole encoder
product in 8 bits says which latents could be among the k largest, and float32 decides between
those. The bounds are rigorous, so the code is that of the float32 product."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from husai.compiled import probe_kernels

CHUNK_ROWS = 512  # fewer, and threads wait less for the interpreter
STEP_ROWS = 128
CHUNK_PRODUCTS = 2**20
LEVELS = 127
NARROW = 64
RARE = 16
DOUBTFUL = 1 / 6
PER_ROW = 2
TOO_LARGE = 1.0e30
UNDERFLOW = 1.0e-33
_memory = threading.local()


def applies(sae) -> bool:
    """Whether screening finds the code of this SAE, which keeps the k largest of a row, faster than
    the float32 product on this machine.
    """
    weights = (sae.W_enc, sae.b_enc, sae.b_dec)
    if (
        sae.d_in < NARROW
        or RARE * sae.k > sae.d_sae
        or any(w.device.type != "cpu" or w.dtype != torch.float32 for w in weights)
    ):
        return False
    return has_byte_products() and all(bool(torch.isfinite(w).all()) for w in weights)


@functools.cache
def has_byte_products() -> bool:
    """Whether the processor multiplies bytes at several times the rate of float32, and torch does
    so without overflow.
    """
    import llvmlite.binding

    features = llvmlite.binding.get_host_cpu_features()
    if not hasattr(torch, "_int_mm") or not (features.get("avx512vnni") or features.get("avxvnni")):
        return False
    low, high = (
        torch.full((STEP_ROWS, 64), -LEVELS, dtype=torch.int8),
        torch.full((64, 64), LEVELS, dtype=torch.int8),
    )
    return bool(
        (torch._int_mm(low, high) == -64 * LEVELS**2).all()
        and (torch._int_mm(low, -high) == 64 * LEVELS**2).all()
    )


class _OutOfRange(Exception):
    """Numbers are too large for bounds, or are none."""


class ScreenedCode(NamedTuple):
    """Per latent what ranking sums over rows, and the code itself without its zeros, row after
    row.
    """

    sums: torch.Tensor
    """``(2, d_sae)``: of the code over the rows of each class"""
    fired: torch.Tensor
    """``(d_sae,)``: on how many rows"""
    latents: np.ndarray
    values: np.ndarray
    ends: np.ndarray
    """``(n,)``: where each row's elements end"""

    def columns(self, latents: torch.Tensor) -> torch.Tensor:
        """Columns of the code, ``(n, len(latents))``; each latent once."""
        place, out = (
            np.full(len(self.fired), -1),
            np.zeros((len(self.ends), len(latents)), np.float32),
        )
        place[latents.numpy()] = np.arange(len(latents))
        probe_kernels().codes.code_columns(self.latents, self.values, self.ends, place, out)
        return torch.from_numpy(out)


class Screen:
    """An SAE's encoder in 255 levels per latent, and how far it can be from the encoder itself.

    For a row x that becomes x' and a latent w that becomes w', ``|x w - x' w'| <= |x| |w - w'| + |x
    - x'| |w'|`` (norms), which is at most ``(share |x| + |x - x'|) reach`` with ``reach = max(|w -
    w'| / share, |w'|)``, whatever ``share`` is. Sums in float32, in any order, are within
    ``rounding (|x| |w| + |b|)`` of exact ones."""

    def __init__(self, sae):
        self.sae, d_in, groups = sae, sae.d_in, probe_kernels().screens.groups_of(sae.k)
        width = -(-sae.d_sae // groups) * groups
        self.W, self.b = sae.W_enc.detach().T.contiguous(), sae.b_enc.detach().contiguous()
        self.codes = torch.zeros(d_in, width, dtype=torch.int8)
        # Scale, bias and reach of a latent; those that only fill up the width are never among the
        # largest.
        self.weights = torch.tensor([0.0, -torch.inf, 0.0]).unsqueeze(1).repeat(1, width)
        self.weights[1, : sae.d_sae] = self.b
        lost, near = torch.empty(2, sae.d_sae, dtype=torch.float64)
        rounding, of_norms = 4 * (d_in + 16) * 2.0**-24, 1.0001 + d_in * 2.0**-24
        for start in range(0, sae.d_sae, 1024):
            part = slice(start, min(start + 1024, sae.d_sae))
            w = self.W[part].double()
            scale = (w.abs().amax(1, keepdim=True) / LEVELS).float().double()
            codes = torch.where(scale > 0, w / scale, 0.0).round().clamp(-LEVELS, LEVELS)
            self.codes[:, part], self.weights[0, part] = codes.T.to(torch.int8), scale[:, 0]
            near[part] = of_norms * (codes * scale).norm(dim=1)
            lost[part] = of_norms * (w - codes * scale).norm(dim=1) + rounding * (
                near[part] + w.norm(dim=1)
            )
        self.share = np.float32(max(float(lost.sum() / near.sum().clamp(min=UNDERFLOW)), UNDERFLOW))
        self.weights[2, : sae.d_sae] = torch.maximum(lost / float(self.share), near)
        self.spare = np.float32(rounding * float(self.b.abs().max()) + d_in * UNDERFLOW)
        self.shift = (sae.b_dec.detach() if sae.apply_b_dec_to_input else torch.zeros(d_in)).numpy()
        self._largest = float(self.weights[2].max())

    def class_sums(self, x: torch.Tensor, y: torch.Tensor) -> ScreenedCode | None:
        """What ranking sums over rows ``x (n, d_in)`` with labels ``y (n,)``; None where too much
        is left in doubt.
        """
        d_sae, end = self.sae.d_sae, 0
        capacity = PER_ROW * self.sae.k * len(x) + 1
        latents, values, ends = (
            np.empty(capacity, np.int32),
            np.empty(capacity, np.float32),
            np.empty(len(x), np.int64),
        )
        try:
            for rows, screened, most in self._chunks(x):
                done = probe_kernels().screens.top_k_code(
                    *screened, most, latents[end:], values[end:], ends[rows]
                )
                ends[rows] += end
                end = ends[rows.stop - 1]
                if done > most or end >= capacity:
                    return None
        except _OutOfRange:
            return None
        sums, fired = np.zeros((2, d_sae), np.float32), np.zeros(d_sae, np.float32)
        probe_kernels().codes.add_code(latents, values, ends, y.numpy(), sums, fired)
        return ScreenedCode(torch.from_numpy(sums), torch.from_numpy(fired), latents, values, ends)

    def columns(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | None:
        """Columns ``latents`` of the code of ``x``, ``(n, len(latents))``; None where too much is
        left in doubt.
        """
        out, columns = np.empty((len(x), len(latents)), np.float32), latents.numpy()
        try:
            for rows, screened, most in self._chunks(x):
                if (
                    probe_kernels().screens.top_k_columns(*screened, most, columns, out[rows])
                    > most
                ):
                    return None
        except _OutOfRange:
            return None
        return torch.from_numpy(out)

    def _chunks(self, x: torch.Tensor) -> Iterator[tuple[slice, tuple[Any, ...], int]]:
        """``(rows, what the kernels read of them, where they should give up)``, good until the
        next.
        """
        products, codes, centred, numbers = _scratch(*self.codes.shape)
        for start in range(0, len(x), len(codes)):
            rows = slice(start, min(start + len(codes), len(x)))
            n = rows.stop - start
            # Rounded up: for every other number of rows torch would prepare another product.
            several = -(-n // STEP_ROWS) * STEP_ROWS
            part = x[rows].float().contiguous().numpy()
            probe_kernels().codes.quantise(
                part, self.shift, self.share, centred, codes.numpy(), *numbers
            )
            if not numbers[1, :n].max() * self._largest < TOO_LARGE:
                raise _OutOfRange
            multiply(codes[:several], self.codes, products[:several])
            of_sae = (self.W.numpy(), self.b.numpy(), self.sae.k)
            most = int(DOUBTFUL * self.sae.d_sae * n)
            yield (
                rows,
                (products.numpy(), numbers, self.weights.numpy(), self.spare, centred[:n], *of_sae),
                most,
            )


def multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """``out = a @ b``, int8 to int32."""
    torch._int_mm(a, b, out=out)


def _scratch(d_in: int, width: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Products, codes, centred rows and two numbers of each row of a chunk, in memory that each
    thread keeps.
    """
    if getattr(_memory, "shape", None) != (d_in, width):
        rows = min(max(CHUNK_PRODUCTS // width // STEP_ROWS * STEP_ROWS, STEP_ROWS), CHUNK_ROWS)
        products, codes = (
            torch.zeros(rows, width, dtype=torch.int32),
            torch.zeros(rows, d_in, dtype=torch.int8),
        )
        _memory.kept = (
            products,
            codes,
            np.zeros((rows, d_in), np.float32),
            np.zeros((2, rows), np.float32),
        )
        _memory.shape = (d_in, width)
    return _memory.kept

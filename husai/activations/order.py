"""The order in which rows are read: a pure function of seed and position, so that a reader resumes
from one integer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

_MASK = (1 << 64) - 1
"""Sums and products are modulo 2^64, as splitmix64 takes them."""


def stream_seed(*parts: int) -> int:
    """Mix integers into one 63-bit seed (the splitmix64 finaliser after each part), so that
    neighbouring seeds and epochs share nothing.
    """
    state = 0
    for part in parts:
        state = (state + (int(part) & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def permutation(n: int, *seed: int) -> torch.Tensor:
    """A uniform permutation of ``range(n)`` from the mixed seed: int64 ``(n,)`` on the CPU."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(stream_seed(*seed)))


class FullOrder:
    """An exact uniform permutation of all rows, a new one every epoch."""

    def __init__(self, n_rows: int, seed: int):
        self.n_rows, self.seed = n_rows, seed

    def from_position(self, position: int) -> Iterator[torch.Tensor]:
        """Numbers of the rows from ``position`` of the endless stream on, int64 on the CPU: what is
        left of its epoch, ``(n,)`` with n at most ``n_rows``, then ``(n_rows,)`` epoch after epoch.
        """
        while True:
            epoch, offset = divmod(position, self.n_rows)
            order = permutation(self.n_rows, self.seed, epoch)[offset:]
            position += len(order)
            yield order


class Window(NamedTuple):
    """One load of the shuffle buffer."""

    epoch: int
    """Pass over the data."""
    index: int
    """Number of the window within the epoch."""
    start: int
    """Rows emitted in this epoch before this window."""
    n_rows: int
    """Rows in this window."""


class BlockOrder:
    """Block shuffle: each epoch, contiguous blocks in random order, grouped into windows that fit
    in memory.

    Holds one integer per block (of the current epoch), never one per row. ``window_blocks`` is the
    largest number of blocks in a window; windows of an epoch differ by at most one block, so none
    has fewer than half of it when there is more than one window."""

    def __init__(self, n_rows: int, block_rows: int, window_blocks: int, seed: int):
        self.n_rows, self.block_rows, self.seed = n_rows, block_rows, seed
        self.n_blocks = -(-n_rows // block_rows)
        self.n_windows = -(-self.n_blocks // window_blocks)
        self.largest = -(-self.n_blocks // self.n_windows) * block_rows
        self._epoch, self._blocks, self._short = -1, torch.empty(0), 0

    def windows(self, position: int) -> Iterator[tuple[Window, torch.Tensor]]:
        """Windows from the row at ``position`` of the endless stream on, each with the order in
        which its rows are emitted; of the first one only what is left.

        An order is int64 ``(n,)`` on the CPU and counts from the window's first row; n is
        ``window.n_rows``, or less in the first one.
        """
        while True:
            window = self.window_at(position)
            offset = position - window.epoch * self.n_rows - window.start
            order = self.shuffle(window)[offset:]
            position += len(order)
            yield window, order

    def from_position(self, position: int) -> Iterator[torch.Tensor]:
        """Numbers of the rows from ``position`` on, window after window, for rows that are all in
        memory: int64 ``(n,)`` on the CPU, n the rows of the window that are left.
        """
        for window, order in self.windows(position):
            yield self.rows(window)[order]

    def window_at(self, position: int) -> Window:
        """The window that holds the row at ``position`` of the endless stream."""
        epoch, offset = divmod(position, self.n_rows)
        low, high = 0, self.n_windows - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._rows_before(epoch, middle) <= offset:
                low = middle
            else:
                high = middle - 1
        start = self._rows_before(epoch, low)
        return Window(epoch, low, start, self._rows_before(epoch, low + 1) - start)

    def blocks(self, window: Window) -> list[tuple[int, int]]:
        """Rows ``(start, stop)`` of a window's blocks, ascending so that the disk reads forward."""
        return [
            (b * self.block_rows, min((b + 1) * self.block_rows, self.n_rows))
            for b in self._chosen(window).tolist()
        ]

    def rows(self, window: Window) -> torch.Tensor:
        """Numbers of a window's rows in the order in which its blocks are read: int64 ``(n,)`` on
        the CPU, n being ``window.n_rows``.
        """
        first = self._chosen(window)[:, None] * self.block_rows
        numbers = (first + torch.arange(self.block_rows)).view(-1)
        return numbers[numbers < self.n_rows]

    def shuffle(self, window: Window) -> torch.Tensor:
        """The permutation of a window's rows: int64 ``(n,)`` on the CPU, n being its ``n_rows``."""
        return permutation(window.n_rows, self.seed, window.epoch, 1 + window.index)

    def _chosen(self, window: Window) -> torch.Tensor:
        """Blocks of a window in ascending order."""
        ends = slice(self._cut(window.index), self._cut(window.index + 1))
        return self._order(window.epoch)[ends].sort().values

    def _order(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            self._epoch, self._blocks = epoch, permutation(self.n_blocks, self.seed, epoch, 0)
            self._short = int((self._blocks == self.n_blocks - 1).nonzero())
        return self._blocks

    def _cut(self, window: int) -> int:
        return window * self.n_blocks // self.n_windows

    def _rows_before(self, epoch: int, window: int) -> int:
        """Rows in the first ``window`` windows: whole blocks, less what the short one lacks."""
        cut = self._cut(window)
        self._order(epoch)
        lacking = self.n_blocks * self.block_rows - self.n_rows if self._short < cut else 0
        return cut * self.block_rows - lacking

"""What a reader does to make its batches: permuted rows held in memory, or windows of shuffled blocks loaded from disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch

from husai.activations.order import BlockOrder, Window, permutation
from husai.activations.prefetch import Prefetcher
from husai.activations.store import ActivationStore

Rows = torch.Tensor | ActivationStore
Batch = list[torch.Tensor]


class Plan(NamedTuple):
    """Everything the batches depend on; batches are a pure function of it and of a position in the endless stream of rows."""

    sources: list[Rows]
    """Row for row, one or two."""
    n_rows: int
    """Rows of an epoch."""
    batch_size: int
    seed: int
    order: BlockOrder | None
    """Order of blocks when streaming; None keeps all rows in memory."""
    device: torch.device
    """Where batches are delivered."""
    dtype: torch.dtype
    """Number format of delivered batches."""
    prefetch: bool
    """Work ahead in background threads."""

    def batches(self, position: int) -> Iterator[Batch]:
        """Endless batches, one tensor per source, from the row at ``position`` on; closing the iterator ends its threads."""
        if self.order is None:
            made = self._resident(position)
            ahead = self.prefetch
        else:
            made = self._streamed(position)
            ahead = self.prefetch and self.device.type == "cuda"
        if not ahead:
            yield from made
            return
        prefetcher = Prefetcher(made, self.device)
        try:
            yield from prefetcher
        finally:
            prefetcher.stop()

    def _resident(self, position: int) -> Iterator[Batch]:
        """An exact permutation per epoch of rows held in memory."""
        held = [s[: self.n_rows] if isinstance(s, torch.Tensor) else s.resident(self.n_rows, self.device) for s in self.sources]
        epoch, offset = divmod(position, self.n_rows)
        order = permutation(self.n_rows, self.seed, epoch).to(held[0].device)
        while True:
            pieces, missing = [], self.batch_size
            while missing:
                if offset == self.n_rows:
                    epoch, offset = epoch + 1, 0
                    order = permutation(self.n_rows, self.seed, epoch).to(held[0].device)
                pieces.append(order[offset : offset + missing])
                offset, missing = offset + len(pieces[-1]), missing - len(pieces[-1])
            index = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            yield [self._deliver(rows) for rows in _gather(held, index)]

    def _streamed(self, position: int) -> Iterator[Batch]:
        """Windows of shuffled blocks; with prefetching a thread loads the next one meanwhile."""
        windows = self._windows(position)
        if self.prefetch:
            windows = Prefetcher(windows, torch.device("cpu"), depth=1)
        try:
            held, order, offset = next(windows)
            while True:
                pieces, missing = [], self.batch_size
                while missing:
                    if offset == len(order):
                        held, order, offset = next(windows)
                    index = order[offset : offset + missing]
                    pieces.append(_gather(held, index))
                    offset, missing = offset + len(index), missing - len(index)
                yield [self._deliver(torch.cat(p) if len(p) > 1 else p[0]) for p in zip(*pieces, strict=True)]
        finally:
            if isinstance(windows, Prefetcher):
                windows.stop()

    def _windows(self, position: int) -> Iterator[tuple[Batch, torch.Tensor, int]]:
        """Rows of a window, their shuffled order, and where in it to start."""
        buffers: list[Batch] = []
        for turn in itertools.count():
            if turn < 2:  # two in turn: one is emitted while the other is filled
                buffers.append([_buffer(s, self.order.largest) for s in self.sources])
            window = self.order.window_at(position)
            start = window.epoch * self.n_rows + window.start
            yield self._load(window, buffers[turn % 2]), self.order.shuffle(window), position - start
            position = start + window.n_rows

    def _load(self, window: Window, buffers: Batch) -> Batch:
        """Rows of a window from every source, in block order, in the stored dtype."""
        blocks, loaded = self.order.blocks(window), []
        for source, buffer in zip(self.sources, buffers, strict=True):
            if isinstance(source, torch.Tensor):
                loaded.append(torch.cat([source[start:stop] for start, stop in blocks]))
                continue
            rows = buffer[: window.n_rows]
            for start, stop in blocks:
                source.will_need(start, stop)
            done = 0
            for start, stop in blocks:
                source.read_into(start, rows[done : done + stop - start])
                done += stop - start
            loaded.append(rows)
        return loaded

    def _deliver(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(self.dtype)
        if self.prefetch and self.device.type == "cuda" and rows.device.type == "cpu":
            return rows.pin_memory().to(self.device, non_blocking=True)
        return rows.to(self.device)


def _gather(held: Batch, index: torch.Tensor) -> Batch:
    return [h.index_select(0, index if h.device == index.device else index.to(h.device)) for h in held]


def _buffer(source: Rows, n_rows: int) -> torch.Tensor:
    if isinstance(source, torch.Tensor):
        return source[:0]
    return torch.empty(n_rows, source.d, dtype=source.torch_dtype)

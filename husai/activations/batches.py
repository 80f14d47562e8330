"""What a reader does to make its batches: rows held in memory, on the device where they fit, or
windows of shuffled blocks from disk.
"""

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
    """Everything the batches depend on; batches are a pure function of it and of a position in the
    endless stream of rows.
    """

    sources: list[Rows]
    """Row for row, one or two."""
    n_rows: int
    """Rows of an epoch."""
    batch_size: int
    seed: int
    order: BlockOrder | None
    """Order of blocks for rows that may have to be streamed; None permutes all rows of an epoch."""
    device: torch.device
    """Where batches are delivered."""
    dtype: torch.dtype
    """Number format of delivered batches."""
    hold: bool | None
    """Keep stored rows on the device; None does so on a CUDA device when they take at most half of
    its free memory.
    """
    prefetch: bool | None
    """Work ahead in background threads; None where batches come from disk or cross to the
    device.
    """

    def batches(self, position: int) -> Iterator[Batch]:
        """Endless batches, one tensor per source, from the row at ``position`` on; closing the
        iterator ends its threads.
        """
        held = self._held()
        turns = self._windows(position) if held is None else self._orders(held, position)
        crosses = self.device.type == "cuda" and (
            held is None or any(h.device.type != "cuda" for h in held)
        )
        ahead = self.prefetch is not False
        made = self._cut(turns, ahead=ahead and held is None)
        if not ahead or not (crosses or (self.prefetch and held is not None)):
            yield from made
            return
        prefetcher = Prefetcher(made, self.device)
        try:
            yield from prefetcher
        finally:
            prefetcher.close()

    def _held(self) -> Batch | None:
        """All rows in memory, in the stored dtype; None when they are streamed from disk."""
        hold = self.hold
        if hold is None:
            hold = (
                self.device.type == "cuda"
                and missing_bytes(self.sources, self.n_rows, self.device)
                <= free_bytes(self.device) // 2
            )
        if self.order is not None and not hold:
            return None
        where = self.device if hold else torch.device("cpu")
        return [
            s[: self.n_rows] if isinstance(s, torch.Tensor) else s.resident(self.n_rows, where)
            for s in self.sources
        ]

    def _cut(self, turns: Iterator[Batch], ahead: bool) -> Iterator[Batch]:
        """Batches from turns ``[rows of each source ..., order to take them in]``; with ``ahead`` a
        thread prepares the next turn meanwhile.
        """
        if ahead:
            turns = Prefetcher(turns, torch.device("cpu"), depth=1)
        try:
            *held, order = next(turns)
            offset = 0
            while True:
                pieces, missing = [], self.batch_size
                while missing:
                    if offset == len(order):
                        *held, order = next(turns)
                        offset = 0
                    index = order[offset : offset + missing]
                    pieces.append(_gather(held, index))
                    offset, missing = offset + len(index), missing - len(index)
                yield [
                    self._deliver(torch.cat(p) if len(p) > 1 else p[0])
                    for p in zip(*pieces, strict=True)
                ]
        finally:
            turns.close()

    def _orders(self, held: Batch, position: int) -> Iterator[Batch]:
        """Turns of rows held in memory: an epoch each, or a window each in the order of streaming.
        On CUDA a thread draws the next one.
        """
        on_cuda = held[0].device.type == "cuda"
        orders = self._drawn(position, held[0].device)
        if on_cuda and self.prefetch is not False:
            orders = Prefetcher(orders, held[0].device, depth=1)
        try:
            for (order,) in orders:
                yield [*held, order]
        finally:
            orders.close()

    def _drawn(self, position: int, device: torch.device) -> Iterator[Batch]:
        """What is left of the order of the epoch or window at ``position``, then the next ones, on
        ``device``.
        """
        while True:
            if self.order is None:
                epoch, offset = divmod(position, self.n_rows)
                order = permutation(self.n_rows, self.seed, epoch)[offset:]
            else:
                window = self.order.window_at(position)
                offset = position - window.epoch * self.n_rows - window.start
                order = self.order.rows(window)[self.order.shuffle(window)[offset:]]
            position += len(order)
            yield [_sent(order, device)]

    def _windows(self, position: int) -> Iterator[Batch]:
        """Turns of rows streamed from disk: a window each."""
        buffers: list[Batch] = []
        for turn in itertools.count():
            if turn < 2:  # two in turn: one is emitted while the other is filled
                buffers.append([_buffer(s, self.order.largest) for s in self.sources])
            window = self.order.window_at(position)
            order = self.order.shuffle(window)[
                position - window.epoch * self.n_rows - window.start :
            ]
            yield [*self._load(window, buffers[turn % 2]), order]
            position += len(order)

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
        """On the device and in the dtype asked for; the stored dtype crosses to the device, as it
        is never the wider one.
        """
        return _sent(rows, self.device).to(self.dtype)


def free_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device."""
    return torch.cuda.mem_get_info(device)[0]


def missing_bytes(sources: list[Rows], n_rows: int, device: torch.device) -> int:
    """What holding the stored rows on ``device`` would take beyond what is there already."""
    stores = (
        s for s in sources if isinstance(s, ActivationStore) and not s.is_resident(n_rows, device)
    )
    return sum(n_rows * s.row_bytes for s in stores)


def _sent(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``rows`` on ``device``; from the host to a CUDA device through pinned memory, without waiting
    for the copy.
    """
    if device.type == "cuda" and rows.device.type == "cpu":
        return rows.pin_memory().to(device, non_blocking=True)
    return rows.to(device)


def _gather(held: Batch, index: torch.Tensor) -> Batch:
    return [
        h.index_select(0, index if h.device == index.device else index.to(h.device)) for h in held
    ]


def _buffer(source: Rows, n_rows: int) -> torch.Tensor:
    if isinstance(source, torch.Tensor):
        return source[:0]
    return torch.empty(n_rows, source.d, dtype=source.torch_dtype)

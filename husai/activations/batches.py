"""From rows and an order to batches. A *turn* is what is read at once, an epoch or a window: the
rows of every source, and the order in which to take them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from husai.activations.order import BlockOrder, FullOrder, Window
from husai.activations.prefetch import Prefetcher
from husai.activations.store import ActivationStore, Rows

Batch = list[torch.Tensor]
"""One tensor per source."""


def held_turns(
    held: Batch, order: FullOrder | BlockOrder, position: int, ahead: bool
) -> Iterator[Batch]:
    """Turns ``[*held, order]`` of rows that are all in memory; with ``ahead`` a thread draws the
    next order meanwhile.
    """
    device = held[0].device
    orders = ([sent(rows, device)] for rows in order.from_position(position))
    if ahead:
        orders = Prefetcher(orders, device, depth=1)
    try:
        for (rows,) in orders:
            yield [*held, rows]
    finally:
        orders.close()


def streamed_turns(sources: list[Rows], order: BlockOrder, position: int) -> Iterator[Batch]:
    """Turns of rows read from disk, a window each.

    Two sets of buffers take turns: one is emitted while the other is filled."""
    buffers: list[Batch] = []
    for turn, (window, rows) in enumerate(order.windows(position)):
        if turn < 2:
            buffers.append([_buffer(source, order.largest) for source in sources])
        yield [*_load(sources, order, window, buffers[turn % 2]), rows]


def cut(
    turns: Iterator[Batch], batch_size: int, device: torch.device, dtype: torch.dtype
) -> Iterator[Batch]:
    """Batches of ``batch_size`` rows from turns, on ``device`` and in ``dtype``; a batch may span
    several turns. The stored dtype is what crosses to the device, as it is never the wider one.
    """
    try:
        *held, order = next(turns)
        offset = 0
        while True:
            pieces, missing = [], batch_size
            while missing:
                if offset == len(order):
                    *held, order = next(turns)
                    offset = 0
                index = order[offset : offset + missing]
                pieces.append([rows.index_select(0, index.to(rows.device)) for rows in held])
                offset, missing = offset + len(index), missing - len(index)
            batch = [torch.cat(p) if len(p) > 1 else p[0] for p in zip(*pieces, strict=True)]
            yield [sent(rows, device).to(dtype) for rows in batch]
    finally:
        turns.close()


def missing_bytes(sources: list[Rows], n_rows: int, device: torch.device) -> int:
    """What holding the stored rows on ``device`` would take beyond what is there already."""
    stores = (
        s for s in sources if isinstance(s, ActivationStore) and not s.is_resident(n_rows, device)
    )
    return sum(n_rows * s.row_bytes for s in stores)


def sent(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``rows``, ``(n, d)`` values or ``(n,)`` row numbers, on ``device`` with shape and dtype kept;
    from the host to a CUDA device through pinned memory, without waiting for the copy.
    """
    if device.type == "cuda" and rows.device.type == "cpu":
        return rows.pin_memory().to(device, non_blocking=True)
    return rows.to(device)


def _load(sources: list[Rows], order: BlockOrder, window: Window, buffers: Batch) -> Batch:
    """Rows of a window from every source, in the order of its blocks and in the stored dtype."""
    blocks, loaded = order.blocks(window), []
    for source, buffer in zip(sources, buffers, strict=True):
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


def _buffer(source: Rows, n_rows: int) -> torch.Tensor:
    if isinstance(source, torch.Tensor):
        return source[:0]
    return torch.empty(n_rows, source.d, dtype=source.torch_dtype)

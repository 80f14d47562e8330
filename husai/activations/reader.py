"""Endless shuffled batches of a tensor or a store, in bounded memory, resumed from one integer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from husai.activations.batches import Batch, cut, held_turns, missing_bytes, streamed_turns
from husai.activations.order import BlockOrder, FullOrder
from husai.activations.prefetch import Prefetcher
from husai.activations.store import ActivationStore, Rows
from husai.compute import free_bytes
from husai.errors import HusaiError

RESIDENT_BYTES = 512 << 20
"""A store of this size is permuted in memory: on a machine with the 6 GB that the default run may
use it leaves room for everything else.
"""
WINDOW_BYTES = 64 << 20
"""Rows that are shuffled among each other; two windows are in memory, one emitted and one
loaded."""
BLOCK_BYTES = 64 << 10
"""A block is long enough for a disk to read at full speed, and a window holds 1024 of them, so that
rows of one block meet in one batch about as rarely as chance has it (see :class:`BatchReader`).
"""


class BatchReader:
    """Infinite iterator of shuffled batches ``(batch_size, d)``, or of pairs ``(x, y)`` when a
    ``target`` is given.

    The order depends only on ``seed``, the number of rows and the sizes below, never on the device,
    on where the rows are held or on prefetching. Every epoch reads every row exactly once; a batch
    spans two epochs when ``batch_size`` does not divide the rows.

    - *Permuted*: a tensor, or a store of at most ``resident_bytes``, is read in an exact uniform
      permutation per epoch, from memory.
    - *In windows*: a larger store is read by block shuffle and a buffer. Each epoch takes its
      contiguous blocks of b rows in uniformly random order; as many as fit in ``window_bytes`` form
      a window of M rows, which is loaded (sequential reads inside a block) and emitted in a
      uniformly random permutation. With ``hold`` the windows are taken from rows that are all on
      the device.

    Mixing guarantee in windows: a batch of B rows inside one window is a uniform sample without
    replacement of its M rows, and the window is a uniform sample of the epoch's blocks. So two rows
    of a batch come from one block with probability (b-1)/(M-1), where a full shuffle of n rows has
    (b-1)/(n-1); and if rows of one block correlate with coefficient rho and rows of different
    blocks do not, the variance of a batch mean is that of independent rows times 1 + rho
    (B-1)(b-1)/(M-1). With the default sizes M/b is 1024, and never below 512.

    Memory of windows from disk: one being emitted and one being loaded, plus one integer per block;
    only the latter grows with the rows.

    Parameters
    ----------
    source : Tensor (n, d) or ActivationStore
    batch_size, seed : int
    n_rows : int or None
        Budget: read only the first ``n_rows`` rows; None reads all.
    device, dtype
        Where and in which format batches are delivered.
    target : Tensor (n, d_out) or ActivationStore or None
        Read in step with ``source``, row for row (transcoders).
    resident_bytes : int
        Largest store that is permuted in memory.
    window_bytes, block_bytes : int
        Sizes of a window and of a block, in stored bytes of ``source`` and ``target`` together.
    hold : bool or None
        Load stores onto the device once, shared by all readers of a store object; None does so on a
        CUDA device when they take at most half of its free memory. Tensors are read where they are.
    prefetch : bool or None
        Prepare batches in background threads (with pinned memory and asynchronous copies on CUDA);
        None does so when batches come from disk, or from host memory to a CUDA device.
    """

    def __init__(
        self,
        source: Rows,
        batch_size: int,
        seed: int,
        n_rows: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        target: Rows | None = None,
        resident_bytes: int = RESIDENT_BYTES,
        window_bytes: int = WINDOW_BYTES,
        block_bytes: int = BLOCK_BYTES,
        hold: bool | None = None,
        prefetch: bool | None = None,
    ):
        sources = [source] if target is None else [source, target]
        self.device, self.batch_size, self.seed = torch.device(device), int(batch_size), int(seed)
        self.n_rows = _rows_to_read(sources, n_rows)
        if self.batch_size < 1:
            raise HusaiError(f"batch_size must be at least 1, got {batch_size}")
        self._sources, self._dtype = sources, dtype
        self._hold, self._prefetch = hold, prefetch
        self._order: FullOrder | BlockOrder = FullOrder(self.n_rows, self.seed)
        row_bytes = sum(_row_bytes(s) for s in sources)
        on_disk = any(isinstance(s, ActivationStore) for s in sources)
        if on_disk and self.n_rows * row_bytes > resident_bytes:
            block_rows = max(1, block_bytes // row_bytes)
            window_blocks = max(1, window_bytes // (row_bytes * block_rows))
            self._order = BlockOrder(self.n_rows, block_rows, window_blocks, self.seed)
        self._position = 0
        self._producer: Iterator[Batch] | None = None

    @property
    def in_windows(self) -> bool:
        """True when rows come in windows of blocks, False when all of them are permuted."""
        return isinstance(self._order, BlockOrder)

    def __iter__(self) -> BatchReader:
        return self

    def __next__(self) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if self._producer is None:
            self._producer = self._batches(self._position)
        batch = next(self._producer)
        self._position += self.batch_size
        return batch[0] if len(batch) == 1 else tuple(batch)

    def state(self) -> dict[str, Any]:
        """Plain values from which :meth:`restore` goes on with the batches that come next."""
        return {**self._fingerprint(), "position": self._position}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state` was taken.

        Raises
        ------
        HusaiError
            The state is of a reader with another number of rows, seed, batch size, block size or
            number of windows.
        """
        for name, value in self._fingerprint().items():
            if state.get(name) != value:
                raise HusaiError(
                    f"resume: the saved data position has {name} = {state.get(name)}, this run "
                    f"has {value}; delete the checkpoint"
                )
        self.close()
        self._position = int(state["position"])

    def close(self) -> None:
        """Stop background threads; the reader can go on from the same position afterwards."""
        if self._producer is not None:
            self._producer.close()
        self._producer = None

    def __del__(self):
        if getattr(self, "_producer", None) is not None:
            self._producer.close()

    def _fingerprint(self) -> dict[str, Any]:
        sizes = {name: getattr(self._order, name, None) for name in ("block_rows", "n_windows")}
        return {"seed": self.seed, "batch_size": self.batch_size, "n_rows": self.n_rows, **sizes}

    def _batches(self, position: int) -> Iterator[Batch]:
        """Endless batches, one tensor per source, from the row at ``position`` on; closing the
        iterator ends its threads. What runs in a thread must not refer to this reader, or a reader
        that is dropped would never end it.
        """
        ahead, on_cuda = self._prefetch is not False, self.device.type == "cuda"
        held = self._held()
        if held is None:
            turns = streamed_turns(self._sources, self._order, position)
            if ahead:
                turns = Prefetcher(turns, torch.device("cpu"), depth=1)
        else:
            turns = held_turns(held, self._order, position, ahead and held[0].device.type == "cuda")
        made = cut(turns, self.batch_size, self.device, self._dtype)
        crosses = on_cuda and (held is None or any(h.device.type != "cuda" for h in held))
        if ahead and (crosses or (self._prefetch and held is not None)):
            made = Prefetcher(made, self.device)
        try:
            yield from made
        finally:
            made.close()

    def _held(self) -> Batch | None:
        """All rows in memory, in the stored dtype; None when they are streamed from disk."""
        hold = self._hold
        if hold is None:
            hold = self.device.type == "cuda" and (
                missing_bytes(self._sources, self.n_rows, self.device)
                <= free_bytes(self.device) // 2
            )
        if self.in_windows and not hold:
            return None
        where = self.device if hold else torch.device("cpu")
        return [
            s[: self.n_rows] if isinstance(s, torch.Tensor) else s.resident(self.n_rows, where)
            for s in self._sources
        ]


def _rows_to_read(sources: list[Rows], n_rows: int | None) -> int:
    lengths = [len(s) for s in sources]
    for source in sources:
        if isinstance(source, torch.Tensor) and source.ndim != 2:
            raise HusaiError(
                f"activations must be rows (n, d), got a tensor of shape {tuple(source.shape)}"
            )
    if len(set(lengths)) > 1:
        raise HusaiError(
            f"source has {lengths[0]} rows and target {lengths[1]}; a transcoder needs them row "
            "for row"
        )
    if lengths[0] == 0:
        raise HusaiError("no rows to train on: the activations are empty")
    if n_rows is None:
        return lengths[0]
    if not 1 <= n_rows <= lengths[0]:
        where = getattr(sources[0], "path", "the activations")
        raise HusaiError(
            f"n_rows = {n_rows} asked for, but {where} has {lengths[0]} rows; lower n_rows or "
            "collect more activations"
        )
    return int(n_rows)


def _row_bytes(source: Rows) -> int:
    if isinstance(source, ActivationStore):
        return source.row_bytes
    return source.shape[1] * source.element_size()

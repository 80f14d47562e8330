"""A background thread that prepares items ahead of their use, on a CUDA stream of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch

PREFETCHED_BATCHES = 3
"""Batches that were not taken yet: one being made and two ready, so that a slow read delays no
step."""


class Prefetcher:
    """Runs an iterator in a background thread, ``depth`` items ahead; an error there is raised at
    the reader's next call.

    At most ``depth`` items exist that the reader has not taken yet, the one being made included. On
    CUDA, items are lists of tensors made on a stream of their own, and the reader's stream waits
    for them."""

    def __init__(self, items: Iterator, device: torch.device, depth: int = PREFETCHED_BATCHES):
        self._items: queue.SimpleQueue = queue.SimpleQueue()
        self._slots, self._stop = threading.Semaphore(depth), threading.Event()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        arguments = (items, self._items, self._slots, self._stop, self._stream)
        self._thread = threading.Thread(target=_produce, args=arguments, daemon=True)
        self._thread.start()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Any:
        if self._stop.is_set():
            raise StopIteration
        item, ready, error = self._items.get()
        if error is not None:
            self.close()
            raise error
        self._slots.release()
        if ready is not None:
            current = torch.cuda.current_stream(self._stream.device)
            current.wait_event(ready)
            for tensor in item:
                tensor.record_stream(current)
        return item

    def close(self) -> None:
        """End the thread; what it prepared is dropped."""
        self._stop.set()
        self._slots.release()
        self._thread.join()


def _produce(
    items: Iterator,
    out: queue.SimpleQueue,
    slots: threading.Semaphore,
    stop: threading.Event,
    stream: Any,
) -> None:
    """Body of the thread. It holds no reference to the reader, so a reader that is dropped can be
    collected and stop it.
    """
    try:
        while True:
            slots.acquire()
            if stop.is_set():
                break
            if stream is None:
                out.put((next(items), None, None))
            else:
                with torch.cuda.stream(stream):
                    item = next(items)
                    out.put((item, stream.record_event(), None))
            item = None
    except BaseException as error:
        out.put((None, None, error))
    finally:
        if hasattr(items, "close"):
            items.close()

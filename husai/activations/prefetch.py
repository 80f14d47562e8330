"""A background thread that prepares items ahead of their use, with asynchronous copies to a CUDA device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch

PREFETCHED_BATCHES = 3


class Prefetcher:
    """Runs an iterator in a background thread, a few items ahead; an error there is raised at the reader's next call."""

    def __init__(self, items: Iterator, device: torch.device, depth: int = PREFETCHED_BATCHES):
        self._queue: queue.Queue = queue.Queue(depth)
        self._stop = threading.Event()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = threading.Thread(target=_produce, args=(items, self._queue, self._stop, self._stream), daemon=True)
        self._thread.start()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Any:
        if self._stop.is_set():
            raise StopIteration
        item, ready, error = self._queue.get()
        if error is not None:
            raise error
        if ready is not None:
            current = torch.cuda.current_stream(self._stream.device)
            current.wait_event(ready)
            for tensor in item:
                tensor.record_stream(current)
        return item

    def stop(self) -> None:
        """End the thread and drop what it prepared."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.01)


def _produce(items: Iterator, out: queue.Queue, stop: threading.Event, stream: Any) -> None:
    """Body of the background thread; takes no reference to the reader's queue wrapper, so a dropped reader can be collected."""

    def put(entry: tuple) -> bool:
        while not stop.is_set():
            try:
                out.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        while not stop.is_set():
            if stream is None:
                entry = (next(items), None, None)
            else:
                with torch.cuda.stream(stream):
                    item = next(items)
                    entry = (item, stream.record_event(), None)
            if not put(entry):
                break
    except BaseException as error:
        put((None, None, error))
    finally:
        if hasattr(items, "close"):
            items.close()

"""The members of an ensemble side by side on the threads of a CPU, instead of all threads waiting
for each other in every kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import torch

from husai.compute import single_threaded, thread_pool

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """A context in which each of torch's CPU threads computes one member at a time, alone.

    Sums that a kernel splits over threads depend on their number in the last bits, and training
    magnifies last bits until figures differ. Here the threads decide how fast figures of ``n``
    members come and not what they are. Off the CPU everything runs in the calling thread.
    """

    def __init__(self, n: int, device: torch.device):
        self._on_cpu, self._n, self._threads = device.type == "cpu", n, 1
        self._exit = ExitStack()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self._on_cpu:
            self._threads = min(self._n, self._exit.enter_context(single_threaded()))
            if self._threads > 1:
                self._pool = self._exit.enter_context(thread_pool(self._threads))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool = None
        self._exit.close()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``[function(i) for i in items]``, items side by side."""
        return list(map(function, items) if self._pool is None else self._pool.map(function, items))

    def advance(self, lanes: Sequence[Any], steps: int) -> None:
        """Call every lane's ``step()`` so often; a free worker takes the lane furthest behind."""
        if self._pool is None:
            for lane in lanes:
                for _ in range(steps):
                    lane.step()
            return
        to_go, waiting, lock = [steps] * len(lanes), set(range(len(lanes))), threading.Lock()

        def work(_: int) -> None:
            while True:
                with lock:
                    i = max(waiting, key=to_go.__getitem__, default=None)
                    if i is None or to_go[i] == 0:
                        return
                    waiting.remove(i)
                lanes[i].step()
                with lock:
                    to_go[i] -= 1
                    waiting.add(i)

        self.map(work, range(self._threads))

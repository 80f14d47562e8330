"""CPU threads shared out among the members of an ensemble, so that members run side by side instead of waiting for each other in every kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Steps(Protocol):
    """Something that advances step by step, independently of others."""

    def step(self) -> None:
        """One step."""


class Workers:
    """A context in which torch's CPU threads are split evenly: ``min(threads, n)`` workers, each with its own share.

    A member is computed by the threads of one worker, which is one thread unless there are twice as many threads as members. How many
    threads there are then decides how fast its figures come, and not what they are. Off the CPU everything runs in the calling thread.

    Parameters
    ----------
    n : int
        Members to share the threads.
    device : torch.device
    """

    def __init__(self, n: int, device: torch.device):
        self._threads = torch.get_num_threads()
        self._count = min(self._threads, n) if device.type == "cpu" else 1
        self._share = self._threads // self._count
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        torch.set_num_threads(self._share)
        if self._count > 1:
            self._pool = ThreadPoolExecutor(self._count, initializer=torch.set_num_threads, initargs=(self._share,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._threads)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``[function(i) for i in items]``, items side by side."""
        return [function(i) for i in items] if self._pool is None else list(self._pool.map(function, items))

    def advance(self, lanes: Sequence[Steps], steps: int) -> None:
        """Advance every lane by ``steps``; a free worker takes the lane that is furthest behind."""
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

        self.map(work, range(self._count))

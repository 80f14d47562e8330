"""Two kinds of work side by side on a CPU: many independent calls, or preparing what comes next
while the present is solved.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def one_thread(device: torch.device | str = "cpu") -> Iterator[None]:
    """Within it every CPU operation uses one thread: waiting for each other at many small
    operations costs more than it brings, above all on a shared machine."""
    threads = torch.get_num_threads()
    if torch.device(device).type != "cpu":
        yield
        return
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))


def parallel_map(
    function: Callable[[T], R], items: Iterable[T], device: torch.device | str = "cpu"
) -> list[R]:
    """``[function(i) for i in items]``, on a CPU with as many items at a time as torch may use
    threads; for calls of few large operations.
    """
    items, threads = list(items), torch.get_num_threads()
    if torch.device(device).type != "cpu" or threads == 1 or len(items) < 2:
        return [function(i) for i in items]
    with one_thread(), _pool(threads) as pool:
        return list(pool.map(function, items))


def prepared(
    function: Callable[[T], R],
    items: Iterable[T],
    device: torch.device | str = "cpu",
    waiting: int = 16,
) -> Iterator[tuple[int, R]]:
    """``(i, function(item i))`` in any order, made by other threads while the caller works on what
    it has; for few large operations.

    At most ``waiting`` are made ahead of the caller. With one thread, or off the CPU, plainly one
    after the other."""
    threads, numbered = torch.get_num_threads(), enumerate(items)
    if torch.device(device).type != "cpu" or threads == 1:
        yield from ((i, function(item)) for i, item in numbered)
        return
    lock = threading.Lock()

    def step(_: int) -> tuple[int, R] | None:
        with lock:
            taken = next(numbered, None)
        return None if taken is None else (taken[0], function(taken[1]))

    with one_thread(), _pool(threads) as pool:
        running = {pool.submit(step, 0) for _ in range(waiting)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            found = [result for future in done if (result := future.result()) is not None]
            running |= {pool.submit(step, 0) for _ in found}
            yield from found

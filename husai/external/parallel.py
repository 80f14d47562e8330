"""Two kinds of work side by side on a CPU: many independent calls, or preparing the next block while the present one is solved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def one_thread(device: torch.device | str = "cpu") -> Iterator[None]:
    """Within it every CPU operation uses one thread: waiting for each other at many small operations costs more than it brings, above all
    on a shared machine."""
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


def parallel_map(function: Callable[[T], R], items: Iterable[T], device: torch.device | str = "cpu") -> list[R]:
    """``[function(i) for i in items]``, on a CPU with as many items at a time as torch may use threads; for calls of few large operations."""
    items, threads = list(items), torch.get_num_threads()
    if torch.device(device).type != "cpu" or threads == 1 or len(items) < 2:
        return [function(i) for i in items]
    with one_thread(), _pool(threads) as pool:
        return list(pool.map(function, items))


def ahead(blocks: Iterator[T], device: torch.device | str = "cpu") -> Iterator[T]:
    """The same blocks, each made by a second thread while the one before is in use; plain iteration with one thread or off the CPU."""
    if torch.device(device).type != "cpu" or torch.get_num_threads() == 1:
        yield from blocks
        return
    with one_thread(), _pool(1) as pool:
        waiting = pool.submit(next, blocks, None)
        while (block := waiting.result()) is not None:
            waiting = pool.submit(next, blocks, None)
            yield block

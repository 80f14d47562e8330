"""Data sets side by side: one CPU thread each, because their operations are too small to be worth splitting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(function: Callable[[T], R], items: Iterable[T], device: torch.device | str = "cpu") -> list[R]:
    """``[function(i) for i in items]``, on a CPU with as many items at a time as torch may use threads.

    Waiting for each other at every small operation costs more than it brings, above all on a shared machine.
    """
    items, threads = list(items), torch.get_num_threads()
    if torch.device(device).type != "cpu" or threads == 1 or len(items) < 2:
        return [function(i) for i in items]
    try:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)

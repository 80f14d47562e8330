"""Where a job computes: device and CPU threads, resolved from configuration with clear errors, and
work side by side on the threads there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

from husai.errors import HusaiError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 8
"""Items taken ahead of the caller, per thread: enough that threads seldom wait for it, and few
enough that what is made fits in memory."""


def resolve_device(name: str = "auto") -> torch.device:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    HusaiError
        If CUDA is asked for and this machine has none, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise HusaiError(f"compute.device: '{name}' is not a device; use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise HusaiError(
            f"compute.device: '{name}' was asked for but this machine has no CUDA device; set "
            "compute.device to cpu or auto"
        )
    return torch.device(name)


def free_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device."""
    return torch.cuda.mem_get_info(device)[0]


def use_threads(threads: int | None) -> None:
    """Limit torch's CPU threads to what the scheduler granted this job."""
    if threads:
        torch.set_num_threads(max(1, int(threads)))


@contextmanager
def single_threaded() -> Iterator[int]:
    """Inside, every torch operation on the CPU runs on one thread; yields how many threads there
    were, for work divided another way.

    A sum that is split over threads depends on their number in its last bits, and training
    magnifies last bits until figures differ."""
    granted = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield granted
    finally:
        torch.set_num_threads(granted)


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """A pool of threads in each of which torch computes on one thread."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``[function(i) for i in items]``, as many at a time as torch may use threads; for few large
    operations on a CPU, which then need not wait for each other."""
    return [result for _, result in sorted(as_completed(function, items), key=lambda done: done[0])]


def as_completed(function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
    """``(i, function(item i))`` in any order, as :func:`side_by_side`; of a lazy ``items`` only a
    few are taken ahead of the caller. With one thread plainly one after the other."""
    numbered = enumerate(items)
    with single_threaded() as threads:
        if threads == 1:
            yield from ((i, function(item)) for i, item in numbered)
            return
        lock = threading.Lock()

        def step() -> tuple[int, R] | None:
            with lock:
                taken = next(numbered, None)
            return None if taken is None else (taken[0], function(taken[1]))

        with thread_pool(threads) as pool:
            running = {pool.submit(step) for _ in range(AHEAD * threads)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                found = [result for future in done if (result := future.result()) is not None]
                running |= {pool.submit(step) for _ in found}
                yield from found

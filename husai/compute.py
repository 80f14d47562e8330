"""Where a job computes: device, number format and CPU threads, resolved from configuration with clear errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from husai.errors import HusaiError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        raise HusaiError(f"compute.device: '{name}' was asked for but this machine has no CUDA device; set compute.device to cpu or auto")
    return torch.device(name)


def resolve_dtype(name: str = "float32") -> torch.dtype:
    """Return the torch dtype called ``name``."""
    if name not in DTYPES:
        raise HusaiError(f"compute.dtype: '{name}' is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def use_threads(threads: int | None) -> None:
    """Limit torch's CPU threads to what the scheduler granted this job."""
    if threads:
        torch.set_num_threads(max(1, int(threads)))


@contextmanager
def single_threaded() -> Iterator[int]:
    """Inside, every torch operation on the CPU runs on one thread; yields how many threads there were, for work divided another way.

    A sum that is split over threads depends on their number in its last bits, and training magnifies last bits until figures differ.
    """
    granted = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield granted
    finally:
        torch.set_num_threads(granted)


class Workers:
    """Computes independent parts of a job at the same time; results come in the order of the parts.

    Parameters
    ----------
    count : int
        Parts computed at the same time; 1 computes them one after the other in the caller's thread.
    """

    def __init__(self, count: int):
        self._count, self._pool = count, None

    def map(self, function: Callable[[int], Any], indices: Iterable[int]) -> list:
        """``function`` of every index. The first time nothing runs side by side: what is done once per process is done then."""
        if self._pool is not None:
            return list(self._pool.map(function, indices))
        found = [function(i) for i in indices]
        if self._count > 1:
            self._pool = ThreadPoolExecutor(self._count)
        return found

    def close(self) -> None:
        """End the threads; the workers can be used again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

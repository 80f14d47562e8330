"""Where a job computes: device and CPU threads, resolved from configuration with clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from husai.errors import HusaiError


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

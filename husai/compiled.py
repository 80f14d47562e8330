"""Machine code for the CPU: how kernels are compiled, where they are kept, and one safe way to load
them.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


def kernel(**options) -> Callable:
    """``numba.njit`` with machine code kept beside the source or in the user's cache; where neither
    can be written, compiled every time.

    Division by zero gives infinity instead of an exception: a check would keep loops from becoming
    vector instructions."""

    import numba

    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, error_model="numpy", **options)(function)
        except RuntimeError:
            return numba.njit(error_model="numpy", **options)(function)

    return compiled


class Kernels(NamedTuple):
    """The compiled modules of the probing engine."""

    paths: ModuleType
    rows: ModuleType
    saga: ModuleType
    screens: ModuleType
    codes: ModuleType


@functools.cache
def probe_kernels() -> Kernels:
    """The kernels of the probing engine, all ready to run. The first call on a machine compiles
    them, which takes seconds; of processes that start together one does it."""
    with _alone():
        from husai.probing import code_kernels, row_kernels, screen_kernels
        from husai.probing.solver import path_kernels, saga_kernels

        kernels = Kernels(path_kernels, row_kernels, saga_kernels, screen_kernels, code_kernels)
        for module in kernels:
            module.compile_all()
    return kernels


@functools.cache
def story_kernels() -> ModuleType:
    """The kernels of CE-Bench, ready to run; compiled as :func:`probe_kernels` are."""
    with _alone():
        from husai.cebench import kernels

        kernels.compile_all()
    return kernels


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait for other processes of this user that are compiling; where there are no file locks, go
    on without.
    """
    try:
        import fcntl

        lock = (Path(tempfile.gettempdir()) / f"husai-kernels-{getpass.getuser()}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except (ImportError, OSError, KeyError):
        yield
        return
    with lock:
        yield

"""Machine code for the CPU: how numba compiles kernels, where they are kept and loaded from."""

from __future__ import annotations

import contextlib
import functools
import getpass
import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent


def kernel(**options) -> Callable:
    """``numba.njit`` whose machine code is kept on disk (see :func:`cache_folder`).

    Division by zero gives infinity instead of an exception, because the check would keep loops from
    becoming vector instructions. Where no folder can be written, code is compiled every time.
    """

    import numba

    def compiled(function: Callable) -> Callable:
        folder, before = cache_folder(), numba.config.CACHE_DIR
        try:
            # numba reads this setting once, when it decorates a function.
            numba.config.CACHE_DIR = str(folder or "")
            return numba.njit(cache=folder is not None, error_model="numpy", **options)(function)
        except RuntimeError:  # a function without a file, as in an interpreter's session
            return numba.njit(error_model="numpy", **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return compiled


@functools.cache
def sources_hash() -> str:
    """16 hex digits over this file and the sources of all kernels (files ``*kernels.py``).

    numba renews the code of one file when that file changes, not when another file it calls does.
    A folder per hash of all sources makes sure that the code that runs is the code that is stamped
    into artifacts."""
    digest = hashlib.sha256()
    for path in sorted([Path(__file__), *PACKAGE.rglob("*kernels.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_folder() -> Path | None:
    """Where machine code of exactly these sources is kept: in ``NUMBA_CACHE_DIR``, beside the
    package, or in the user's cache, whichever is the first that can be written; None if none can.
    """
    given = os.environ.get("NUMBA_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "husai"
    for root in (Path(given),) if given else (PACKAGE / "__pycache__", user):
        folder = root / f"kernels-{sources_hash()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


@functools.cache
def load(module: str) -> ModuleType:
    """A module of kernels, all ready to run, given its full name.

    The first call on a machine compiles them, which takes seconds; of processes that start together
    one does it. The module has a function ``compile_all`` that runs each of its kernels on little.
    """
    with _alone():
        found = importlib.import_module(module)
        found.compile_all()
    return found


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait for other processes of this user that are compiling, where there are file locks."""
    try:
        import fcntl

        lock = (Path(tempfile.gettempdir()) / f"husai-kernels-{getpass.getuser()}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except (ImportError, OSError, KeyError):
        yield
        return
    with lock:
        yield

"""Activation rows that others computed: a ``.npy``, ``.safetensors`` or ``.pt`` file of one matrix,
checked, in the place of a store.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from husai.activations.store import HEADER, ActivationStore
from husai.errors import HusaiError

SUFFIXES = (".npy", ".safetensors", ".pt")
CHECKED_ROWS = 65_536
"""Rows whose values are looked at together: some 100 MB at common widths."""


def open_rows(path: str | Path, split: str = "held_out") -> torch.Tensor | ActivationStore:
    """Rows ``(n, d)``: a store, the ``split`` of an activation folder, or a file of one matrix.

    A file's matrix stays in its number format (float16, bfloat16, float32 or float64); of a
    ``.npy`` file the values stay on disk until they are read. A ``.safetensors`` or ``.pt`` file
    may hold other entries beside its one matrix of numbers.

    Raises
    ------
    HusaiError
        No such file, no matrix or several, whole numbers, or values that are NaN or infinite.
    """
    path = Path(path)
    path = path.parent if path.name == "manifest.json" else path
    if path.is_dir():
        inside = path if (path / HEADER).is_file() or not (path / split).is_dir() else path / split
        return ActivationStore.open(inside)
    if not path.is_file():
        raise HusaiError(f"{path}: no activation rows here; give a store or one of {SUFFIXES}")
    readers = {".npy": _npy, ".safetensors": _safetensors, ".pt": _pt}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise HusaiError(
            f"{path}: activation rows are read from {', '.join(SUFFIXES)} files and stores"
        )
    try:
        rows = reader(path)
    except HusaiError:
        raise
    except Exception as error:  # damaged files fail in as many ways as there are parsers
        why = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise HusaiError(f"{path}: not readable as activation rows ({why})") from error
    return _checked(rows, path)


def _npy(path: Path) -> torch.Tensor:
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise HusaiError(f"{path}: holds {array.dtype}; activation rows are floating point numbers")
    return torch.from_numpy(array)


def _safetensors(path: Path) -> torch.Tensor:
    with safe_open(path, "pt") as file:
        wide = [k for k in file.keys() if len(file.get_slice(k).get_shape()) == 2]  # noqa: SIM118
        return file.get_tensor(_only(wide, path))


def _pt(path: Path) -> torch.Tensor:
    held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(held, torch.Tensor):
        return held
    if not isinstance(held, dict):
        raise HusaiError(f"{path}: holds {type(held).__name__}; give a tensor (n, d)")
    wide = [k for k, v in held.items() if isinstance(v, torch.Tensor) and v.ndim == 2]
    return held[_only(wide, path)]


def _only(names: list[str], path: Path) -> str:
    if len(names) != 1:
        found = f"{len(names)} ({', '.join(map(str, names))})" if names else "none"
        raise HusaiError(f"{path}: one matrix of rows (n, d) is expected, it holds {found}")
    return names[0]


def _checked(rows: torch.Tensor, path: Path) -> torch.Tensor:
    if rows.ndim != 2 or not rows.numel():
        raise HusaiError(
            f"{path}: activation rows are a matrix (n, d) of at least one row, this has shape "
            f"{tuple(rows.shape)}"
        )
    if not rows.dtype.is_floating_point:
        raise HusaiError(f"{path}: holds {rows.dtype}; activation rows are floating point numbers")
    for first in range(0, len(rows), CHECKED_ROWS):
        good = torch.isfinite(rows[first : first + CHECKED_ROWS]).all(dim=1)
        if not bool(good.all()):
            row = first + int((~good).nonzero()[0])
            raise HusaiError(f"{path}: row {row} holds NaN or infinite values; leave it out")
    return rows

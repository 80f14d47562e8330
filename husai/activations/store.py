"""The activation store: rows of one width in checksummed shard files, described by a ``store.json``
that is written last.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from husai.errors import HusaiError
from husai.provenance import hash_json, read_json, sha256_file

SCHEMA = "husai.activations/1"
HEADER = "store.json"
CHUNK_BYTES = 16 << 20
"""Read and converted at once: the copy in the store's own type stays this small."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class ActivationStore:
    """Rows of activations on disk, memory-mapped and read only.

    A store is a directory: ``store.json`` (width, dtype, number of rows, sha256 per shard) beside
    ``shard-NNNNN.bin`` files of row-major little-endian values. Splits (``train``, ``held_out``,
    ``confirmation``) are separate stores in sibling directories.

    Attributes
    ----------
    path : Path
    n_rows, d : int
        Number of rows and their width.
    dtype : str
        How values are stored: ``float32``, ``float16`` or ``bfloat16``; reads give float32 unless
        asked otherwise.
    meta : dict
        What the writer noted (hook name, subject, split...).
    digest : str
        SHA-256 of the header, which holds the sha256 of every shard: it identifies the contents.
    """

    def __init__(self, path: Path, header: dict[str, Any]):
        self.path = Path(path)
        self.n_rows, self.d = int(header["n_rows"]), int(header["d"])
        self.dtype = str(header["dtype"])
        self.meta: dict[str, Any] = header.get("meta") or {}
        self.digest: str = header["header_sha256"]
        self._shards: list[dict[str, Any]] = header["shards"]
        self._starts = [0, *itertools.accumulate(shard["n_rows"] for shard in self._shards)]
        self._maps: dict[int, mmap.mmap] = {}
        self._resident: dict[tuple[int, str], torch.Tensor] = {}
        self._loading = threading.Lock()

    @classmethod
    def open(cls, path: str | Path) -> ActivationStore:
        """Open the store in directory ``path``.

        Raises
        ------
        HusaiError
            No store there, an unfinished write, a damaged header, or a shard that is missing or has
            the wrong size. The contents of the shards are checked by :meth:`verify`.
        """
        path = Path(path)
        store = cls(path, _header(path))
        for shard in store._shards:
            file, want = path / shard["file"], shard["n_rows"] * store.row_bytes
            if not file.is_file():
                raise HusaiError(
                    f"{file}: shard named in {HEADER} is missing; write the store again"
                )
            if file.stat().st_size != want:
                raise HusaiError(
                    f"{file}: truncated or overwritten, {file.stat().st_size} bytes where {want} "
                    "are due; write the store again"
                )
        return store

    @property
    def torch_dtype(self) -> torch.dtype:
        """The stored number format."""
        return DTYPES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return self.d * self.torch_dtype.itemsize

    @property
    def files(self) -> list[Path]:
        """Every file of the store, the header last."""
        return [self.path / s["file"] for s in self._shards] + [self.path / HEADER]

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return (
            f"ActivationStore({str(self.path)!r}, n_rows={self.n_rows}, d={self.d}, "
            f"dtype={self.dtype})"
        )

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start <= i < stop`` as float32 ``(n, d)`` on the CPU, n being ``stop - start``.

        Raises
        ------
        HusaiError
            The range does not lie inside the store, or a shard cannot be read.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise HusaiError(
                f"{self.path}: rows {start}..{stop} are outside the store, which has {self.n_rows}"
            )
        out = torch.empty(stop - start, self.d)
        self.read_into(start, out)
        return out

    def tensor(self, max_rows: int | None = None) -> torch.Tensor:
        """All rows, or the first ``max_rows``, as one float32 tensor ``(n, d)`` on the CPU."""
        return self.rows(0, self.n_rows if max_rows is None else min(int(max_rows), self.n_rows))

    def read_into(self, start: int, out: torch.Tensor) -> None:
        """Fill ``out`` (n, d) with rows ``start .. start + n``, converted to its dtype; the pages
        read are given back to the system.
        """
        done, n = 0, out.shape[0]
        shard = _shard_of(self._starts, start) if n else 0
        while done < n:
            base = self._starts[shard]
            first = start + done - base
            count = min(n - done, self._starts[shard + 1] - base - first)
            count = min(count, max(1, CHUNK_BYTES // self.row_bytes))
            self._copy(shard, first, out[done : done + count])
            done += count
            shard += first + count == self._starts[shard + 1] - base

    def will_need(self, start: int, stop: int) -> None:
        """Tell the system that rows ``start .. stop`` are read soon: the disk works ahead."""
        while start < stop:
            shard = _shard_of(self._starts, start)
            base, end = self._starts[shard], min(stop, self._starts[shard + 1])
            offset, size = (start - base) * self.row_bytes, (end - start) * self.row_bytes
            _advise(self._map(shard), offset, size, "MADV_WILLNEED")
            start = end

    def resident(self, n_rows: int, device: torch.device) -> torch.Tensor:
        """The first ``n_rows`` rows, ``(n_rows, d)`` in the stored dtype on ``device``, loaded once
        and shared by every reader of this store object.
        """
        key = (n_rows, str(device))
        with self._loading:  # readers in several threads ask at the same time
            if key not in self._resident:
                held = torch.empty(n_rows, self.d, dtype=self.torch_dtype, device=device)
                self.read_into(0, held)
                self._resident[key] = held
            return self._resident[key]

    def is_resident(self, n_rows: int, device: torch.device) -> bool:
        """Whether :meth:`resident` has these rows there already."""
        return (n_rows, str(device)) in self._resident

    def check_origin(self, subject: str, hook_name: str) -> None:
        """Refuse the store where its notes name another subject or hook than these.

        Raises
        ------
        HusaiError
            Says what the store holds; notes that are silent are no contradiction.
        """
        for key, wanted in (("subject", subject), ("hook_name", hook_name)):
            found = self.meta.get(key)
            if found is not None and found != wanted:
                raise HusaiError(
                    f"{self.path}: holds activations of {key} {found}, but {wanted} is asked for; "
                    "give the store of that one"
                )

    def verify(self) -> None:
        """Compare every shard with its sha256.

        Raises
        ------
        HusaiError
            A shard is truncated, its contents changed, or there is one that the header does not
            name.
        """
        for shard in ActivationStore.open(self.path)._shards:
            file = self.path / shard["file"]
            if sha256_file(file) != shard["sha256"]:
                raise HusaiError(
                    f"{file}: contents differ from the sha256 in {HEADER}; write the store again"
                )
        named = {shard["file"] for shard in self._shards}
        leftover = sorted({p.name for p in self.path.glob("shard-*")} - named)
        if leftover:
            raise HusaiError(
                f"{self.path}: {leftover[0]} is no shard that {HEADER} names; delete that file"
            )

    def _copy(self, shard: int, first: int, out: torch.Tensor) -> None:
        direct = out.dtype == self.torch_dtype and out.is_contiguous() and out.device.type == "cpu"
        staged = out if direct else torch.empty(out.shape, dtype=self.torch_dtype)
        mapped, offset = self._map(shard), first * self.row_bytes
        staged.view(torch.uint8).numpy().reshape(-1)[:] = np.frombuffer(
            mapped, np.uint8, staged.nbytes, offset
        )
        _advise(mapped, offset, staged.nbytes, "MADV_DONTNEED")
        if not direct:
            out.copy_(staged)

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            file = self.path / self._shards[shard]["file"]
            try:
                with open(file, "rb") as handle:
                    self._maps[shard] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise HusaiError(
                    f"{file}: cannot be read ({error.strerror or error}); write the store again"
                ) from error
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        own = ("_maps", "_resident", "_loading")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _maps={}, _resident={}, _loading=threading.Lock())


Rows = torch.Tensor | ActivationStore
"""Rows of activations ``(n, d)``, in memory or on disk."""


def width(rows: Rows) -> int:
    """Values per row."""
    return rows.shape[-1] if isinstance(rows, torch.Tensor) else rows.d


def _header(path: Path) -> dict[str, Any]:
    """The checked header of the store at ``path``."""
    if not (path / HEADER).is_file():
        if any(path.glob("shard-*")):
            raise HusaiError(
                f"{path}: an activation store whose writing did not finish ({HEADER} is missing); "
                "run the activations job again"
            )
        raise HusaiError(
            f"{path}: no activation store here ({HEADER} is missing); run the activations job first"
        )
    header = read_json(path / HEADER)
    problem = _header_problem(header)
    if problem:
        raise HusaiError(f"{path / HEADER}: {problem}; write the store again")
    return header


def _header_problem(header: Any) -> str | None:
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        return f"not the header of an activation store ({SCHEMA})"
    rest = {k: v for k, v in header.items() if k != "header_sha256"}
    if header.get("header_sha256") != hash_json(rest):
        return "changed since it was written (its own sha256 does not fit)"
    if header["dtype"] not in DTYPES:
        return f"dtype '{header['dtype']}' is not one of {', '.join(DTYPES)}"
    return None


def _shard_of(starts: list[int], row: int) -> int:
    return bisect.bisect_right(starts, row) - 1


def _advise(mapped: mmap.mmap, offset: int, size: int, advice: str) -> None:
    """Pass advice about a byte range to the system. Dropping pages after a read keeps a large store
    out of this process's memory.
    """
    option = getattr(mmap, advice, None)
    if option is None or size <= 0:
        return
    start = offset - offset % mmap.PAGESIZE
    with contextlib.suppress(OSError, ValueError):
        mapped.madvise(option, start, min(offset + size, len(mapped)) - start)

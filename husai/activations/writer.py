"""Writing activation stores: checked rows into shards, hashed on the way, the header last."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from husai.activations.store import DTYPES, HEADER, SCHEMA
from husai.errors import HusaiError, nearest
from husai.provenance import finite, hash_json, read_json, sha256_file, write_json

PARTIAL = ".partial"
JOURNAL = "unfinished.json"
"""Finished shards of a store that is being written, and what it holds."""
SHARD_BYTES = 1 << 30
"""One file of a store. A writer that was killed starts the shard again at which it was, and
terabytes are still only thousands of files."""


class StoreWriter:
    """Writes a store row by row: ``with StoreWriter(path, d) as writer: writer.append(rows)``.

    The header is written last, on a clean exit, so a killed or failed write is no store:
    :meth:`ActivationStore.open` says so. A new write replaces what stood at ``path``.

    Parameters
    ----------
    path : Path
        Directory of the store.
    d : int
        Width of a row.
    dtype : str
        ``float32``, ``float16`` or ``bfloat16``.
    shard_bytes : int
        Largest size of one shard file.
    meta : dict
        Free notes kept in the header.
    resume : str, optional
        Names what is being written. A write of the same name, width and dtype that was cut off is
        gone on with after its last whole shard: ``n_rows`` says how many rows are there, and the
        caller appends the rows that follow. A finished store of that name counts as all there.
    """

    def __init__(
        self,
        path: str | Path,
        d: int,
        dtype: str = "float32",
        shard_bytes: int = SHARD_BYTES,
        meta: dict[str, Any] | None = None,
        resume: str | None = None,
    ):
        if dtype not in DTYPES:
            raise HusaiError(
                f"{path}: dtype '{dtype}' is not one of "
                f"{', '.join(DTYPES)}{nearest(dtype, tuple(DTYPES))}"
            )
        if int(d) < 1:
            raise HusaiError(f"{path}: a row needs at least one value, d = {d}")
        self.path, self.d, self.dtype = Path(path), int(d), dtype
        self.n_rows, self.meta = 0, dict(meta or {})
        self._shards: list[dict[str, Any]] = []
        self._per_shard = max(1, shard_bytes // (self.d * DTYPES[dtype].itemsize))
        self._handle: BinaryIO | None = None
        self._resume = resume
        if resume is not None:
            self.meta["resume"] = resume
            self._shards = self._unfinished()
            self.n_rows = sum(shard["n_rows"] for shard in self._shards)
        self._clean()

    def append(self, rows: torch.Tensor) -> None:
        """Add rows ``(n, d)`` of any number format; they are stored in that of the store.

        Raises
        ------
        HusaiError
            The rows have another shape, or one of them, which is named, holds a NaN, an infinity or
            a value too large for the dtype: nothing is added then. Or a shard cannot be written.
        """
        rows = torch.as_tensor(rows).detach()
        if rows.ndim != 2 or rows.shape[1] != self.d:
            raise HusaiError(
                f"{self.path}: rows of shape {tuple(rows.shape)} do not fit a store of width "
                f"{self.d}; give (n, {self.d})"
            )
        stored = rows.to(device="cpu", dtype=DTYPES[self.dtype]).contiguous()
        self._check(rows, stored)
        done = 0
        with self._errors():
            while done < stored.shape[0]:
                if self._handle is None:
                    self._begin_shard()
                count = min(stored.shape[0] - done, self._per_shard - self._count)
                data = stored[done : done + count].view(torch.uint8).numpy().data
                self._handle.write(data)
                self._digest.update(data)
                done += count
                self._count += count
                self.n_rows += count
                if self._count == self._per_shard:
                    self._end_shard()

    def close(self) -> None:
        """Finish the last shard and write the header: from here on the store exists.

        Raises
        ------
        HusaiError
            No rows were written, or the last shard cannot be.
        """
        with self._errors():
            self._end_shard()
        if not self.n_rows:
            raise HusaiError(f"{self.path}: no rows were written; a store needs at least one")
        header = {
            "schema": SCHEMA,
            "d": self.d,
            "dtype": self.dtype,
            "n_rows": self.n_rows,
            "shards": self._shards,
            "meta": finite(self.meta),
        }
        write_json(self.path / HEADER, {**header, "header_sha256": hash_json(header)})
        (self.path / JOURNAL).unlink(missing_ok=True)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
            return
        handle, self._handle = self._handle, None
        with contextlib.suppress(OSError):  # what went wrong first is what is told
            if handle is not None:
                handle.close()
        with contextlib.suppress(OSError):
            self._clean()

    def _unfinished(self) -> list[dict[str, Any]]:
        """Shards of an earlier write of the same name that are whole and unchanged."""
        name = HEADER if (self.path / HEADER).is_file() else JOURNAL
        with contextlib.suppress(HusaiError):
            found = read_json(self.path / name) if (self.path / name).is_file() else {}
            meta = found.get("meta") or {}
            same = (found.get("d"), found.get("dtype"), meta.get("resume"))
            if same == (self.d, self.dtype, self._resume):
                return list(itertools.takewhile(self._is_whole, found["shards"]))
        return []

    def _is_whole(self, shard: dict[str, Any]) -> bool:
        file = self.path / shard["file"]
        return file.is_file() and sha256_file(file) == shard["sha256"]

    def _clean(self) -> None:
        """Remove the store that stood here, header first, but for shards that are gone on with."""
        kept = {shard["file"] for shard in self._shards} if self._resume else set()
        with self._errors():
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / HEADER).unlink(missing_ok=True)
            if self._resume is None:
                (self.path / JOURNAL).unlink(missing_ok=True)
            for file in self.path.glob("shard-*"):
                if file.name not in kept:
                    file.unlink()

    def _check(self, rows: torch.Tensor, stored: torch.Tensor) -> None:
        if bool(torch.isfinite(stored.sum(dtype=torch.float32))):
            return  # no NaN or infinity can hide in a finite sum
        good = torch.isfinite(stored).all(dim=1)
        if bool(good.all()):
            return
        first = int((~good).nonzero()[0])
        value = rows[first][~torch.isfinite(stored[first]).to(rows.device)][0].item()
        if torch.isfinite(torch.tensor(value)):
            raise HusaiError(
                f"{self.path}: row {self.n_rows + first} holds {value:g}, too large for "
                f"{self.dtype}; store as bfloat16 or float32"
            )
        raise HusaiError(
            f"{self.path}: row {self.n_rows + first} holds {value}; only finite activations can "
            "be stored, check the subject"
        )

    def _begin_shard(self) -> None:
        self._file = self.path / f"shard-{len(self._shards):05d}.bin"
        self._handle = open(self._file.with_name(self._file.name + PARTIAL), "wb")  # noqa: SIM115 - closed by _end_shard
        self._digest, self._count = hashlib.sha256(), 0

    def _end_shard(self) -> None:
        if self._handle is None:
            return
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        self._handle = None
        os.replace(self._file.with_name(self._file.name + PARTIAL), self._file)
        self._shards.append(
            {"file": self._file.name, "n_rows": self._count, "sha256": self._digest.hexdigest()}
        )
        if self._resume is not None:
            written = {"d": self.d, "dtype": self.dtype, "shards": self._shards}
            write_json(self.path / JOURNAL, {**written, "meta": {"resume": self._resume}})

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            raise HusaiError(
                f"{self.path}: cannot be written ({error.strerror or error}); free space or fix "
                "permissions, then run again"
            ) from error


def write_store(
    path: str | Path,
    tensor: torch.Tensor,
    dtype: str = "float32",
    meta: dict[str, Any] | None = None,
) -> None:
    """Write the rows of ``tensor (n, d)`` as a new store at ``path``.

    Raises
    ------
    HusaiError
        The tensor has not two dimensions, or :class:`StoreWriter` refuses its rows or ``dtype``.
    """
    tensor = torch.as_tensor(tensor)
    if tensor.ndim != 2:
        raise HusaiError(
            f"{path}: a store holds rows (n, d), got a tensor of shape {tuple(tensor.shape)}"
        )
    with StoreWriter(path, tensor.shape[1], dtype, meta=meta) as writer:
        for block in tensor.split(max(1, (64 << 20) // max(1, 4 * tensor.shape[1]))):
            writer.append(block)

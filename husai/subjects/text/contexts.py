"""Documents as token contexts of one width, packed one behind the other for a causal model, one
document each for an encoder; written as they come and read where they lie on disk.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from husai.errors import HusaiError
from husai.progress import Progress
from husai.provenance import atomic_path
from husai.subjects.padding import PADDING
from husai.subjects.text.corpus import SPLITS, Corpus, hash_numbers
from husai.subjects.tokenizer import Special

CORPUS = "corpus.safetensors"
DOCUMENTS = 1000
"""Documents that are tokenised at once: the tokenizer works on them in parallel."""
DTYPES = {"I32": np.int32, "I64": np.int64}


class Packer:
    """Documents to contexts, keeping what does not fill a context for the next documents."""

    def __init__(self, n_ctx: int, separator: int | None = None, opening: int | None = None):
        self.n_ctx, self.separator, self.opening = n_ctx, separator, opening
        self.width = n_ctx if opening is None else n_ctx - 1
        self.rest = np.zeros(0, dtype=np.int64)

    def rows(self, documents: Iterable[np.ndarray]) -> np.ndarray:
        """The contexts that are full now, int32 ``(n, n_ctx)``."""
        parts = [self.rest]
        for ids in documents:
            if self.separator is not None and (len(ids) == 0 or ids[0] != self.separator):
                parts.append(np.array([self.separator]))
            parts.append(ids)
        stream = np.concatenate(parts)
        n = len(stream) // self.width
        self.rest = stream[n * self.width :]
        packed = stream[: n * self.width].reshape(n, self.width).astype(np.int32)
        return packed if self.opening is None else np.insert(packed, 0, self.opening, axis=1)


class OneEach:
    """Contexts of single documents, padded with ``PADDING``; a document of more than ``n_ctx``
    tokens becomes several contexts, each between the special tokens of the whole.

    A document of special tokens alone is left out."""

    def __init__(self, n_ctx: int, special: Special):
        self.n_ctx, self.special = n_ctx, special
        self.room = n_ctx - special.opening - special.closing
        if self.room < 1:
            raise HusaiError(f"n_ctx: {n_ctx} leaves no room for text; use a larger one")

    def rows(self, documents: Iterable[np.ndarray]) -> np.ndarray:
        """Contexts of these documents, int32 ``(n, n_ctx)``."""
        pieces = []
        for ids in documents:
            start, stop = self.special.opening, len(ids) - self.special.closing
            for first in range(start, stop, self.room):
                text = ids[first : min(first + self.room, stop)]
                pieces.append(np.concatenate([ids[:start], text, ids[stop:]]))
        out = np.full((len(pieces), self.n_ctx), PADDING, dtype=np.int32)
        for row, ids in zip(out, pieces, strict=True):
            row[: len(ids)] = ids
        return out


def shaper(task: str, n_ctx: int, special: Special, separator: int | None, bos: int | None) -> Any:
    """What makes contexts for a subject's ``task``: a causal model whose tokenizer opens every text
    with the token ``bos`` sees it at the start of every context; otherwise ``separator`` stands
    between documents.
    """
    if task == "embedding":
        return OneEach(n_ctx, special)
    return Packer(n_ctx, None, bos) if bos is not None else Packer(n_ctx, separator)


def write_contexts(
    path: Path, corpus: Corpus, encode: Any, shape: Any, max_tokens: int | None = None
) -> dict[str, int]:
    """Tokenise a corpus and write its contexts, in memory that does not grow with it but for 8
    bytes a document.

    Parameters
    ----------
    path : Path
        The safetensors file: ``{split: int32 (n, n_ctx), "hashes": int64 (n_documents,)}``.
    encode : callable
        Texts to arrays of ids.
    shape : callable
        Makes the :class:`Packer` or :class:`OneEach` of a split.
    max_tokens : int, optional
        Stop when the training split has so many tokens.

    Returns
    -------
    dict
        Tokens per split.

    Raises
    ------
    HusaiError
        The training or the held-out split fills no context.
    """
    shapers = {split: shape() for split in SPLITS}
    tokens, rows, hashes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0), []
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(max_tokens, "corpus: tokens") if max_tokens else None
    with tempfile.TemporaryDirectory(prefix=".corpus-", dir=path.parent) as folder:
        documents = iter(corpus)
        with contextlib.ExitStack() as opened:
            files = {s: opened.enter_context(open(Path(folder) / s, "wb")) for s in SPLITS}
            while batch := list(itertools.islice(documents, DOCUMENTS)):
                hashes.append(hash_numbers([d.row_hash for d in batch]))
                ids = encode([d.text for d in batch])
                before = tokens["train"]
                for split in SPLITS:
                    made = shapers[split].rows(
                        i for i, d in zip(ids, batch, strict=True) if d.split == split
                    )
                    files[split].write(made.tobytes())
                    rows[split] += len(made)
                    tokens[split] += int((made != PADDING).sum())
                if progress:
                    progress.update(tokens["train"] - before)
                if max_tokens is not None and tokens["train"] >= max_tokens:
                    break
        n_ctx = shapers["train"].n_ctx
        for split in ("train", "held_out"):
            if not rows[split]:
                n_tokens = len(getattr(shapers[split], "rest", ()))
                raise HusaiError(
                    f"corpus: {n_tokens} tokens do not fill one context of {n_ctx}; use more text "
                    "or a smaller n_ctx"
                )
        parts = {s: (Path(folder) / s, (rows[s], n_ctx)) for s in SPLITS if rows[s]}
        _assemble(path, parts, np.concatenate(hashes))
    return {split: n for split, n in tokens.items() if rows[split]}


def _assemble(path: Path, parts: dict[str, tuple[Path, tuple[int, int]]], hashes: np.ndarray):
    """One safetensors file of the hashes and the matrices that lie in files of their own."""
    entries = {"hashes": ("I64", hashes.shape)}
    entries |= {name: ("I32", shape) for name, (_, shape) in parts.items()}
    header, end = {}, 0
    for name, (dtype, shape) in entries.items():
        start, end = end, end + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text + hashes.tobytes())
        for file, _ in parts.values():
            with open(file, "rb") as matrix:
                shutil.copyfileobj(matrix, out, 1 << 22)


def load_contexts(directory: Path) -> dict[str, np.ndarray]:
    """Contexts and document hashes of a subject, read where they lie: ``{split: int32 (n, n_ctx),
    "hashes": int64 (n_documents,)}``, memory maps that cannot be written to.

    Raises
    ------
    HusaiError
        The file is missing or damaged.
    """
    path = directory / CORPUS
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        return {
            name: np.memmap(
                path,
                DTYPES[entry["dtype"]],
                "r",
                8 + size + entry["data_offsets"][0],
                tuple(entry["shape"]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, MemoryError, OverflowError) as error:
        raise HusaiError(f"{path}: not readable ({error}); run the subject job again") from error

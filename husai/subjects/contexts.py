"""Documents as token contexts of one width: packed one behind the other for a causal model, one
document each for an encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from husai.errors import HusaiError
from husai.subjects.subject import PADDING

CORPUS = "corpus.safetensors"


def pack(
    documents: Sequence[np.ndarray],
    n_ctx: int,
    separator: int | None = None,
    opening: int | None = None,
) -> np.ndarray:
    """Join documents into contexts ``(n, n_ctx)``, int32; the tail that fills no context is
    dropped.

    ``separator`` is put before each document that does not open with it; ``opening`` before each
    context.
    """
    parts = []
    for ids in documents:
        if separator is not None and (len(ids) == 0 or ids[0] != separator):
            parts.append(np.array([separator]))
        parts.append(ids)
    stream = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    width = n_ctx if opening is None else n_ctx - 1
    n = len(stream) // width
    if n == 0:
        raise HusaiError(
            f"corpus: {len(stream)} tokens do not fill one context of {n_ctx}; use more text or a "
            "smaller n_ctx"
        )
    packed = stream[: n * width].reshape(n, width).astype(np.int32)
    if opening is None:
        return packed
    return np.concatenate([np.full((n, 1), opening, dtype=np.int32), packed], axis=1)


def one_each(documents: Sequence[np.ndarray], n_ctx: int, opening: int, closing: int) -> np.ndarray:
    """Contexts of single documents, int32 ``(n, longest)``, padded with ``PADDING``; a document of
    more than ``n_ctx`` tokens becomes several contexts.

    The first ``opening`` and the last ``closing`` tokens of a document surround each of its
    pieces; a document without any other token is left out."""
    pieces = []
    room = n_ctx - opening - closing
    if room < 1:
        raise HusaiError(f"n_ctx: {n_ctx} leaves no room for text; use a larger one")
    for ids in documents:
        first, last = ids[:opening], ids[len(ids) - closing :]
        text = ids[opening : len(ids) - closing]
        for start in range(0, len(text), room):
            pieces.append(np.concatenate([first, text[start : start + room], last]))
    if not pieces:
        raise HusaiError("corpus: its documents hold no token; use other text")
    out = np.full((len(pieces), max(map(len, pieces))), PADDING, dtype=np.int32)
    for row, ids in zip(out, pieces, strict=True):
        row[: len(ids)] = ids
    return out


def load_contexts(directory: Path) -> dict[str, np.ndarray]:
    """Contexts and document hashes of a subject: ``{split: int32 (n, T), "hashes": int64
    (n_documents,)}``.
    """
    try:
        return load_file(directory / CORPUS)
    except (OSError, SafetensorError) as error:
        raise HusaiError(
            f"{directory / CORPUS}: not readable ({error}); run the subject job again"
        ) from error


def shape_documents(
    documents: Sequence[np.ndarray], n_ctx: int, task: str, special: Any, separator: int | None
) -> np.ndarray:
    """Contexts as the subject's ``task`` wants them; see :func:`pack` and :func:`one_each`.

    A causal model whose tokenizer opens every text with a special token sees it at the start of
    every context; otherwise ``separator`` stands between documents."""
    if task == "embedding":
        return one_each(documents, n_ctx, special.opening, special.closing)
    if special.opening == 1 and documents:
        return pack(documents, n_ctx, None, int(documents[0][0]))
    return pack(documents, n_ctx, separator)

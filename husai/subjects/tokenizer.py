"""Byte-level BPE of the language subject, trained on its corpus, and packing of documents into
fixed contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from husai.errors import HusaiError

SEPARATOR = "<|endoftext|>"
CHARS_PER_TOKEN = 12


def train_tokenizer(texts: Sequence[str], vocab_size: int = 4096):
    """Train a byte-level BPE with ``vocab_size`` tokens (256 bytes and the separator among them);
    same texts, same tokenizer.

    The separator opens every encoded text. Returns a ``tokenizers.Tokenizer``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    if vocab_size < 300:
        raise HusaiError(
            f"vocab_size: {vocab_size} is too small for a byte-level tokenizer; use 300 or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SEPARATOR} $A", special_tokens=[(SEPARATOR, 0)]
    )
    return tokenizer


def load_tokenizer(path: str | Path):
    """Read ``tokenizer.json``; padding and truncation it may carry are switched off."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise HusaiError(
            f"{path}: not readable as a tokenizer ({error}); run the subject job again"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
    """Token ids of each text, int64, with the tokenizer's own opening tokens; the last
    ``max_tokens`` are kept (truncated left).

    A text without tokens becomes the single token 0. Of a text much longer than ``max_tokens`` only
    the end is tokenised."""
    ids = _ids(
        tokenizer,
        texts if max_tokens is None else [text[-CHARS_PER_TOKEN * max_tokens :] for text in texts],
    )
    if max_tokens is None:
        return ids
    # A cut that left too few tokens to be sure that none of them was touched: tokenise the whole
    # text after all.
    short = [
        i
        for i, text in enumerate(texts)
        if len(text) > CHARS_PER_TOKEN * max_tokens and len(ids[i]) < 2 * max_tokens + 8
    ]
    for i, whole in zip(short, _ids(tokenizer, [texts[i] for i in short]), strict=True):
        ids[i] = whole
    return [i[-max_tokens:] for i in ids]


def _ids(tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    return [
        np.asarray(e.ids or [0], dtype=np.int64) for e in tokenizer.encode_batch_fast(list(texts))
    ]


def pack(documents: Sequence[np.ndarray], n_ctx: int, separator: int | None = None) -> np.ndarray:
    """Join documents into contexts ``(n, n_ctx)``, int32; the tail that fills no context is
    dropped.

    ``separator`` is put before each document that does not open with it.
    """
    parts = []
    for ids in documents:
        if separator is not None and (len(ids) == 0 or ids[0] != separator):
            parts.append(np.array([separator]))
        parts.append(ids)
    stream = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    n = len(stream) // n_ctx
    if n == 0:
        raise HusaiError(
            f"corpus: {len(stream)} tokens do not fill one context of {n_ctx}; use more text or a "
            "smaller n_ctx"
        )
    return stream[: n * n_ctx].reshape(n, n_ctx).astype(np.int32)

"""Text to token ids: the byte-level BPE of the language subject, trained on its corpus, and any
``tokenizer.json``; which ids are special; what is kept of a text that is too long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from husai.errors import HusaiError

SEPARATOR = "<|endoftext|>"
CHARS_PER_TOKEN = 12
"""Characters per token of which a long text is cut before it is tokenised: English has four or
five."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096):
    """Train a byte-level BPE with ``vocab_size`` tokens (256 bytes and the separator among them);
    same texts, same tokenizer.

    The separator opens every encoded text. Returns a ``tokenizers.Tokenizer``.

    Raises
    ------
    HusaiError
        ``vocab_size`` is below 300.
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
    """Read ``tokenizer.json``; padding and truncation it may carry are switched off.

    Raises
    ------
    HusaiError
        The file is missing, or no tokenizer can be read from it.
    """
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


class Special(NamedTuple):
    """Ids that stand for no text, and how many of them a tokenizer puts around one."""

    ids: tuple[int, ...] = ()
    """Separators, beginning and end of a sequence, padding, ..."""
    opening: int = 0
    """Special tokens that open every text and survive truncation."""
    closing: int = 0
    """Special tokens that close every text."""

    @classmethod
    def of(cls, tokenizer: Any, recorded: dict | None) -> Special:
        """What ``config.json`` records, or the separator, which does not survive truncation."""
        if recorded:
            return cls(tuple(recorded["ids"]), recorded["opening"], recorded["closing"])
        separator = None if tokenizer is None else tokenizer.token_to_id(SEPARATOR)
        return cls() if separator is None else cls((separator,))


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    max_tokens: int | None = None,
    keep: str = "end",
    special: Special | None = None,
) -> list[np.ndarray]:
    """Token ids of each text, int64 ``(n_tokens,)``, with the special tokens that the tokenizer
    puts around it.

    Of a text of more than ``max_tokens`` tokens the ``keep`` ("start" or "end") is left, between
    the special tokens that open and close it. A text without tokens becomes the single token 0. Of
    a text much longer than ``max_tokens`` only that end is tokenised.
    """
    if max_tokens is None:
        return _ids(tokenizer, texts)
    n_chars = CHARS_PER_TOKEN * max_tokens
    ids = _ids(tokenizer, [t[:n_chars] if keep == "start" else t[-n_chars:] for t in texts])
    # A cut that left too few tokens to be sure that none of them was touched: tokenise the whole
    # text after all.
    short = [
        i
        for i, text in enumerate(texts)
        if len(text) > n_chars and len(ids[i]) < 2 * max_tokens + 8
    ]
    for i, whole in zip(short, _ids(tokenizer, [texts[i] for i in short]), strict=True):
        ids[i] = whole
    return [_cut(i, max_tokens, keep, special or Special()) for i in ids]


def _cut(ids: np.ndarray, limit: int, keep: str, special: Special) -> np.ndarray:
    """At most ``limit`` of the ids; the special tokens around the text stay where there is room."""
    if len(ids) <= limit:
        return ids
    first, last = special.opening, len(ids) - special.closing
    room = limit - special.opening - special.closing
    if room < 1:
        return ids[:limit] if keep == "start" else ids[-limit:]
    middle = ids[first : first + room] if keep == "start" else ids[last - room : last]
    return np.concatenate([ids[:first], middle, ids[last:]])


def _ids(tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    return [
        np.asarray(e.ids or [0], dtype=np.int64) for e in tokenizer.encode_batch_fast(list(texts))
    ]

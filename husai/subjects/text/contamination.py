"""Shared runs of 13 words: which documents repeat a stretch of evaluation text, at a few bytes per
word of evaluation text and without a loop over words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

RUN = 13
"""Words of a run. Brown et al. (2005.14165, appendix C) call text of 13 shared words contaminated;
shorter runs are often idiom."""
CHUNK_BYTES = 1 << 18
"""Text that is hashed at once: large enough that NumPy's fixed costs vanish, and the dozen arrays
of 8 bytes per character still fit in 400 MB."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_STEP = np.uint64(0xD1342543DE82EF95)
_LETTER = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])
"""Bytes that belong to words: ASCII letters and digits, and every byte of other scripts."""


class Runs:
    """A set of runs of :data:`RUN` consecutive words, compared by 64-bit hashes.

    Words are maximal stretches of letters and digits, in lower case, so that punctuation and
    spacing do not matter. Two different runs share a hash with a chance of about ``n / 2^64``."""

    def __init__(self, texts: Iterable[str] = ()):
        parts = [hashes for hashes, _, _ in _hashed(texts)]
        known = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
        known.sort()  # np.unique is many times slower on numbers that are nearly all different
        self._known = known[np.diff(known, prepend=~known[:1]) != 0]

    def __len__(self) -> int:
        return len(self._known)

    def shared_by(self, texts: Sequence[str]) -> np.ndarray:
        """Which texts hold a known run, bool ``(n,)``."""
        found, first = np.zeros(len(texts), dtype=bool), 0
        if not len(self._known):
            return found
        for hashes, owner, n_texts in _hashed(texts):
            place = np.searchsorted(self._known, hashes)
            place[place == len(self._known)] = 0
            found[first + owner[self._known[place] == hashes]] = True
            first += n_texts
        return found


def _hashed(texts: Iterable[str]):
    """``(hashes of runs, number of the text that holds each, texts)`` for chunks of texts."""
    chunk, size = [], 0
    for text in texts:
        data = text.lower().encode("utf-8", "surrogatepass")
        chunk.append(data)
        size += len(data)
        if size >= CHUNK_BYTES:
            yield _hash_chunk(chunk)
            chunk, size = [], 0
    if chunk:
        yield _hash_chunk(chunk)


def _hash_chunk(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray, int]:
    """Polynomial hashes modulo 2^64: of words from prefix sums of bytes, of runs from words."""
    data = np.frombuffer(b" ".join(texts) + b" ", dtype=np.uint8)
    edges = np.diff(_LETTER[data].astype(np.int8), prepend=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    with np.errstate(over="ignore"):
        powers = _powers(_BASE, len(data))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((data + 1) * powers)])
        words = _mixed((sums[ends] - sums[starts]) * _powers(_INVERSE, len(data))[starts])
        n = max(0, len(words) - RUN + 1)
        runs = np.zeros(n, np.uint64)
        for j in range(RUN):
            runs = runs * _STEP + words[j : n + j]
        runs = _mixed(runs)
    offsets = np.cumsum([len(t) + 1 for t in texts])
    owner = np.searchsorted(offsets, starts, side="right")
    whole = owner[:n] == owner[RUN - 1 :][:n]
    return runs[whole], owner[:n][whole], len(texts)


def _powers(base: np.uint64, n: int) -> np.ndarray:
    factors = np.full(n, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser: a change of one bit changes half of the others."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

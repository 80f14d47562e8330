"""What a confirmation is drawn by: data sets and seeds, by rule from the hash of a configuration.
Who knows the hash and the data sets to draw from can draw again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from husai.errors import HusaiError
from husai.probing.datasets import family

FIRST, LAST = 10_000, 99_999
"""Drawn seeds have five digits: above those that people name, and short enough for a folder's
name."""

MOST = 1000
"""Few enough that different seeds are soon found."""


def draw_seeds(key: str, what: str, count: int) -> list[int]:
    """The first ``count`` different seeds that the SHA-256 of ``key``, ``what`` and 0, 1, 2...
    give.

    Raises
    ------
    HusaiError
        More than :data:`MOST` are asked for.
    """
    if count > MOST:
        raise HusaiError(f"{what}: {count} seeds are asked for, at most {MOST} can be drawn")
    found: dict[int, None] = {}
    turn = 0
    while len(found) < count:
        digest = hashlib.sha256(f"{key}\n{what}\n{turn}".encode()).digest()
        found[FIRST + int.from_bytes(digest[:8], "big") % (LAST - FIRST + 1)] = None
        turn += 1
    return list(found)


def draw_sets(names: Iterable[str], count: int, key: str) -> list[str]:
    """``count`` of the data sets, in the order given: families take turns, in an order that the
    SHA-256 of ``key`` and their name sets, and so do the data sets within a family.
    """

    def place(name: str) -> str:
        return hashlib.sha256(f"{key}\n{name}".encode()).hexdigest()

    names = list(names)
    turn: Counter[str] = Counter()
    order = {}
    for name in sorted(names, key=place):
        of = family(name)
        order[name] = turn[of], place(of)
        turn[of] += 1
    chosen = sorted(order, key=order.__getitem__)[:count]
    return [name for name in names if name in chosen]

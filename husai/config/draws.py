"""What is drawn by a rule from the hash of the configuration, before any weights exist: data sets and
seeds of the confirmation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable

from husai.config.external import Drawn
from husai.config.fields import DrawnSeeds
from husai.config.schema import Config

FIRST_DRAWN, LAST_DRAWN = 10_000, 99_999
"""Drawn seeds have five digits: above those that people name, and short enough for a folder's name."""


def draws_all(cfg: Config) -> bool:
    """Whether the rule draws all that a confirmation could be chosen by: data sets and seeds."""
    seeds = (cfg.confirmation.seeds, cfg.stress.seeds)
    return isinstance(cfg.external.datasets.confirmation, Drawn) and all(
        isinstance(one, DrawnSeeds) for one in seeds
    )


def resolved_seeds(cfg: Config) -> tuple[list[int], list[int]]:
    """Seeds of the confirmation and of the stress tests, those drawn that are to be drawn: none that
    the configuration names anywhere, none twice.
    """
    taken = {
        *(*cfg.baseline.seeds, *cfg.ablations.seeds, *cfg.consistency.seeds),
        *(*cfg.calibration.seeds, *cfg.calibration.retrain_seeds),
        *(*cfg.frontier.seeds, *cfg.scaling.seeds),
    }
    found = []
    for name, seeds in (("confirmation", cfg.confirmation.seeds), ("stress", cfg.stress.seeds)):
        if isinstance(seeds, DrawnSeeds):
            seeds = _seeds(seeds.draw, f"{cfg.draw_key}\n{name}", taken)
            taken |= {*seeds}
        found.append(list(seeds))
    return found[0], found[1]


def _seeds(count: int, key: str, taken: Collection[int]) -> list[int]:
    """The first ``count`` numbers that the SHA-256 of ``key`` and 0, 1, 2... give and that are not
    taken.
    """
    found: list[int] = []
    turn = 0
    while len(found) < count:
        digest = hashlib.sha256(f"{key}\n{turn}".encode()).digest()
        seed = FIRST_DRAWN + int.from_bytes(digest[:8], "big") % (LAST_DRAWN - FIRST_DRAWN + 1)
        if seed not in taken and seed not in found:
            found.append(seed)
        turn += 1
    return found


def draw(names: Iterable[str], count: int, key: str) -> list[str]:
    """``count`` of the data sets, in the order given: families take turns, in an order that the
    SHA-256 of ``key`` and their name sets, and so do the data sets within a family.
    """
    from husai.probing import datasets

    def place(name: str) -> str:
        return hashlib.sha256(f"{key}\n{name}".encode()).hexdigest()

    turn: Counter[str] = Counter()
    order = {}
    for name in sorted(names, key=place):
        family = datasets.family(name)
        order[name] = turn[family], place(family)
        turn[family] += 1
    chosen = sorted(order, key=order.__getitem__)[:count]
    return [name for name in names if name in chosen]

"""What a configuration draws by rule, before any weights exist: data sets and seeds of the
confirmation. The rule itself is :mod:`husai.probing.draws`.
"""

from __future__ import annotations

from typing import Any

from husai.config.data_sets import confirmation_pool
from husai.config.external import Drawn
from husai.config.fields import DrawnSeeds
from husai.config.schema import Config


def drawn_from(cfg: Config) -> dict[str, Any] | None:
    """``key`` and ``pool`` (data sets) that the whole confirmation is drawn from; None where a data
    set or a seed of it is named.
    """
    seeds = (cfg.confirmation.seeds, cfg.stress.seeds)
    drawn = isinstance(cfg.external.datasets.confirmation, Drawn)
    if not (drawn and all(isinstance(one, DrawnSeeds) for one in seeds)):
        return None
    return {"key": cfg.draw_key, "pool": confirmation_pool(cfg)}


def resolved_seeds(cfg: Config) -> tuple[list[int], list[int]]:
    """Seeds of the confirmation and of the stress tests, those drawn that are to be drawn."""
    from husai.probing.draws import draw_seeds

    confirmation, stress = (
        draw_seeds(cfg.draw_key, what, seeds.draw) if isinstance(seeds, DrawnSeeds) else list(seeds)
        for what, seeds in (("confirmation", cfg.confirmation.seeds), ("stress", cfg.stress.seeds))
    )
    return confirmation, stress

"""What a decision amounts to, in one of three verdicts, and what no gate can exclude behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from husai.errors import HusaiError

RELEASED, NOT_RELEASED, AS_BROUGHT = "RELEASED", "NOT RELEASED", "PASSED AS BROUGHT"
UNKNOWN_ORIGIN = (
    "The SAEs were not trained here. They may have been picked from many seeds, or fitted to the "
    "public data sets that they are judged on; no measurement of the finished SAEs can exclude that."
)
NAMED_SETS = (
    "Data sets or seeds of the confirmation were named in the configuration, not drawn by a rule from "
    "its hash: that they were not chosen for what they show rests on the word of whoever ran this."
)
SEEDS = {"confirmation": "seeds", "stress": "stress_seeds"}
"""By what seeds are drawn for: where an entry of the ledger holds them."""
ELSEWHERE = (
    "Attempts in another folder, or a run whose every file was written by hand, leave no trace here. "
    "The ledger's head and the hashes of the evidence stand in this decision, to be kept or signed "
    "elsewhere."
)


def verdict_on(
    shipped: bool, pass_all: bool, attempts: Sequence[Mapping[str, Any]]
) -> tuple[str, list[str]]:
    """The verdict, and in words what cannot be excluded.

    Parameters
    ----------
    shipped : bool
        Whether the policy is strict as it ships: no other releases anything.
    pass_all : bool
        Whether every gate passed.
    attempts : sequence of mapping
        The candidate's entries in the confirmation ledger: whether the SAEs were trained here, and
        what their data sets and seeds were drawn from.
    """
    if not (shipped and pass_all):
        return NOT_RELEASED, []
    started = [entry for entry in attempts if entry.get("event") == "started"]
    if not started or not all(entry.get("trained_here") is True for entry in started):
        return AS_BROUGHT, [UNKNOWN_ORIGIN, ELSEWHERE]
    drawn = all(map(drawn_by_rule, started))
    return (RELEASED, [ELSEWHERE]) if drawn else (AS_BROUGHT, [NAMED_SETS, ELSEWHERE])


def drawn_by_rule(entry: Mapping[str, Any]) -> bool:
    """Whether an attempt's data sets and seeds, those of the stress tests too, are what the rule
    draws from the hash and the data sets that its entry names: it is drawn again, not believed.
    Where no data set was left out nothing was drawn."""
    from husai.probing.draws import draw_seeds, draw_sets

    source, data = entry.get("drawn"), entry.get("data")
    source = source if isinstance(source, Mapping) else {}
    key, pool = source.get("key"), source.get("pool")
    seeds = [(what, entry.get(name)) for what, name in SEEDS.items()]
    lists = (pool, data, *(found for _, found in seeds))
    if not (isinstance(key, str) and all(isinstance(one, list) and one for one in lists)):
        return False
    with contextlib.suppress(HusaiError, TypeError, AttributeError):
        return (
            len(data) < len(set(pool))
            and draw_sets(pool, len(data), key) == data
            and all(
                sorted(draw_seeds(key, what, len(found))) == sorted(found) for what, found in seeds
            )
        )
    return False

"""What a decision amounts to, in one of three verdicts, and what no gate can exclude behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RELEASED, NOT_RELEASED, AS_BROUGHT = "RELEASED", "NOT RELEASED", "PASSED AS BROUGHT"
UNKNOWN_ORIGIN = (
    "The SAEs were not trained here. They may have been picked from many seeds, or fitted to the "
    "public data sets that they are judged on; no measurement of the finished SAEs can exclude that."
)
NAMED_SETS = (
    "Data sets or seeds of the confirmation were named in the configuration, not drawn by a rule from "
    "its hash: that they were not chosen for what they show rests on the word of whoever ran this."
)
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
        their data sets and seeds drawn.
    """
    if not (shipped and pass_all):
        return NOT_RELEASED, []
    started = [entry for entry in attempts if entry.get("event") == "started"]
    if not started or not all(entry.get("trained_here") is True for entry in started):
        return AS_BROUGHT, [UNKNOWN_ORIGIN, ELSEWHERE]
    drawn = all(entry.get("drawn") is True for entry in started)
    return (RELEASED, [ELSEWHERE]) if drawn else (AS_BROUGHT, [NAMED_SETS, ELSEWHERE])

"""Confirmation attempts, one for each candidate: begun before its weights, ended with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.gate.ledger import (
    CONFIRMATION_LEDGER,
    GateFailed,
    append,
    append_locked,
    cut_line,
    ledger_head,
    locked,
    read_ledger,
)
from husai.provenance import canonical_json, finite


def begin_confirmation(
    config_hash: str,
    *,
    seeds: list[int],
    data: Any,
    selection_seeds: list[int] = (),
    force: bool = False,
    at_least: int = 8,
    ledger: str | Path = CONFIRMATION_LEDGER,
    **extra: Any,
) -> dict[str, Any]:
    """Record the start of a confirmation attempt, or refuse it.

    Parameters
    ----------
    config_hash : str
        Hash of the candidate's configuration (its recipe hash). One attempt is allowed for each.
    seeds, selection_seeds : list of int
        Seeds of this attempt (at least 8, method.md section 4) and those the selection saw, which
        must not recur.
    data : JSON value
        The held-out data it uses; with the seeds it identifies the attempt.
    extra
        ``subject`` and ``model`` (hash of its weights), which say with ``data`` what other attempts
        tested the same; ``measured``: by evidence kind, the settings that everything is measured
        with; ``roles``: by role, the hash of the recipe that it is trained by; ``stress_seeds``.
        :func:`husai.gate.checks.one_attempt.one_attempt` holds the evidence against
        them.
    force : bool
        Allow a further attempt; it is marked ``forced`` and so is every report of it.
    at_least : int
        Fewest seeds; fewer than 8 where they were brought and no more exist (the gate then fails
        for want of seeds).

    Returns
    -------
    dict
        The entry: ``attempt`` (from 1), ``forced``, and ``resumed`` when an interrupted attempt
        with the same seeds and data goes on.

    Raises
    ------
    HusaiError
        A second attempt without ``force``, seeds that the selection has seen, or fewer than 8
        seeds.
    """
    _check_seeds(seeds, selection_seeds, at_least)
    path, about = Path(ledger), {"config_hash": config_hash, "seeds": sorted(seeds), "data": data}
    entry = {"event": "started", **about, **extra}
    with locked(path):
        mine = entries_of(config_hash, path)
        started = starts(mine)
        state = {"attempt": len(started) + 1, "forced": bool(started), "resumed": False}
        if started:
            last = started[-1]
            ended = last.get("attempt") in [e.get("attempt") for e in ends(mine)]
            if not ended and all(last.get(key) == finite(entry[key]) for key in entry):
                state = {key: last.get(key) for key in ("attempt", "forced")} | {"resumed": True}
            elif not force:
                why = "finished" if ended else "started with other seeds or data"
                raise HusaiError(
                    f"confirm: {path} holds attempt {last.get('attempt')} for candidate "
                    f"{config_hash} ({why}, {last.get('time')}); one attempt per configuration. "
                    "Force a further one only knowingly: it is marked in every report"
                )
        return append_locked(path, entry | state)


def _check_seeds(seeds: list[int], selection_seeds: list[int], at_least: int) -> None:
    seen = sorted(set(seeds) & set(selection_seeds))
    if seen:
        raise HusaiError(
            f"confirm: seeds {seen} were already used for the selection; confirmation needs fresh "
            "seeds"
        )
    if (n := len(set(seeds))) < at_least:
        raise HusaiError(
            f"confirm: {n} different seeds given, confirmation needs at least {at_least}"
        )


def finish_confirmation(
    config_hash: str, attempt: int, ledger: str | Path = CONFIRMATION_LEDGER, **result: Any
) -> dict[str, Any]:
    """Record that an attempt has ended: it is neither resumed nor, unforced, repeated any more."""
    return append(
        ledger, {"event": "finished", "config_hash": config_hash, "attempt": attempt, **result}
    )


def confirmation_family(
    config_hash: str, ledger: str | Path = CONFIRMATION_LEDGER
) -> dict[str, int]:
    """How many tests of the same claim there were: ``{"order", "candidates"}``.

    ``order`` is the number of attempts, of any candidate, on the same subject and on data that
    overlap, up to and including this candidate's latest; it never changes afterwards.
    ``candidates`` is the number of different candidates among all of them so far. A candidate that
    the ledger does not know comes after all that it does."""
    started = starts(read_ledger(ledger))
    own = [i for i, e in enumerate(started) if e.get("config_hash") == config_hash]
    if not own:
        return {"order": len(started) + 1, "candidates": len({_named(e) for e in started}) + 1}
    same = [i for i, e in enumerate(started) if _same_claim(e, started[own[-1]])]
    candidates = {_named(started[i]) for i in same}
    return {"order": sum(i <= own[-1] for i in same), "candidates": len(candidates)}


def _named(entry: Mapping[str, Any]) -> str:
    """The candidate of an entry as text, whatever a hand wrote there: each is one more."""
    return canonical_json(entry.get("config_hash"))


def _same_claim(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two attempts were on one model and on data that overlap; what an entry does not say
    counts as the same. A model is known by the hash of its weights: a new name makes it no other.
    """
    data = [
        e["data"].get("datasets") if isinstance(e.get("data"), dict) else e.get("data")
        for e in (a, b)
    ]
    sets = [{canonical_json(x) for x in d} for d in data if isinstance(d, list)]
    apart = len(sets) == 2 and sets[0].isdisjoint(sets[1])
    models = [e.get("model") for e in (a, b)]
    named = models if None not in models else [e.get("subject") for e in (a, b)]
    return not apart and (None in named or named[0] == named[1])


def refuse_cut_start(ledger: str | Path = CONFIRMATION_LEDGER) -> None:
    """Refuse to judge where the ledger ends in a line that was cut short and may have begun an
    attempt: left out, it would be an attempt that nobody counts.

    Raises
    ------
    GateFailed
        When the cut line does not read as the end of an attempt.
    """
    if (line := cut_line(ledger)) and '"event": "finished"' not in line:
        raise GateFailed(
            f"{ledger}: the last line was cut short and may be the start of an attempt, which must "
            "be counted; restore it, or remove it if no attempt was begun"
        )


def starts(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Entries that begin an attempt, without those that go on with one."""
    return [e for e in entries if e.get("event") == "started" and not e.get("resumed")]


def ends(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Entries that end an attempt."""
    return [e for e in entries if e.get("event") == "finished"]


def entries_of(config_hash: str, ledger: str | Path = CONFIRMATION_LEDGER) -> list[dict[str, Any]]:
    """A candidate's entries, oldest first."""
    return [e for e in read_ledger(ledger) if e.get("config_hash") == config_hash]


def confirmation_status(
    config_hash: str, ledger: str | Path = CONFIRMATION_LEDGER
) -> dict[str, Any]:
    """``{"attempts", "forced", "finished", "ledger"}`` of a candidate; ``ledger`` is its head."""
    mine = entries_of(config_hash, ledger)
    started = starts(mine)
    return {
        "attempts": len(started),
        "forced": any(e.get("forced") for e in started),
        "finished": len(ends(mine)),
        "ledger": ledger_head(ledger),
    }

"""One attempt means one: the evidence must be that of exactly one finished, unforced entry of the
confirmation ledger, on the seeds, the data and the weights that the entry names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from husai.evidence import Evidence
from husai.gate.checks.derived import STRESS
from husai.gate.inputs import weights_behind


def one_attempt(
    items: Sequence[Evidence], unreadable: Sequence[str], attempts: Sequence[Mapping[str, Any]]
) -> str:
    """Fails unless the candidate's entries are one start and its end, and the evidence from files is
    that of this attempt.

    Parameters
    ----------
    attempts : sequence of mapping
        Entries of the candidate in the confirmation ledger.
    """
    items = [item for item in items if item.path and not item.problems]
    if not items:
        return ""
    started = [e for e in attempts if e.get("event") == "started" and not e.get("resumed")]
    finished = [e for e in attempts if e.get("event") == "finished"]
    if len(started) != 1 or len(finished) != 1:
        return (
            f"fails: the confirmation ledger holds {len(started)} attempts of this candidate, "
            f"{len(finished)} of them finished; it must be exactly one"
        )
    if started[0].get("forced") or started[0].get("attempt") != finished[0].get("attempt"):
        return "fails: the attempt in the confirmation ledger was forced, or another one finished"
    found = [*_seeds(items, started[0]), *_settings(items, started[0]), *_weights(items, finished)]
    more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
    return "fails: " + "; ".join(found[:4]) + more if found else ""


def _seeds(items: Sequence[Evidence], entry: Mapping[str, Any]) -> list[str]:
    out = []
    for item in items:
        stress = item.kind in STRESS
        said = entry.get("stress_seeds" if stress else "seeds")
        if not isinstance(said, list) or sorted(map(repr, item.seeds)) != sorted(map(repr, said)):
            out.append(f"{item.label} has other seeds than the ledger's entry")
    return out


def _settings(items: Sequence[Evidence], entry: Mapping[str, Any]) -> list[str]:
    """Records of what was measured whose configuration is not the one that the entry names."""
    measured = entry.get("measured")
    if not isinstance(measured, Mapping):
        return ["the ledger's entry does not say what is measured, and how"]
    out = []
    for item in items:
        wanted = measured.get(item.kind)
        singles = [one for one in item.behind if one.kind == item.kind] or [item]
        if isinstance(wanted, Mapping):
            out += [
                f"{one.label} was measured with other {', '.join(apart)} than the ledger's entry says"
                for one in singles
                if (apart := _apart(one.config(), wanted))
            ]
    return out


def _apart(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Settings that differ. What an SAE says of itself is none of the attempt's settings."""
    return sorted(key for key in wanted if config.get(key) != wanted[key])


def _weights(items: Sequence[Evidence], finished: Sequence[Mapping[str, Any]]) -> list[str]:
    """Records that rest on other weights than those that the attempt ended with."""
    weights = finished[0].get("weights")
    weights = weights if isinstance(weights, Mapping) else {}
    own, known = set(map(str, weights.get("candidate") or ())), set()
    for hashes in weights.values():
        known |= set(map(str, hashes or ()))
    out = []
    for item in (item for item in items if item.kind not in STRESS):
        rests = weights_behind((item, *item.behind))
        if not own or not own <= rests:
            out.append(f"{item.label} does not rest on all SAEs that the attempt ended with")
        elif not rests <= known:
            out.append(f"{item.label} rests on SAEs that the attempt did not end with")
    return out

"""One attempt means one: the evidence must be that of exactly one finished, unforced entry of the
confirmation ledger, on the seeds, the data and the weights that the entry names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from husai.evidence import Evidence
from husai.gate.attempts import ends, starts
from husai.gate.checks.coherent import fails
from husai.gate.checks.derived import STRESS
from husai.gate.checks.roles import COMPARED, others
from husai.gate.inputs import weights_behind

MEASURED = ("saebench", "cebench", "faithfulness", "ood")
"""Kinds whose settings every entry names; one that names its roles names those of stability and
stress too."""
OF_THE_SAE = ("subject", "recipe", "seed", "hook_name")
"""What an SAE says of itself is none of the attempt's settings."""

AT_DENSE_K = ("dense_k", "ks")
"""Settings that only a comparison with a dense probe needs, which is the candidate's alone."""


def one_attempt(
    items: Sequence[Evidence], unreadable: Sequence[str], attempts: Sequence[Mapping[str, Any]]
) -> str:
    """Fails unless the candidate's entries in the ledger, ``attempts``, are one start and its end,
    and the evidence from files is that of this attempt.
    """
    items = [item for item in items if item.path and not item.problems]
    items.sort(key=lambda item: item.label)  # the reason names the first few problems
    if not items:
        return ""
    started, finished = starts(attempts), ends(attempts)
    if len(started) != 1 or len(finished) != 1:
        return (
            f"fails: the confirmation ledger holds {len(started)} attempts of this candidate, "
            f"{len(finished)} of them finished; it must be exactly one"
        )
    another = started[0].get("attempt") != finished[0].get("attempt")
    if another or any(e.get("forced") for e in attempts):
        return "fails: the attempt in the confirmation ledger was forced, or another one finished"
    found = [*_seeds(items, started[0]), *_settings(items, started[0]), *_roles(items, started[0])]
    found += _weights(items, finished)
    return fails(found, most=4)


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
    probed, data = measured.get("saebench"), entry.get("data")
    data = data.get("datasets") if isinstance(data, Mapping) else data
    if isinstance(probed, Mapping) and probed.get("datasets", data) != data:
        return ["the ledger's entry names other data sets than those that are measured"]
    out, newer = [], ("stability", *STRESS) if "roles" in entry else ()
    for item in items:
        wanted = measured.get(item.kind)
        if item.kind in (*MEASURED, *newer) and not (isinstance(wanted, Mapping) and wanted):
            out.append(f"the ledger's entry does not say what {item.kind} is measured with")
        singles = [one for one in item.behind if one.kind == item.kind] or [item]
        pairs = [(one, wanted, _free(one, item)) for one in singles]
        if item.kind in STRESS:
            probed = (one for one in item.behind if one.kind == "saebench")
            pairs += [(one, measured.get("saebench"), _free(one, item)) for one in probed]
        out += [
            f"{one.label} was measured with other {', '.join(apart)} than the ledger's entry says"
            for one, asked, free in pairs
            if isinstance(asked, Mapping) and (apart := _apart(one.config(), asked, free))
        ]
    return out


def _free(one: Evidence, item: Evidence) -> Sequence[str]:
    """Settings that may differ from the candidate's: a control is probed at the gate's k alone."""
    return AT_DENSE_K if one.recipe_hash != item.recipe_hash else ()


def _apart(config: Mapping[str, Any], wanted: Mapping[str, Any], free: Sequence[str]) -> list[str]:
    """Settings that differ, but for those that are ``free``."""
    keys = {*config, *wanted} - {*OF_THE_SAE, *free}
    return sorted(key for key in keys if config.get(key) != wanted.get(key))


def _roles(items: Sequence[Evidence], entry: Mapping[str, Any]) -> list[str]:
    """Records that compare the candidate with another recipe than the entry names for the role."""
    roles = entry.get("roles", {})
    if not isinstance(roles, Mapping):
        return ["the ledger's entry does not say which recipe each role is trained by"]
    return [
        f"{item.label} rests on {one.label}, which is of another recipe than the ledger's "
        f"{COMPARED[item.kind]}"
        for item in items
        if COMPARED.get(item.kind) in roles
        for one in others(item)
        if one.recipe_hash != roles[COMPARED[item.kind]]
    ]


def _weights(items: Sequence[Evidence], finished: Sequence[Mapping[str, Any]]) -> list[str]:
    """Records that rest on other weights than those that the attempt ended with. An entry that was
    written before those of the stress roles were noted has none to compare with theirs.
    """
    weights = finished[0].get("weights")
    weights = weights if isinstance(weights, Mapping) else {}
    by_role = {role: set(map(str, hashes or ())) for role, hashes in weights.items()}
    own = by_role.get("candidate", set())
    out = []
    for item in items:
        role, theirs = COMPARED.get(item.kind, "frozen"), others(item)
        mine = (one for one in item.behind if one.recipe_hash == item.recipe_hash)
        ours = weights_behind((item, *mine))
        if not own or not own <= ours:
            out.append(f"{item.label} does not rest on all SAEs that the attempt ended with")
        elif not ours <= own | by_role.get("frozen", set()):
            out.append(f"{item.label} rests on SAEs that the attempt did not end with")
        elif role in by_role and not weights_behind(theirs) <= by_role[role]:
            out.append(f"{item.label} rests on other SAEs as {role} than the attempt ended with")
    return out

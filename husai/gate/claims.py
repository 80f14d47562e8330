"""Whether a claim may be made: its decision judged again, now, by strict as it ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.evidence import Evidence
from husai.gate.bounds import standing
from husai.gate.decision import Decision
from husai.gate.evaluate import evaluate
from husai.gate.inputs import load_evidence
from husai.gate.ledger import CONFIRMATION_LEDGER, GateFailed
from husai.gate.policy import CHANGED, Policy, is_shipped
from husai.gate.policy_files import load_policy
from husai.provenance import read_json

ABSENT = "which is not there"


def takes_no_options(policy: Policy) -> bool:
    """Whether a policy is one that ships, and no reading of the original with its command line."""
    return is_shipped(policy.name, policy.sha256) and not policy.original


def records_behind(
    names: Sequence[str], policy: Policy, candidate: object, root: Path, whole: bool = True
) -> list[Evidence]:
    """The evidence in the files ``names`` below ``root``, and for a policy as it ships whatever
    else of the same kinds lies beside them: a decision leaves out none. Without the checkpoints
    (``whole`` false) an input that is not here is not held against a record.

    Raises
    ------
    HusaiError
        A file is not here, or holds no evidence record.
    """
    named = candidate.get("recipe_hash") if isinstance(candidate, Mapping) else None
    only = None if policy.original else named
    out: list[Evidence] = []
    for name in names:
        if not (root / name).is_file():
            raise HusaiError(f"{name} is not here")
        records = load_evidence([root / name], root=root, recipe_hash=only)
        if not records:
            raise HusaiError(f"{name} is an artifact of the original, not an evidence record")
        out += records
    if takes_no_options(policy):
        kinds = {e.kind for e in out}
        given = {(root / name).resolve() for name in names}
        beside = {p for name in names for p in (root / name).parent.glob("*.json")}
        others = sorted(p for p in beside if p.resolve() not in given)
        found = load_evidence(others, root=root, recipe_hash=only)
        out += [e for e in found if e.kind in kinds and e.recipe_hash == only]
    if whole:
        return out
    return [replace(e, problems=tuple(p for p in e.problems if ABSENT not in p)) for e in out]


def misnamed(body: Mapping[str, Any], records: Sequence[Evidence], root: Path) -> str:
    """Why the candidate is not the one that the evidence or an input names; empty when it is."""
    about = body.get("candidate")
    if not isinstance(about, Mapping):
        return "names no candidate"
    names = [e.recipe for e in records if e.recipe_hash == about.get("recipe_hash")]
    if about.keys() <= {"recipe_hash", "recipe"} and about.get("recipe") in [None, *names]:
        return ""
    for entry in body.get("inputs") or ():
        path = root / str(entry["path"])
        try:
            data = read_json(path)
        except HusaiError:
            continue
        data = data if isinstance(data, Mapping) else {}
        inner = data.get("selected_candidate")
        data = inner if isinstance(inner, Mapping) else data
        if all(key in data and data[key] == value for key, value in about.items()):
            return ""
    return "is about a candidate of another name than its evidence and inputs give"


def judged_again(body: Mapping[str, Any], path: Path, root: Path) -> Decision:
    """The decision of ``path`` made again from the evidence it names below ``root``.

    Parameters
    ----------
    body : mapping
        What ``path``, a ``release_policy.json``, holds.

    Raises
    ------
    GateFailed
        When the decision is not strict's, did not pass, names no evidence or another candidate, or
        does not come out the same from its evidence, and what lies beside it, now.
    """
    strict, refused = load_policy("strict"), f"claim refused: {path}"
    ours = [is_shipped("strict", sha256) for sha256 in (strict.sha256, body.get("policy_sha256"))]
    if body.get("policy") != "strict" or not all(ours):
        raise GateFailed(
            f"{refused} is not a decision of the strict policy that comes with this version but of "
            f"{CHANGED}; run husai gate --policy strict"
        )
    sources = body.get("sources")
    if not isinstance(sources, list) or not sources:
        raise GateFailed(
            f"{refused} names no evidence files; failing gates: "
            f"{', '.join(g.name for g in strict.gates)}"
        )
    gates = body.get("gates") if isinstance(body.get("gates"), Mapping) else {}
    if gates.get("pass_all") is not True:
        raise GateFailed(
            f"{refused} did not pass; failing gates: "
            f"{', '.join(body.get('failing') or ['pass_all'])}"
        )
    absent = [s for s in sources if not (root / s).is_file()]
    if absent:
        raise GateFailed(f"{refused} rests on {absent[0]}, {ABSENT}; failing gates: integrity")
    about = body.get("candidate")
    records = records_behind(sources, strict, about, root)
    if wrong := misnamed(body, records, root):
        raise GateFailed(f"{refused} {wrong}; run husai gate again")
    again = evaluate(strict, records, about, **standing(strict, about, root / CONFIRMATION_LEDGER))
    if not again.pass_all:
        why = "; ".join(f"{name}: {again.reasons[name]}" for name in again.failing)
        raise GateFailed(
            f"{refused} passed once, but its evidence no longer does; failing gates: "
            f"{', '.join(again.failing)} ({why})"
        )
    return again

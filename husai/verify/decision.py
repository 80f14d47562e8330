"""Makes the gate's decisions again and compares every part, and what they say of the ledger."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from husai.errors import MALFORMED, HusaiError
from husai.evidence import Evidence
from husai.gate.attempts import confirmation_family, confirmation_status
from husai.gate.bounds import standing
from husai.gate.checks.derived import alike
from husai.gate.claims import misnamed, records_behind, takes_no_options
from husai.gate.decision import Decision, check_decision
from husai.gate.evaluate import evaluate
from husai.gate.ledger import CONFIRMATION_LEDGER, heads, write_lines
from husai.gate.policy import Policy, is_shipped, policy_label
from husai.gate.policy_files import load_policy, shipped_policies
from husai.provenance import finite, read_json, read_text, sha256_file
from husai.report.mirror import sources_of
from husai.verify.findings import Findings

TOLD = (
    *("policy_changed", "not_excluded", "reasons", "unattainable", "feasibility"),
    *("modes", "required", "alpha", "sources"),
)
"""What else a decision says, besides what is named one by one."""
LATER = ("policy_changed",)
"""What decisions made before it was thought of do not say."""
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?:e[+-]?\d+)?")
SHOWN = 2e-3
"""How far a number that a text shows may lie from the one derived again: it has four digits."""


def check_decisions(found: Findings) -> None:
    """Evaluate every decision again: from the run, or the evidence copies where it is not here."""
    copies = found.reports / "evidence"
    base = found.root if found.has_results else copies
    for path in sorted((base / "results/gate").glob("*/release_policy.json")):
        try:
            decision = check_decision(read_json(path), path)
            policy = _policy(decision, [path.parent, copies / "policies", shipped_policies()])
            lines = _otherwise(decision, policy, base, whole=found.has_results)
        except (HusaiError, *MALFORMED) as error:
            found.mismatch(path, f"the decision cannot be made again ({error})")
            continue
        if not is_shipped(decision.get("policy"), decision.get("policy_sha256")):
            label = policy_label(decision.get("policy"), decision.get("policy_sha256"))
            found.notes.append(f"{found.name(path)}: decided by policy {label}")
        found.count("decisions made again")
        for line in lines:
            found.mismatch(path, line)


def _otherwise(decision: dict[str, Any], policy: Policy, base: Path, whole: bool) -> list[str]:
    """What of a decision does not follow from its evidence and ledger."""
    about, ledger = decision.get("candidate"), base / CONFIRMATION_LEDGER
    records = records_behind(sources_of(decision), policy, about, base, whole)
    again = evaluate(policy, records, about, **standing(policy, about, ledger))
    again = _flagged(again, policy, decision)
    return [
        *_level(decision, again),
        *differences(decision, again, base, whole),
        *_named(decision, records, base, whole),
        *_confirmation(decision, again, ledger),
    ]


def _flagged(again: Decision, policy: Policy, decision: dict[str, Any]) -> Decision:
    """The decision with the flags that the original's policy lists among its thresholds."""
    flags = {f"require_{gate}": required for gate, required in again.required.items()}
    stated = decision.get("thresholds") or {}
    flags = {name: flag for name, flag in flags.items() if policy.original and name in stated}
    return replace(again, thresholds=again.thresholds | flags)


def _level(decision: dict[str, Any], again: Decision) -> list[str]:
    """Whether the bounds were judged at the level that the confirmation ledger asks for."""
    judged = decision.get("alpha")
    if again.alpha is None or judged is None or alike(judged, again.alpha):
        return []
    return [
        f"the bounds were judged at one-sided level {judged:.3g} but the confirmation ledger asks "
        f"for {again.alpha:.3g}"
    ]


def _named(
    decision: dict[str, Any], records: Sequence[Evidence], base: Path, whole: bool
) -> list[str]:
    """Whether the decision names its inputs, who made it, and its candidate as they do. Without the
    run (``whole`` false) a candidate whose file is not among the copies is taken as it is.
    """
    inputs = [str(entry["path"]) for entry in decision.get("inputs") or ()]
    left_out = [name for name in decision.get("sources") or () if name not in inputs]
    there = {"inputs": inputs or not left_out, "provenance": decision.get("provenance")}
    out = [f"{key} is missing" for key in there if key not in decision or not there[key]]
    out += [f"inputs do not name {name}, which was judged" for name in left_out if inputs]
    if whole or all((base / name).is_file() for name in inputs):
        wrong = misnamed(decision, records, base)
        out += [f"it {wrong}"] if wrong else []
    return out


def _confirmation(decision: dict[str, Any], again: Decision, ledger: Path) -> list[str]:
    """Whether the ledger begins with what the decision saw, and gives what it says of it."""
    said, recipe_hash = decision.get("confirmation"), str(again.candidate.get("recipe_hash") or "")
    if not recipe_hash:
        return ["confirmation is that of no candidate"] if said else []
    head = said.get("ledger") if said else None
    if head is None:
        return ["confirmation, with the head of the ledger, is missing"]
    if head not in heads(ledger):
        return [
            f"the confirmation ledger does not hold the {head.get('entries')} entries that the "
            "decision was made with; it was cut or begun anew"
        ]
    lines = read_text(ledger).splitlines() if ledger.exists() else []
    with TemporaryDirectory() as folder:
        then = Path(folder) / ledger.name
        write_lines(then, lines[: head["entries"]])
        gives: dict[str, Any] = confirmation_status(recipe_hash, then)
        if again.alpha is not None:
            gives |= {**confirmation_family(recipe_hash, then), "alpha": again.alpha}
    return _apart("confirmation", said, gives, "ledger gives")


def _apart(what: str, said: Mapping[str, Any], gives: Mapping[str, Any], source: str) -> list[str]:
    """Values that a decision states and ``source`` does not, or otherwise."""
    return [
        f"{what} {name} is {said.get(name)} but the {source} {gives.get(name)}"
        for name in sorted({*said, *gives})
        if not _same(said.get(name), gives.get(name))
    ]


def _policy(decision: dict[str, Any], folders: list[Path]) -> Policy:
    """The decision's policy file, known by its hash, with the options noted; strict has none."""
    for place in (p for folder in folders for p in sorted(folder.glob("*.yaml"))):
        if sha256_file(place) == decision.get("policy_sha256"):
            policy = load_policy(place)
            if takes_no_options(policy):
                return policy
            known = {c.threshold_as for c in policy.all_conditions() if c.threshold_as}
            stated = decision.get("thresholds") or {}
            thresholds = {name: value for name, value in stated.items() if name in known}
            return policy.with_options(decision.get("modes"), decision.get("required"), thresholds)
    raise HusaiError(f"policy {decision['policy']} as it was then is not here")


def differences(decision: dict[str, Any], again: Decision, base: Path, whole: bool) -> list[str]:
    """What a repeated decision says otherwise: verdict, gates, conditions, metrics, thresholds, and
    every word. ``base`` is where the evidence was read; without the run (``whole`` false) a failed
    check that looks at what is not here may give other reasons.
    """
    decision, now = _below(decision, base), _below(finite(again.to_dict()), base)
    if not whole:
        decision, now = _without_checks(decision), _without_checks(now)
    out, before = [], decision.get("gates") or {}
    for gate in sorted({*before, *now["gates"]}):
        verdict, reason = now["gates"].get(gate), now["reasons"].get(gate, "")
        if before.get(gate) is not verdict:
            why = f" ({reason})" if reason else ""
            out.append(f"gate {gate} is {before.get(gate)} but the evidence gives {verdict}{why}")
    out += [
        f"{name} is {decision.get(name)} but the evidence gives {now[name]}"
        for name in ("policy", "subject", "verdict", "failing")
        if decision.get(name) != now[name]
    ]
    out += _rows(decision.get("rows") or [], now["rows"])
    out += _apart("metric", decision.get("metrics") or {}, now["metrics"], "evidence gives")
    out += _apart("threshold", decision.get("thresholds") or {}, now["thresholds"], "policy says")
    told = [name for name in TOLD if name in decision or name not in LATER]
    return out + [
        f"{name} is not what the evidence gives; husai gate decides again"
        for name in told
        if not _same(decision.get(name), now[name])
    ]


def _rows(said: list[dict[str, Any]], again: list[dict[str, Any]]) -> list[str]:
    """Conditions that were read or judged otherwise, or more often, than the evidence gives."""
    before, now = defaultdict(list), defaultdict(list)
    for rows, into in ((said, before), (again, now)):
        for row in rows:
            into[row["gate"], row["condition"]].append({"source": "", **row})
    return [
        f"condition {condition} of gate {gate} was not judged as the evidence gives"
        for gate, condition in sorted({*before, *now})
        if not _same(before[gate, condition], now[gate, condition])
    ]


def _without_checks(body: dict[str, Any]) -> dict[str, Any]:
    """A decision without the reasons of failed checks, which compare no number, and their gates."""
    rows = body.get("rows") or []
    rows = [row if row["passed"] or row["asked"] else row | {"reason": ""} for row in rows]
    gates = {row["gate"] for row in rows if not row["reason"]}
    reasons = {g: text for g, text in (body.get("reasons") or {}).items() if g not in gates}
    return body | {"rows": rows, "reasons": reasons}


def _below(value: Any, base: Path) -> Any:
    """A JSON value whose texts name files as they are named below ``base``."""
    if isinstance(value, str):
        return value.replace(f"{base}/", "")
    if isinstance(value, dict):
        return {_below(key, base): _below(part, base) for key, part in value.items()}
    return [_below(part, base) for part in value] if isinstance(value, list) else value


def _same(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same in every part, numbers within tolerance, those in a text
    as far as a text shows them, and the clauses of a text in any order.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, str) and isinstance(b, str) and a != b:
        first, second = _clauses(a), _clauses(b)
        return len(first) == len(second) and all(map(_same_words, first, second))
    return isinstance(a, bool) == isinstance(b, bool) and alike(a, b)


def _clauses(text: str) -> list[str]:
    """What a reason lists, in an order of its own."""
    return sorted(text.replace("fails: ", "fails; ").split("; "))


def _same_words(a: str, b: str) -> bool:
    numbers = [NUMBER.findall(text) for text in (a, b)]
    return NUMBER.sub("#", a) == NUMBER.sub("#", b) and all(
        math.isclose(float(x), float(y), rel_tol=SHOWN) for x, y in zip(*numbers, strict=True)
    )

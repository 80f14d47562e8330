"""Makes the gate's decision again from the evidence it names and compares: gates, metrics and
thresholds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from husai.errors import MALFORMED, HusaiError
from husai.evidence import Evidence
from husai.gate.bounds import standing
from husai.gate.checks.derived import alike
from husai.gate.decision import Decision, check_decision
from husai.gate.evaluate import evaluate
from husai.gate.inputs import load_evidence
from husai.gate.ledger import CONFIRMATION_LEDGER, heads
from husai.gate.policy import Policy, is_shipped, policy_label
from husai.gate.policy_files import load_policy, shipped_policies
from husai.provenance import finite, read_json, sha256_file
from husai.report.mirror import sources_of
from husai.verify.findings import Findings

ABSENT = "which is not there"
READ = ("value", "lcb", "ucb", "n", "asked", "passed")
"""What a condition's row says of what was measured and how it was judged."""


def check_decisions(found: Findings) -> None:
    """Evaluate every decision of the run again; from the run itself where it is here, else from the
    evidence copies.
    """
    copies = found.reports / "evidence"
    base = found.root if found.has_results else copies
    for path in sorted((base / "results/gate").glob("*/release_policy.json")):
        try:
            decision = check_decision(read_json(path), path)
            policy = _policy(decision, [path.parent, copies / "policies", shipped_policies()])
            records = _records(decision, policy, base, whole=found.has_results)
            about = decision.get("candidate")
            said = standing(policy, about, base / CONFIRMATION_LEDGER)
            again = evaluate(policy, records, about, **said)
        except (HusaiError, *MALFORMED) as error:
            found.mismatch(path, f"the decision cannot be made again ({error})")
            continue
        if not is_shipped(decision.get("policy"), decision.get("policy_sha256")):
            label = policy_label(decision.get("policy"), decision.get("policy_sha256"))
            found.notes.append(f"{found.name(path)}: decided by policy {label}")
        found.count("decisions made again")
        found_again = [*_level(decision, again), *differences(decision, again)]
        for line in [*found_again, *_ledger(decision, base / CONFIRMATION_LEDGER)]:
            found.mismatch(path, line)


def _level(decision: dict[str, Any], again: Decision) -> list[str]:
    """Whether the bounds were judged at the level that the confirmation ledger asks for."""
    judged = decision.get("alpha")
    if again.alpha is None or judged is None or alike(judged, again.alpha):
        return []
    return [
        f"the bounds were judged at one-sided level {judged:.3g} but the confirmation ledger asks "
        f"for {again.alpha:.3g}"
    ]


def _ledger(decision: dict[str, Any], ledger: Path) -> list[str]:
    """Whether the ledger still begins with what it held when the decision was made."""
    confirmation = decision.get("confirmation")
    head = confirmation.get("ledger") if isinstance(confirmation, dict) else None
    if head is None or head in heads(ledger):
        return []
    return [
        f"the confirmation ledger does not hold the {head.get('entries')} entries that the decision "
        "was made with; it was cut or begun anew"
    ]


def _records(decision: dict[str, Any], policy: Policy, base: Path, whole: bool) -> list[Evidence]:
    """The evidence a decision names, and for a policy as it ships whatever else of the same kinds
    lies beside it: a decision leaves out none. Without the checkpoints (``whole`` false) an input
    that is not here is not held against a record.
    """
    names = sources_of(decision)
    about = decision.get("candidate")
    only = about.get("recipe_hash") if isinstance(about, dict) and not policy.original else None
    out: list[Evidence] = []
    for name in names:
        if not (base / name).is_file():
            raise HusaiError(f"{name} is not here")
        records = load_evidence([base / name], root=base, recipe_hash=only)
        if not records:
            raise HusaiError(f"{name} is an artifact of the original, not an evidence record")
        out += records
    if _takes_no_options(policy):
        kinds = {e.kind for e in out}
        beside = {p for name in names for p in (base / name).parent.glob("*.json")}
        others = sorted(beside - {base / name for name in names})
        found = load_evidence(others, root=base, recipe_hash=only)
        out += [e for e in found if e.kind in kinds and e.recipe_hash == only]
    return (
        out
        if whole
        else [replace(e, problems=tuple(p for p in e.problems if ABSENT not in p)) for e in out]
    )


def _policy(decision: dict[str, Any], folders: list[Path]) -> Policy:
    """The policy file that the decision was made with, known by its hash, with the options that the
    decision notes; strict as it ships has none.
    """
    for place in (p for folder in folders for p in sorted(folder.glob("*.yaml"))):
        if sha256_file(place) == decision.get("policy_sha256"):
            policy = load_policy(place)
            if _takes_no_options(policy):
                return policy
            known = {c.threshold_as for c in policy.all_conditions() if c.threshold_as}
            stated = decision.get("thresholds") or {}
            return policy.with_options(
                decision.get("modes"),
                decision.get("required"),
                {name: value for name, value in stated.items() if name in known},
            )
    raise HusaiError(f"policy {decision['policy']} as it was then is not here")


def _takes_no_options(policy: Policy) -> bool:
    """Whether a policy is one that ships, and no reading of the original with its command line."""
    return is_shipped(policy.name, policy.sha256) and not policy.original


def differences(decision: dict[str, Any], again: Decision) -> list[str]:
    """What a repeated decision says otherwise: verdict, gates, conditions, metrics, thresholds."""
    out, before = [], decision.get("gates", {})
    for gate in sorted({*before, *again.gates}):
        verdict, reason = again.gates.get(gate), again.reasons.get(gate, "")
        if before.get(gate) is not verdict:
            out.append(
                f"gate {gate} is {before.get(gate)} but the evidence gives {verdict}"
                + (f" ({reason})" if reason else "")
            )
    for name in ("verdict", "failing"):
        if decision.get(name) != getattr(again, name):
            out.append(
                f"{name} is {decision.get(name)} but the evidence gives {getattr(again, name)}"
            )
    out += _rows(decision.get("rows", []), [row._asdict() for row in again.rows])
    for name, value in finite(again.metrics).items():
        if not alike(decision.get("metrics", {}).get(name), value):
            out.append(
                f"metric {name} is {decision.get('metrics', {}).get(name)} but the evidence gives "
                f"{value}"
            )
    for name, value in finite(again.thresholds).items():
        if name in decision.get("thresholds", {}) and not alike(
            decision["thresholds"][name], value
        ):
            out.append(
                f"threshold {name} is {decision['thresholds'][name]} but the policy says {value}"
            )
    return out


def _rows(said: list[dict[str, Any]], again: list[dict[str, Any]]) -> list[str]:
    """Conditions that were read or judged otherwise than the evidence gives."""
    before, now = ({(row["gate"], row["condition"]): row for row in rows} for rows in (said, again))
    return [
        f"condition {condition} of gate {gate} was not judged as the evidence gives"
        for gate, condition in sorted({*before, *now})
        if not all(
            alike(*(rows.get((gate, condition), {}).get(key) for rows in (before, now)))
            for key in READ
        )
    ]

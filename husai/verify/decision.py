"""Makes the gate's decision again from the evidence it names and compares: gates, metrics and
thresholds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from husai.errors import HusaiError
from husai.gate.bounds import level_of
from husai.gate.decision import Decision
from husai.gate.evaluate import evaluate
from husai.gate.evidence import Evidence, load_evidence
from husai.gate.ledger import CONFIRMATION_LEDGER
from husai.gate.policy import Policy, load_policy, shipped_policies
from husai.provenance import finite, read_json, sha256_file
from husai.report.mirror import sources_of

if TYPE_CHECKING:
    from husai.verify.run import Findings

RELATIVE, ABSOLUTE = 1e-9, 1e-12
ABSENT, CHANGED = "which is not there", ("rests on", "has changed since")


def redecide(found: Findings) -> None:
    """Evaluate every decision of the run again; from the run itself where it is here, else from the
    evidence copies.
    """
    copies = found.reports / "evidence"
    base = found.root if found.has_results else copies
    for path in sorted((base / "results/gate").glob("*/release_policy.json")):
        try:
            decision = read_json(path)
            policy = _policy(decision, [base, copies])
            records = _records(decision, policy, base, whole=found.has_results)
            alpha = level_of(policy, decision.get("candidate"), base / CONFIRMATION_LEDGER)
            again = evaluate(policy, records, decision.get("candidate"), alpha=alpha)
        except (HusaiError, KeyError, TypeError, AttributeError) as error:
            found.notes.append(f"{found.name(path)}: the decision was not made again ({error})")
            continue
        found.count("decisions made again")
        for line in [*_level(decision, again), *differences(decision, again)]:
            found.mismatch(path, line)


def _level(decision: dict[str, Any], again: Decision) -> list[str]:
    """Whether the bounds were judged at the level that the confirmation ledger asks for."""
    judged = decision.get("alpha")
    if again.alpha is None or judged is None or _close(judged, again.alpha):
        return []
    return [
        f"the bounds were judged at one-sided level {judged:.3g} but the confirmation ledger asks "
        f"for {again.alpha:.3g}"
    ]


def _records(decision: dict[str, Any], policy: Policy, base: Path, whole: bool) -> list[Evidence]:
    """The evidence a decision names. Without the checkpoints (``whole`` false) an input that is not
    here is not held against a record.
    """
    names = sources_of(decision)
    if not names:
        raise HusaiError("it names no evidence files")
    about = decision.get("candidate")
    only = about.get("recipe_hash") if policy.one_candidate and isinstance(about, dict) else None
    out: list[Evidence] = []
    for name in names:
        if not (base / name).is_file():
            raise HusaiError(f"{name} is not here")
        records = load_evidence([base / name], root=base, recipe_hash=only)
        if not records:
            raise HusaiError(f"{name} is an artifact of the original, not an evidence record")
        out += records
    return (
        out
        if whole
        else [replace(e, problems=tuple(p for p in e.problems if ABSENT not in p)) for e in out]
    )


def _policy(decision: dict[str, Any], bases: list[Path]) -> Policy:
    name = decision["policy"]
    named = [
        folder / f"{name}.yaml" for folder in (*(b / "policies" for b in bases), shipped_policies())
    ]
    others = [p for b in bases for p in sorted((b / "policies").glob("*.yaml"))]
    for place in [*named, *others]:
        if place.is_file() and sha256_file(place) == decision.get("policy_sha256"):
            policy = load_policy(place)
            known = {
                c.threshold_as
                for g in policy.gates
                for alternatives in g.modes.values()
                for a in alternatives
                for c in a
            }
            changed = {
                k: v for k, v in (decision.get("thresholds") or {}).items() if k and k in known
            }
            return policy.with_options(decision.get("modes"), decision.get("required"), changed)
    raise HusaiError(f"policy {name} as it was then is not here")


def differences(decision: dict[str, Any], again: Decision) -> list[str]:
    """What a repeated decision says otherwise, gate by gate and metric by metric."""
    out = []
    reasons = decision.get("reasons") or {}
    untrusted = {
        gate for gate, reason in reasons.items() if any(text in str(reason) for text in CHANGED)
    }
    for gate, verdict in again.gates.items():
        before = decision.get("gates", {}).get(gate)
        if (
            before is not verdict
            and gate not in untrusted
            and not (gate == "pass_all" and untrusted)
        ):
            reason = again.reasons.get(gate, "")
            out.append(
                f"gate {gate} is {before} but the evidence gives {verdict}"
                + (f" ({reason})" if reason else "")
            )
    for name, value in finite(again.metrics).items():
        if not _close(decision.get("metrics", {}).get(name), value):
            out.append(
                f"metric {name} is {decision.get('metrics', {}).get(name)} but the evidence gives "
                f"{value}"
            )
    for name, value in finite(again.thresholds).items():
        if name in decision.get("thresholds", {}) and not _close(
            decision["thresholds"][name], value
        ):
            out.append(
                f"threshold {name} is {decision['thresholds'][name]} but the policy says {value}"
            )
    return out


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_close(a[k], b[k]) for k in a.keys() & b.keys())
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b))
    return a == b

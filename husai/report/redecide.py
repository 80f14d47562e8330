"""Makes the gate's decision again from the evidence it names and compares: gates, metrics and thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from husai.errors import HusaiError
from husai.gate.evaluate import Decision, evaluate
from husai.gate.evidence import load_evidence
from husai.gate.policy import Policy, load_policy, shipped_policies
from husai.provenance import finite, read_json, sha256_file
from husai.report.mirror import sources_of

if TYPE_CHECKING:
    from husai.report.verify import Findings

RELATIVE, ABSOLUTE = 1e-9, 1e-12
CHANGED = ("rests on", "has changed since")


def redecide(found: Findings) -> None:
    """Evaluate every decision of the run again; from the run itself where it is here, else from the evidence copies."""
    base = found.root if found.has_results else found.reports / "evidence"
    for path in sorted((base / "results/gate").glob("*/release_policy.json")):
        try:
            decision = read_json(path)
            again = _again(decision, base)
        except (HusaiError, KeyError, TypeError, AttributeError) as error:  # an old or foreign decision
            found.notes.append(f"{found.name(path)}: the decision was not made again ({error})")
            continue
        if again is None:
            found.notes.append(f"{found.name(path)}: names no evidence files, so the decision was not made again")
            continue
        found.count("decisions made again")
        for line in differences(decision, again, whole=found.has_results):
            found.mismatch(path, line)


def _again(decision: dict[str, Any], base: Path) -> Decision | None:
    files = [base / name for name in sources_of(decision) if (base / name).is_file()]
    if not files:
        return None
    policy = _policy(decision, base)
    return evaluate(policy, load_evidence(files, root=base), decision.get("candidate"))


def _policy(decision: dict[str, Any], base: Path) -> Policy:
    name = decision["policy"]
    places = [base / "config/policies" / f"{name}.yaml", shipped_policies() / f"{name}.yaml"]
    places += [p for p in (base / "config/policies").glob("*.yaml") if p not in places]
    for place in places:
        if place.is_file() and sha256_file(place) == decision.get("policy_sha256", sha256_file(place)):
            modes = dict((decision.get("modes") or {}).items())
            return load_policy(place).with_options(modes=modes)
    raise HusaiError(f"policy {name} with the SHA-256 of the decision is not here")


def differences(decision: dict[str, Any], again: Decision, whole: bool) -> list[str]:
    """What a repeated decision says otherwise. Without the run's checkpoints (``whole`` false) hashes of inputs cannot be judged again."""
    out = []
    for gate, verdict in again.gates.items():
        before = decision.get("gates", {}).get(gate)
        trusted = whole or not any(text in again.reasons.get(gate, "") for text in CHANGED)
        if before is not verdict and (trusted and (whole or gate != "pass_all")):
            reason = again.reasons.get(gate, "")
            out.append(f"gate {gate} is {before} but the evidence gives {verdict}" + (f" ({reason})" if reason else ""))
    for name, value in finite(again.metrics).items():
        if name in decision.get("metrics", {}) and not _close(decision["metrics"][name], value):
            out.append(f"metric {name} is {decision['metrics'][name]} but the evidence gives {value}")
    for name, value in finite(again.thresholds).items():
        if name in decision.get("thresholds", {}) and not _close(decision["thresholds"][name], value):
            out.append(f"threshold {name} is {decision['thresholds'][name]} but the policy says {value}")
    return out


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_close(a[k], b[k]) for k in a.keys() & b.keys())
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b))
    return a == b

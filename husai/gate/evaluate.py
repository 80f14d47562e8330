"""The decision: policy x evidence x candidate -> gates with reasons. Pure: no files, no clock."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from husai.cycle3.importer import ORIGINAL, as_the_original
from husai.errors import HusaiError, reading
from husai.evidence import Evidence, Metric
from husai.gate.bounds import FIRST
from husai.gate.checks import CHECKS
from husai.gate.decision import Decision, Row, reason_of
from husai.gate.feasibility import Finding, assess
from husai.gate.fixed import deviations
from husai.gate.policy import Condition, Gate, Policy, is_shipped
from husai.gate.pool import Pool, refuse_other
from husai.gate.verdict import verdict_on
from husai.provenance import finite


def evaluate(
    policy: Policy,
    evidence: Iterable[Evidence | Mapping],
    candidate: str | Mapping | None = None,
    *,
    alpha: float = FIRST,
    attempts: Sequence[Mapping[str, Any]] = (),
) -> Decision:
    """Judge one candidate by a policy.

    Parameters
    ----------
    policy : Policy
        From :func:`husai.gate.load_policy`.
    evidence : iterable of Evidence or record
        From :func:`husai.gate.load_evidence`, or plain ``husai.evidence/1`` dicts. Their order
        never matters; of several records that hold one metric the worst decides.
    candidate : str or mapping, optional
        Recipe hash, or a mapping with ``recipe_hash``. May be left out when all evidence has one
        recipe hash, or all confirmation evidence has.
    alpha : float
        One-sided level of the bounds; below 0.025 for a candidate that is not the first confirmed
        on its data (:func:`husai.statistics.levels.candidate_alpha`).
    attempts : sequence of mapping
        The candidate's entries in the confirmation ledger, which evidence from files must match.

    Returns
    -------
    Decision
        Every number must carry the candidate's hash; what is missing, NaN, malformed, stale or
        unverifiable fails its gate and the reason names it. Where nothing is measured for any gate
        that counts, these gates fail.

    Raises
    ------
    HusaiError
        The candidate is said to be another SAE than the recipe behind the evidence describes.
    """
    items = [e if isinstance(e, Evidence) else Evidence.read(e) for e in evidence]
    about = named_candidate(candidate, items)
    recipe_hash = str(about.get("recipe_hash") or "")
    if policy.original:
        recipe_hash = recipe_hash or ORIGINAL
        items = as_the_original(items, recipe_hash)
    else:
        refuse_other(about, items)
    return _Evaluation(policy, Pool(items, recipe_hash, alpha), attempts).decision(about)


def named_candidate(candidate: str | Mapping | None, items: Sequence[Evidence]) -> dict[str, Any]:
    """Who is judged: as given, or the one recipe that all evidence is about where nobody says."""
    if isinstance(candidate, Mapping):
        return dict(candidate)
    if candidate is None:
        candidate = _only_hash(items)
    names = sorted({e.recipe for e in items if candidate and e.recipe_hash == candidate})
    return {"recipe_hash": candidate, "recipe": next(filter(None, names), None)}


def _only_hash(items: Sequence[Evidence]) -> str:
    """The one recipe hash of the confirmation evidence, or else of all; empty for several."""
    confirmed = [e for e in items if e.phase == "confirmation"]
    hashes = {e.recipe_hash for e in confirmed or items if e.recipe_hash}
    return hashes.pop() if len(hashes) == 1 else ""


class _Evaluation:
    """One policy on one pool of evidence."""

    def __init__(self, policy: Policy, pool: Pool, attempts: Sequence[Mapping[str, Any]]):
        self.policy, self.pool, self.attempts = policy, pool, attempts
        self.findings: dict[Finding, None] = {}

    def decision(self, about: dict[str, Any]) -> Decision:
        policy = self.policy
        judged = {gate.name: self._gate(gate) for gate in policy.gates}
        gates = {name: all(row.passed for row in rows) for name, rows in judged.items()}
        counted = [g.name for g in policy.gates if g.counts]
        asked = (c for gate in policy.gates if gate.counts for c in gate.conditions())
        if all(gates[name] for name in counted) and not any(map(self.pool.usable, asked)):
            text = "fails: nothing is measured for any gate that counts"
            for name in counted:
                judged[name].append(Row.unmeasured(name, "evidence", False, text))
                gates[name] = False
        gates["pass_all"] = all(gates[name] for name in counted)
        ours = policy.name == "strict" and is_shipped(policy.name, policy.sha256)
        verdict, not_excluded = verdict_on(ours, gates["pass_all"], self.attempts)
        return Decision(
            policy=policy.name,
            policy_sha256=policy.sha256,
            candidate=about,
            gates=gates,
            reasons={name: reason_of(rows) for name, rows in judged.items()},
            thresholds=_thresholds(policy),
            metrics=self._metrics(),
            unattainable=list(dict.fromkeys(f.gate for f in self.findings if f.blocking)),
            feasibility=[f._asdict() for f in sorted(self.findings, key=repr)],
            rows=[row for rows in judged.values() for row in rows],
            whys={g.name: g.why for g in policy.gates},
            counted=counted,
            modes={g.name: g.mode for g in policy.gates if len(g.modes) > 1},
            required={g.name: g.required for g in policy.gates},
            alpha=self.pool.alpha if policy.judges_bounds else None,
            sources=self.pool.sources(),
            subject=self.pool.subject(),
            verdict=verdict,
            not_excluded=not_excluded,
        )

    def _gate(self, gate: Gate) -> list[Row]:
        chosen = next(
            (a for a in gate.alternatives if a and all(self._there(c) for c in a)),
            gate.alternatives[-1],
        )
        rows = [self._condition(gate, c) for c in chosen]
        rows += self._settings(gate, chosen)
        if not chosen:
            text = "is missing" if gate.required else "is missing, and not required"
            rows = [Row.unmeasured(gate.name, "evidence", not gate.required, text)]
        items = self.pool.behind(self.policy) if gate.checks else []
        for check in gate.checks:
            text = _readable(
                f"what {check} looks at",
                lambda check=check: CHECKS[check](items, self.pool.unreadable, self.attempts),
            )
            rows.append(Row.unmeasured(gate.name, check, not text, text or "holds"))
        return rows

    def _settings(self, gate: Gate, chosen: Sequence[Condition]) -> list[Row]:
        """One row per kind of evidence whose settings the policy fixes, where there is any."""
        read: dict[str, dict[int, Evidence]] = defaultdict(dict)
        for condition in chosen:
            if condition.evidence in self.policy.fixed:
                found = self.pool.usable(condition)
                read[condition.evidence] |= {id(item): item for item, _ in found}
        rows = []
        for kind, items in read.items():
            found = list(items.values())
            text = _readable(
                f"the settings of {', '.join(item.label for item in found)}",
                lambda kind=kind, found=found: deviations(self.policy.fixed[kind], found),
            )
            rows.append(Row.unmeasured(gate.name, f"{kind} settings", not text, text or "as fixed"))
        return rows

    def _there(self, condition: Condition) -> bool:
        """Whether a number, good or bad, can be read for the condition."""
        return any(
            metric.problem or finite(metric.at(condition.basis)) is not None
            for _, metric in self.pool.usable(condition)
        )

    def _condition(self, gate: Gate, condition: Condition) -> Row:
        found = self.pool.usable(condition)
        if not found:
            required = gate.required and condition.required
            text = self.pool.absence(condition) + ("" if required else " (not required)")
            return Row.unmeasured(gate.name, condition.name, not required, text, condition.asked)
        judged = [self._judge(gate, condition, item, metric) for item, metric in found]
        if len(judged) == 1:
            return judged[0]
        sign = 1 if condition.upward else -1
        return min(judged, key=lambda row: (row.passed, sign * (row.value or 0.0), repr(row)))

    def _judge(self, gate: Gate, condition: Condition, item: Evidence, metric: Metric) -> Row:
        finding = None if metric.problem else assess(gate, condition, metric, item)
        if finding is not None:
            self.findings[finding] = None
        passed, reason = self._verdict(gate, condition, item, metric, finding)
        return Row(
            gate.name,
            condition.name,
            metric.value,
            finite(metric.lcb),
            finite(metric.ucb),
            _seeds_behind(condition, item, metric),
            condition.asked,
            passed,
            reason,
            item.path,
        )

    def _verdict(
        self,
        gate: Gate,
        condition: Condition,
        item: Evidence,
        metric: Metric,
        finding: Finding | None,
    ) -> tuple[bool, str]:
        if item.problems:
            return False, f"cannot be trusted: {item.label} " + "; ".join(item.problems)
        if metric.problem:
            return False, f"{metric.problem} in {item.label}"
        if metric.value is None:
            why = f": {metric.method}" if metric.method else ""
            return False, f"is missing (null) in {item.label}{why}"
        if not condition.low <= metric.value <= condition.high:
            can_be = f"[{condition.low:g}, {condition.high:g}], in {item.label}"
            return False, f"= {metric.value:g} lies outside what it can be, {can_be}"
        number = metric.at(condition.basis)
        passed = condition.holds(number)
        shown = "unbounded" if math.isinf(number) else _digits(number, condition)
        if self.pool.alpha < FIRST and condition.basis != "point":
            shown += f" at one-sided level {self.pool.alpha:.2g}"
        text = f"= {shown} {'meets' if passed else 'fails'} {condition.op} {condition.threshold:g}"
        seeds = _seeds_behind(condition, item, metric)
        few = seeds < gate.min_n
        text += f", but rests on {seeds} seeds where {gate.min_n} are needed" if few else ""
        blocked = finding is not None and finding.blocking
        if finding is not None and (blocked or not (passed or few)):
            text += f"; {finding.reason}"
        return passed and not few and not blocked, text

    def _metrics(self) -> dict[str, Any]:
        """What the decision reports of each metric that the policy speaks of: the worst of it."""
        out: dict[str, Any] = {}
        for condition in self.policy.all_conditions():
            name = condition.report_as or f"{condition.evidence}.{condition.metric}"
            if name in out:
                continue
            sign = 1 if condition.upward else -1
            worst = min(
                (metric for _, metric in self.pool.usable(condition)),
                key=lambda m, sign=sign: (m.value is None, sign * (m.value or 0.0), m.lcb, -m.ucb),
                default=None,
            )
            if worst is None:
                out[name] = None
            elif condition.report_as:
                out[name] = finite(worst.at(condition.basis))
            else:
                bounds = {"lcb": finite(worst.lcb), "ucb": finite(worst.ucb)}
                out[name] = {"value": worst.value, **bounds, "n": worst.n}
        return out


def _readable(what: str, judged: Callable[[], str]) -> str:
    """What a check says, or that the evidence or the ledger's entry is not of the shape it
    reads."""
    try:
        with reading(what):
            return judged()
    except HusaiError as error:
        return f"fails: {error}"


def _seeds_behind(condition: Condition, item: Evidence, metric: Metric) -> int:
    """Seeds a number rests on: those of the record, for a bound no more than its interval had."""
    if not item.n_seeds:
        return metric.n
    return item.n_seeds if condition.basis == "point" else min(item.n_seeds, metric.n)


def _digits(number: float, condition: Condition) -> str:
    """Four digits, or all of them where four would be on the other side of the threshold."""
    short = f"{number:.4g}"
    return short if condition.holds(float(short)) == condition.holds(number) else repr(number)


def _thresholds(policy: Policy) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for condition in policy.all_conditions():
        name = condition.threshold_as or f"{condition.name} {condition.op}"
        out.setdefault(name, condition.threshold)
    return out

"""The decision: policy x evidence x candidate -> gates with reasons. Pure: reads no files, no
clock.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from husai.gate.bounds import FIRST, restate
from husai.gate.checks import CHECKS
from husai.gate.decision import Decision, Row
from husai.gate.evidence import Evidence, Reading, as_evidence, read_as_is, read_metric
from husai.gate.feasibility import Finding, assess
from husai.gate.policy import Condition, Gate, Policy


def evaluate(
    policy: Policy,
    evidence: Iterable[Evidence | Mapping],
    candidate: str | Mapping | None = None,
    *,
    alpha: float = FIRST,
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
        One-sided level of the bounds of a policy that checks its evidence; below 0.025 for a
        candidate that is not the first confirmed on its data
        (:func:`husai.statistics.levels.candidate_alpha`).

    Returns
    -------
    Decision
        With ``one_candidate`` policies every number must carry the candidate's hash; what is
        missing, NaN, malformed, stale or unverifiable fails its gate and the reason names it.
    """
    items = as_evidence(evidence)
    about = named_candidate(candidate, items, policy)
    return _Evaluation(policy, items, str(about.get("recipe_hash") or ""), alpha).decision(about)


def named_candidate(
    candidate: str | Mapping | None, items: Sequence[Evidence], policy: Policy
) -> dict[str, Any]:
    """Who is judged: as given, or the one recipe that all evidence is about where nobody says."""
    if isinstance(candidate, Mapping):
        return dict(candidate)
    if candidate is None:
        candidate = _only_hash(items, policy) if policy.one_candidate else ""
    names = sorted(
        {
            str(e.record["recipe"])
            for e in items
            if candidate and e.recipe_hash == candidate and e.record.get("recipe")
        }
    )
    return {"recipe_hash": candidate, "recipe": names[0] if names else None}


def _only_hash(items: Sequence[Evidence], policy: Policy) -> str:
    """The one recipe hash of the confirmation evidence, or of all evidence where there is none;
    empty when there are several.
    """
    confirmed = [
        e for e in items if policy.confirmation and e.record.get("phase") == "confirmation"
    ]
    hashes = {e.recipe_hash for e in confirmed or items if e.recipe_hash}
    return hashes.pop() if len(hashes) == 1 else ""


class _Evaluation:
    """Everything one evaluation looks at; built once, read by every gate."""

    def __init__(self, policy: Policy, items: list[Evidence], recipe_hash: str, alpha: float):
        self.policy, self.recipe_hash, self.alpha = policy, recipe_hash, alpha
        self.by_kind: dict[str, list[Evidence]] = defaultdict(list)
        self.foreign: dict[str, set[str]] = defaultdict(set)
        self.unreadable = sorted(
            f"{e.label} {e.problems[0]}" for e in items if not e.kind and e.problems
        )
        self.findings: dict[Finding, None] = {}
        self._usable: dict[tuple[str, str, str], list[tuple[Evidence, Reading]]] = {}
        own = {e.kind for e in items if e.recipe_hash == recipe_hash}
        for item in items:
            if item.recipe_hash == recipe_hash or (
                not policy.one_candidate and item.kind not in own
            ):
                self.by_kind[item.kind].append(item)
            else:
                self.foreign[item.kind].add(str(item.record.get("recipe") or item.recipe_hash))

    def usable(self, condition: Condition) -> list[tuple[Evidence, Reading]]:
        """Records that hold the metric; confirmation outranks the rest, the selection's own data
        never counts.
        """
        key = condition.evidence, condition.metric, condition.basis
        if key not in self._usable:
            found = [
                e for e in self.by_kind.get(condition.evidence, ()) if _has(e, condition.metric)
            ]
            if self.policy.confirmation:
                confirmed = [e for e in found if e.record.get("phase") == "confirmation"]
                found = confirmed or [e for e in found if e.record.get("phase") != "selection"]
            entries = [e.record["metrics"][condition.metric] for e in found]
            readings = [self._reading(x, condition.basis) for x in entries]
            self._usable[key] = list(zip(found, readings, strict=True))
        return self._usable[key]

    def _reading(self, entry: Any, basis: str) -> Reading:
        """A metric with its bounds at the level in force; where a point is judged, bounds that
        cannot be restated stay as they are.
        """
        if not self.policy.checked:
            return read_as_is(entry, basis)
        reading = read_metric(entry)
        restated = restate(reading, entry, self.alpha)
        return (
            reading
            if basis == "point" and math.isinf(restated.lcb) and math.isinf(restated.ucb)
            else restated
        )

    def decision(self, about: dict[str, Any]) -> Decision:
        policy = self.policy
        judged = {gate.name: self._gate(gate) for gate in policy.gates}
        gates = {name: all(row.passed for row in rows) for name, rows in judged.items()}
        counted = [g.name for g in policy.gates if g.counts]
        gates["pass_all"] = all(gates[name] for name in counted)
        return Decision(
            policy=policy.name,
            policy_sha256=policy.sha256,
            candidate=about,
            gates=gates,
            reasons={name: _reason(rows) for name, rows in judged.items()},
            thresholds=_thresholds(policy),
            metrics=self._metrics(),
            unattainable=list(dict.fromkeys(f.gate for f in self.findings if f.blocking)),
            feasibility=[f._asdict() for f in sorted(self.findings, key=repr)],
            rows=[row for rows in judged.values() for row in rows],
            whys={g.name: g.why for g in policy.gates},
            counted=counted,
            modes={g.name: g.mode for g in policy.gates if len(g.modes) > 1},
            required={g.name: g.required for g in policy.gates},
            alpha=self.alpha if policy.checked else None,
            sources=sorted(
                {item.path for found in self._usable.values() for item, _ in found if item.path}
            ),
        )

    def _gate(self, gate: Gate) -> list[Row]:
        chosen = next(
            (a for a in gate.alternatives if a and all(self._there(c) for c in a)),
            gate.alternatives[-1],
        )
        rows = [self._condition(gate, c) for c in chosen]
        if not chosen:
            text = "is missing" if gate.required else "is missing, and not required"
            rows = [Row(gate.name, "evidence", None, None, None, 0, "", not gate.required, text)]
        items = self._behind() if gate.checks else []
        for check in gate.checks:
            text = CHECKS[check](items, self.unreadable)
            rows.append(Row(gate.name, check, None, None, None, 0, "", not text, text or "holds"))
        return rows

    def _there(self, condition: Condition) -> bool:
        """Whether a number, good or bad, can be read for the condition."""
        return any(
            reading.problem or finite_or_none(reading.at(condition.basis)) is not None
            for _, reading in self.usable(condition)
        )

    def _condition(self, gate: Gate, condition: Condition) -> Row:
        found = self.usable(condition)
        if not found or not (self.policy.checked or self._there(condition)):
            required = gate.required and condition.required
            text = self._absence(condition) + ("" if required else " (not required)")
            return Row(
                gate.name,
                condition.name,
                None,
                None,
                None,
                0,
                _asked(condition),
                not required,
                text,
            )
        judged = [self._judge(gate, condition, item, reading) for item, reading in found]
        if len(judged) == 1:
            return judged[0]
        sign = 1 if condition.op in (">=", ">") else -1
        return min(judged, key=lambda row: (row.passed, sign * (row.value or 0.0), repr(row)))

    def _judge(self, gate: Gate, condition: Condition, item: Evidence, reading: Reading) -> Row:
        findings = [] if reading.problem else assess(gate, condition, reading, item.record)
        if not self.policy.checked:
            findings = [f for f in findings if f.kind == "unattainable"]
        self.findings.update(dict.fromkeys(findings))
        passed, reason = self._verdict(gate, condition, item, reading, findings)
        shown = (
            reading.value,
            finite_or_none(reading.lcb),
            finite_or_none(reading.ucb),
            _seeds_behind(condition, item, reading),
        )
        return Row(gate.name, condition.name, *shown, _asked(condition), passed, reason, item.path)

    def _verdict(
        self,
        gate: Gate,
        condition: Condition,
        item: Evidence,
        reading: Reading,
        findings: list[Finding],
    ) -> tuple[bool, str]:
        checked = self.policy.checked
        if item.problems and checked:
            return False, f"cannot be trusted: {item.label} " + "; ".join(item.problems)
        if reading.problem:
            return False, f"{reading.problem} in {item.label}"
        number = reading.at(condition.basis)
        if number is None or (reading.value is None and checked):
            why = item.record["metrics"][condition.metric].get("method")
            return False, f"is missing (null) in {item.label}" + (
                f": {why}" if isinstance(why, str) and why else ""
            )
        if reading.value is not None and not condition.low <= reading.value <= condition.high:
            return (
                False,
                f"= {reading.value:g} lies outside what it can be, [{condition.low:g}, "
                f"{condition.high:g}], in {item.label}",
            )
        passed = condition.holds(number)
        shown = "unbounded" if math.isinf(number) else _digits(number, condition)
        if self.alpha < FIRST and condition.basis != "point":
            shown += f" at one-sided level {self.alpha:.2g}"
        text = f"= {shown} {'meets' if passed else 'fails'} {condition.op} {condition.threshold:g}"
        seeds = _seeds_behind(condition, item, reading)
        text += (
            f", but rests on {seeds} seeds where {gate.min_n} are needed"
            if seeds < gate.min_n
            else ""
        )
        blocking = [f.reason for f in findings if f.blocking and checked]
        if blocking or seeds < gate.min_n:
            return False, "; ".join([text, *blocking])
        return passed, text if passed else "; ".join([text, *(f.reason for f in findings)])

    def _absence(self, condition: Condition) -> str:
        kind, metric = condition.evidence, condition.metric
        if self.policy.one_candidate and not self.recipe_hash:
            return (
                "is missing: the candidate is not named, and the evidence is not all of one recipe"
            )
        here = self.by_kind.get(kind, [])
        held = sorted(e.label for e in here if _has(e, metric))
        if held and not self.usable(condition):
            return (
                f"is missing: {held[0]} is the selection's own data; confirm on fresh seeds "
                "and held-out data"
            )
        if here:
            problems = "".join(f"; {e.label} {p}" for e in here for p in e.problems)
            return (
                f"is missing: no {metric if condition.basis == 'point' else condition.basis} in "
                f"{min(e.label for e in here)}" + problems
            )
        if self.foreign.get(kind):
            others = ", ".join(sorted(self.foreign[kind])[:3])
            return f"is missing: there is {kind} evidence for {others}, not for the candidate"
        return f"is missing: there is no {kind} evidence" + "".join(
            f"; {text}" for text in self.unreadable
        )

    def _behind(self) -> list[Evidence]:
        """Records the decision rests on, and any of the same kinds that have problems."""
        conditions = [c for g in self.policy.gates for c in g.conditions()]
        found = {id(e): e for c in conditions for e, _ in self.usable(c)}
        for kind in {c.evidence for c in conditions}:
            found.update(
                {
                    id(e): e
                    for e in self.by_kind.get(kind, ())
                    if e.problems and e.record.get("phase") != "selection"
                }
            )
        return list(found.values())

    def _metrics(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for gate in self.policy.gates:
            for condition in (
                c for alternatives in gate.modes.values() for a in alternatives for c in a
            ):
                name = condition.report_as or f"{condition.evidence}.{condition.metric}"
                if name in out:
                    continue
                readings = [reading for _, reading in self.usable(condition)]
                sign = 1 if condition.op in (">=", ">") else -1
                worst = min(
                    readings,
                    key=lambda r, sign=sign: (
                        r.value is None,
                        sign * (r.value or 0.0),
                        r.lcb,
                        -r.ucb,
                    ),
                    default=None,
                )
                if condition.report_as:
                    out[name] = finite_or_none(worst.at(condition.basis)) if worst else None
                elif worst:
                    bounds = {"lcb": finite_or_none(worst.lcb), "ucb": finite_or_none(worst.ucb)}
                    out[name] = {"value": worst.value, **bounds, "n": worst.n}
                else:
                    out[name] = None
        return out


def _seeds_behind(condition: Condition, item: Evidence, reading: Reading) -> int:
    """Seeds a number rests on: those the record names, and for a bound no more than its interval
    was made from.
    """
    if not item.seeds:
        return reading.n
    return item.seeds if condition.basis == "point" else min(item.seeds, reading.n)


def _digits(number: float, condition: Condition) -> str:
    """Four digits, or all of them where four would be on the other side of the threshold."""
    short = f"{number:.4g}"
    return short if condition.holds(float(short)) == condition.holds(number) else repr(number)


def finite_or_none(number: float | None) -> float | None:
    """The number itself, or None when it is infinite, NaN or missing."""
    return number if number is not None and math.isfinite(number) else None


def _has(item: Evidence, metric: str) -> bool:
    metrics = item.record.get("metrics")
    return isinstance(metrics, Mapping) and metric in metrics


def _reason(rows: Sequence[Row]) -> str:
    """Failures when there are any, else everything that held; conditions with one reason are named
    together.
    """
    failed = [row for row in rows if not row.passed]
    grouped: dict[str, list[str]] = {}
    for row in failed or rows:
        grouped.setdefault(row.reason, []).append(row.condition)
    return "; ".join(f"{', '.join(names)} {text}" for text, names in grouped.items())


def _thresholds(policy: Policy) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for gate in policy.gates:
        for condition in (
            c for alternatives in gate.modes.values() for a in alternatives for c in a
        ):
            out.setdefault(
                condition.threshold_as or f"{condition.name} {condition.op}", condition.threshold
            )
        if not policy.one_candidate and gate.counts:
            out[f"require_{gate.name}"] = gate.required
    return out


def _asked(condition: Condition) -> str:
    return f"{condition.basis} {condition.op} {condition.threshold:g}"

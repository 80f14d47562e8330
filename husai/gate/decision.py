"""What a policy said about a candidate, and how it is written down: JSON, Markdown, lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from husai.errors import HusaiError, reading
from husai.evidence import is_number
from husai.gate.policy import COMPARE, is_shipped, policy_label
from husai.gate.verdict import AS_BROUGHT, NOT_RELEASED, RELEASED
from husai.shown import in_code, in_markdown, markdown_table

ASKED = re.compile(r"(point|lcb|ucb) (>=|<=|>|<) (\S+)")
VERDICTS = (RELEASED, NOT_RELEASED, AS_BROUGHT)
UNIT_AT_ZERO = 0.05
"""What a margin is measured in where the threshold is 0 and gives no unit: the difference in AUC,
or in agreement, that the selection counts as one step."""


class Row(NamedTuple):
    """One condition judged: what was read, what was asked, the verdict and why."""

    gate: str
    condition: str
    value: float | None
    lcb: float | None
    ucb: float | None
    n: int
    asked: str
    passed: bool
    reason: str
    source: str = ""

    @classmethod
    def unmeasured(
        cls, gate: str, condition: str, passed: bool, reason: str, asked: str = ""
    ) -> Row:
        """A condition that no number was read for."""
        return cls(gate, condition, None, None, None, 0, asked, passed, reason)

    @property
    def interval(self) -> str:
        """``[lcb, ucb]`` with ``-inf``/``inf`` for a missing bound; empty when nothing was read."""
        if self.value is None:
            return ""
        low = "-inf" if self.lcb is None else f"{self.lcb:.4g}"
        high = "inf" if self.ucb is None else f"{self.ucb:.4g}"
        return f"[{low}, {high}]"

    @property
    def required(self) -> tuple[str, str, float] | None:
        """Basis, operator and threshold; None for a check that compares no number."""
        found = ASKED.fullmatch(self.asked)
        return (found[1], found[2], float(found[3])) if found else None

    @property
    def bound(self) -> float | None:
        """The number that was compared with the threshold."""
        if self.required is None:
            return None
        return {"point": self.value, "lcb": self.lcb, "ucb": self.ucb}[self.required[0]]

    @property
    def met(self) -> bool | None:
        """Whether the bound, of however few seeds, passes; None where nothing was measured."""
        if self.bound is None:
            return None
        return COMPARE[self.required[1]](self.bound, self.required[2])

    @property
    def margin(self) -> float | None:
        """How far the bound lies on the passing side of the threshold, in units of the threshold's
        own size (of :data:`UNIT_AT_ZERO` where it is 0); negative where it fails, None where
        nothing was measured.
        """
        if self.bound is None:
            return None
        _, asked, threshold = self.required
        distance = (self.bound - threshold) / (abs(threshold) or UNIT_AT_ZERO)
        return distance if asked.startswith(">") else -distance


@dataclass(frozen=True)
class Decision:
    """Outcome of a policy on one candidate.

    Attributes
    ----------
    gates : dict
        A bool per gate, and ``pass_all`` over the gates that count.
    reasons : dict
        Per gate, in policy order: what decided it.
    unattainable : list of str
        Gates with a condition no candidate could meet, or that the seeds at hand cannot resolve;
        ``feasibility`` has the details.
    rows : list of Row
        Every condition judged.
    modes, required : dict
        Mode of each gate that has several, and whether each gate lets a missing value pass: what it
        takes to decide again.
    subject : str
        Whose features it is about.
    verdict, not_excluded
        See :func:`husai.gate.verdict.verdict_on`.
    alpha : float or None
        One-sided level of the bounds; None for a policy that takes evidence as it is.
    sources : list of str
        Files of the evidence that was read.
    """

    policy: str
    policy_sha256: str
    candidate: dict[str, Any]
    gates: dict[str, bool]
    reasons: dict[str, str]
    thresholds: dict[str, Any]
    metrics: dict[str, Any]
    unattainable: list[str] = field(default_factory=list)
    feasibility: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    whys: dict[str, str] = field(default_factory=dict)
    counted: list[str] = field(default_factory=list)
    modes: dict[str, str] = field(default_factory=dict)
    required: dict[str, bool] = field(default_factory=dict)
    alpha: float | None = None
    sources: list[str] = field(default_factory=list)
    subject: str = ""
    verdict: str = NOT_RELEASED
    not_excluded: list[str] = field(default_factory=list)

    @property
    def pass_all(self) -> bool:
        return self.gates["pass_all"]

    @property
    def failing(self) -> list[str]:
        """Names of the failed gates that count, in policy order."""
        return [name for name in self.counted if not self.gates[name]]

    def to_dict(self) -> dict[str, Any]:
        """The body of ``release_policy.json``, without provenance."""
        return {
            "policy": self.policy,
            "policy_sha256": self.policy_sha256,
            "policy_changed": not is_shipped(self.policy, self.policy_sha256),
            "subject": self.subject,
            "candidate": self.candidate,
            "verdict": self.verdict,
            "not_excluded": self.not_excluded,
            "metrics": self.metrics,
            "thresholds": self.thresholds,
            "gates": self.gates,
            "reasons": self.reasons,
            "unattainable": self.unattainable,
            "feasibility": self.feasibility,
            "failing": self.failing,
            "modes": self.modes,
            "required": self.required,
            "alpha": self.alpha,
            "sources": self.sources,
            "rows": [row._asdict() for row in self.rows],
        }

    def lines(self) -> list[str]:
        """One plain line per gate: verdict, name, its most telling condition, reason."""
        out = []
        for name, reason in self.reasons.items():
            row = telling([row for row in self.rows if row.gate == name])
            value = "missing" if row.value is None else f"{row.value:.4g} {row.interval}"
            asked = f"{row.condition} {value}, asked {row.asked}: " if row.asked else ""
            note = " (unattainable)" if name in self.unattainable else ""
            out.append(f"{'pass' if self.gates[name] else 'FAIL'} {name}{note}: {asked}{reason}")
        return out

    def to_markdown(self) -> str:
        """The text of ``release_policy.md``: status, gates, conditions, what was unattainable."""
        status = "PASS" if self.pass_all else "FAIL: " + in_markdown(", ".join(self.failing))
        names = (self.candidate.get(key) for key in ("condition", "recipe", "recipe_hash"))
        name = next((n for n in names if n and isinstance(n, str)), "not named")
        out = [
            f"# Policy {policy_label(self.policy, self.policy_sha256)}: {status}",
            "",
            f"- verdict: {self.verdict}",
            *([f"- subject: {in_code(self.subject)}"] if self.subject else []),
            f"- candidate: {in_code(name)}",
            f"- pass_all: `{self.pass_all}`",
        ]
        out += [f"- {in_markdown(gate)} mode: {in_code(mode)}" for gate, mode in self.modes.items()]
        out += ["", "What cannot be excluded:", ""] if self.not_excluded else []
        out += [f"- {in_markdown(text)}" for text in self.not_excluded]
        rows = []
        for gate, reason in self.reasons.items():
            verdict = ("pass" if self.gates[gate] else "**fail**") + (
                "" if gate in self.counted else " (not counted)"
            )
            why = self.whys.get(gate, "")
            rows.append([in_markdown(gate), verdict, in_markdown(why), in_markdown(reason)])
        header = ["gate", "verdict", "why it is there", "reason"]
        out += ["", "## Gates", "", *markdown_table(header, rows)]
        rows = []
        for row in self.rows:
            value = "" if not row.asked else "missing" if row.value is None else f"{row.value:.6g}"
            cells = (row.gate, row.condition, value, row.interval, str(row.n or ""), row.asked)
            rows.append([*map(in_markdown, cells), "pass" if row.passed else "**fail**"])
        header = ["gate", "condition", "value", "interval", "n", "asked", "verdict"]
        out += ["", "## Conditions", "", *markdown_table(header, rows)]
        blocking = [f for f in self.feasibility if f["blocking"]]
        if blocking:
            out += ["", "## Unattainable or unresolvable", ""]
            told = (f"{f['gate']}: {f['condition']} {f['reason']}" for f in blocking)
            out += [f"- {in_markdown(text)}" for text in told]
        return "\n".join(out) + "\n"


SHAPE = {
    "gates": (dict, bool),
    "reasons": (dict, str),
    "required": (dict, bool),
    "modes": (dict, str),
    "metrics": (dict, object),
    "thresholds": (dict, object),
    "failing": (list, str),
    "unattainable": (list, str),
    "sources": (list, str),
    "not_excluded": (list, str),
    "feasibility": (list, dict),
    "rows": (list, dict),
}
"""Of a ``release_policy.json``: the parts that everything that reads one takes for granted."""


def check_decision(body: object, where: object) -> dict[str, Any]:
    """``body`` if it has the shape of a ``release_policy.json``, as far as it goes.

    Raises
    ------
    HusaiError
        One line: ``where`` and the part that is something else; a row's ValueError becomes one too.
    """
    if not isinstance(body, dict):
        raise HusaiError(f"{where}: holds a JSON {type(body).__name__}, expected a decision")
    for key, (whole, part) in SHAPE.items():
        value = body.get(key)
        if value is None:
            continue
        parts = value.values() if isinstance(value, dict) else value
        if not isinstance(value, whole) or not all(isinstance(p, part) for p in parts):
            raise HusaiError(f"{where}: malformed, {key} is not what a decision holds there")
    for row in body.get("rows") or ():
        with reading(where):
            found = Row(**row)
            for number in (found.value, found.lcb, found.ucb):
                float(number or 0.0)
            if not found.condition + found.reason + found.asked + found.gate + found.source:
                raise ValueError("a row that says nothing")
            _ = found.margin
    confirmation = body.get("confirmation") or {}
    if not isinstance(confirmation, dict) or not isinstance(confirmation.get("ledger", {}), dict):
        raise HusaiError(f"{where}: malformed, confirmation does not hold the ledger's head")
    if not (body.get("alpha") is None or is_number(body["alpha"])):
        raise HusaiError(f"{where}: malformed, alpha is not a number")
    passed = body.get("policy") == "strict" and (body.get("gates") or {}).get("pass_all") is True
    if body.get("verdict", None if passed else NOT_RELEASED) not in VERDICTS:
        raise HusaiError(f"{where}: malformed, verdict is none of {', '.join(VERDICTS)}")
    return body


def telling(rows: Sequence[Row]) -> Row:
    """The most telling condition: failed before passed, then with an interval, then measured."""
    return min(rows, key=lambda r: (r.passed, r.lcb is None and r.ucb is None, r.value is None))


def reason_of(rows: Sequence[Row]) -> str:
    """Failures when there are any, else everything that held; equal reasons are told once."""
    failed = [row for row in rows if not row.passed]
    grouped: dict[str, list[str]] = {}
    for row in failed or rows:
        grouped.setdefault(row.reason, []).append(row.condition)
    return "; ".join(f"{', '.join(names)} {text}" for text, names in grouped.items())

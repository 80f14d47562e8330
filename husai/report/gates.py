"""A gate decision as report lines: value, interval, threshold, verdict and reason of every check,
from any ``release_policy.json``.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from husai.report.document import Inline, Ref, Table, gate_names
from husai.report.plots import interval_strip
from husai.report.tables import is_metric

CYCLE3 = {
    "random_model": [
        ("trained_random_delta", "min_trained_random_delta"),
        ("trained_random_delta_lcb", "min_trained_random_lcb"),
    ],
    "transcoder": [("transcoder_delta", "min_transcoder_delta")],
    "ood": [("ood_drop", "max_ood_drop")],
    "external": [("external_delta", "min_external_delta")],
    "external_saebench": [("saebench_delta", "min_saebench_delta")],
    "external_cebench": [("cebench_interp_delta_vs_baseline", "min_cebench_delta")],
}


class Line(NamedTuple):
    """One check of a gate, every field a cursor into the decision (empty where the decision does
    not say).
    """

    gate: Ref
    metric: Ref | None
    value: Ref | None
    lcb: Ref | None
    ucb: Ref | None
    asked: Ref | None
    passed: bool
    reason: Ref | None
    operator: str = ""
    gate_reason: Ref | None = None

    @property
    def comparison(self) -> tuple[str, float | None]:
        """Operator and threshold, from text such as ``lcb >= 0.3`` or from a number and the
        operator.
        """
        asked = _value(self.asked)
        if not isinstance(asked, str):
            return self.operator, asked
        found = re.search(r"(>=|<=|>|<)\s*([-+.\deE]+)\s*$", asked)
        return (found.group(1), float(found.group(2))) if found else ("", None)


def decision_lines(decision: Ref) -> list[Line]:
    """Lines of a decision in the order of its gates."""
    gates = decision["gates"]
    out: list[Line] = []
    for name in gate_names(gates.value or {}):
        rows = [row for row in decision["rows"] if row["gate"].value == name]
        out += [
            _from_row(gates[name], row, decision["reasons"][name]) for row in rows
        ] or _from_metrics(gates[name], name, decision)
    return out


def _from_row(gate: Ref, row: Ref, reason: Ref) -> Line:
    passed = row["passed"].value if row["passed"].exists else gate.value
    measured = (
        row["value"].value is not None
        or row["lcb"].value is not None
        or row["ucb"].value is not None
    )
    return Line(
        gate,
        row["condition"],
        row["value"] if measured else None,
        row["lcb"],
        row["ucb"],
        row["asked"],
        passed is True,
        row["reason"] if row["reason"].value else reason,
        gate_reason=reason if reason.value else None,
    )


def _from_metrics(gate: Ref, name: str, decision: Ref) -> list[Line]:
    metrics, thresholds, reason = (
        decision["metrics"],
        decision["thresholds"],
        decision["reasons"][name],
    )
    pairs = [
        (m, t)
        for m, t in CYCLE3.get(name, [(name, name)])
        if metrics[m].exists or thresholds[t].exists
    ]
    out = []
    for metric_name, threshold_name in pairs:
        found, threshold = metrics[metric_name], thresholds[threshold_name]
        bounds = (
            (found["value"], found["lcb"], found["ucb"])
            if is_metric(found.value)
            else (found, None, None)
        )
        operator = "<=" if threshold_name.startswith("max_") else ">="
        out.append(
            Line(
                gate,
                found if found.exists else None,
                *bounds,
                threshold if threshold.exists else None,
                gate.value is True,
                reason,
                operator,
            )
        )
    return out or [Line(gate, None, None, None, None, None, gate.value is True, reason)]


def gates_table(lines: list[Line]) -> Table:
    """One row per gate: its most telling condition (see :func:`_telling`) with the gate's own
    verdict and reason.
    """
    by_gate: dict[str, list[Line]] = {}
    for line in lines:
        by_gate.setdefault(line.gate.pointer, []).append(line)
    decisive = []
    for found in by_gate.values():
        line = _telling(found)
        decisive.append(
            line._replace(
                passed=line.gate.value is True,
                reason=line.gate_reason if line.gate_reason is not None else line.reason,
            )
        )
    return conditions_table(decisive)


def _telling(lines: list[Line]) -> Line:
    """Failed before passed, measured with an interval before measured before missing, then the
    policy's order.
    """

    def rank(line: Line) -> tuple[bool, bool, bool]:
        bounded = _value(line.lcb) is not None or _value(line.ucb) is not None
        return line.passed, not bounded, _value(line.value) is None

    return min(lines, key=rank)


def conditions_table(lines: list[Line]) -> Table:
    """One row per condition: gate, metric, value, interval, threshold, verdict, reason; the strip
    shows the numbers on one scale.
    """
    header: list[Inline] = [
        ["gate"],
        ["metric"],
        ["value"],
        ["interval"],
        ["threshold"],
        ["verdict"],
        ["reason"],
    ]
    roles = tuple("pass" if line.passed else "fail" for line in lines)
    return Table(
        header, [_row(line) for line in lines], tuple(_strip(line) for line in lines), roles
    )


def _value(ref: Ref | None) -> Any:
    return None if ref is None else ref.value


def _row(line: Line) -> list[Inline]:
    interval: Inline = ["none"]
    if _value(line.lcb) is not None or _value(line.ucb) is not None:
        lcb, ucb = line.lcb, line.ucb
        interval = [
            "[",
            lcb.quote("lower") if lcb else "-inf",
            ", ",
            ucb.quote("upper") if ucb else "inf",
            "]",
        ]
    return [
        [line.gate.name()],
        _metric_name(line.metric),
        [line.value.quote()] if line.value is not None and line.value.exists else ["–"],
        interval,
        _asked(line),
        ["pass" if line.passed else "**FAIL**"],
        [line.reason.quote()] if line.reason is not None and line.reason.value else ["–"],
    ]


def _asked(line: Line) -> Inline:
    if line.asked is None or line.asked.value in (None, ""):
        return ["–"]
    if isinstance(line.asked.value, str):
        return [line.asked.quote()]
    return [f"{line.operator.replace('>', '&gt;').replace('<', '&lt;')} ", line.asked.quote()]


def _strip(line: Line) -> str:
    operator, threshold = line.comparison
    return interval_strip(
        _value(line.value), _value(line.lcb), _value(line.ucb), threshold, operator, line.passed
    )


def _metric_name(ref: Ref | None) -> Inline:
    if ref is None or not ref.exists:
        return ["–"]
    return [ref.quote() if isinstance(ref.value, str) else ref.name()]

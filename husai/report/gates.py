"""A gate decision as tables: value, interval, threshold, verdict and reason of every condition,
from a ``release_policy.json``."""

from __future__ import annotations

from collections.abc import Sequence

from husai.gate.decision import Row, telling
from husai.report.document import Inline, Table
from husai.report.plots import is_finite
from husai.report.quotes import Quote, gate_names

COLUMNS = ("gate", "metric", "value", "interval", "threshold", "verdict", "reason")


def decision_tables(decision: Quote) -> list[Table]:
    """A row per gate: its most telling condition, with the gate's own verdict and reason. Then,
    where a gate has several conditions, a row per condition.
    """
    names = gate_names(decision["gates"].value or {})
    rows = {name: [r for r in decision["rows"] if r["gate"].value == name] for name in names}
    gates, conditions = [], []
    for name in names:
        gate, reason = decision["gates"][name], decision["reasons"][name]
        gates.append((gate, _most_telling(rows[name], gate), reason, gate.value is True))
        for row in rows[name]:
            own = row["reason"] if row["reason"].value else reason
            conditions.append((gate, row, own, row["passed"].value is True))
    return [_table(gates), *([_table(conditions)] if len(conditions) > len(gates) else [])]


def _most_telling(rows: Sequence[Quote], gate: Quote) -> Quote:
    """The row that decides a gate; an empty quote where the decision has none for it."""
    if not rows:
        return gate["rows"]
    judged = [Row(**row.value) for row in rows]
    return rows[judged.index(telling(judged))]


def _table(lines: Sequence[tuple[Quote, Quote, Quote, bool]]) -> Table:
    """Lines of (gate, row, reason, verdict); the strip shows the numbers of a row on one scale."""
    return Table(
        [[name] for name in COLUMNS],
        [_cells(*line) for line in lines],
        tuple(_strip(row, passed) for _, row, _, passed in lines),
        tuple("pass" if passed else "fail" for *_, passed in lines),
    )


def _cells(gate: Quote, row: Quote, reason: Quote, passed: bool) -> list[Inline]:
    value, lcb, ucb = row["value"], row["lcb"], row["ucb"]
    bounded = lcb.value is not None or ucb.value is not None
    return [
        [gate.name()],
        [row["condition"]] if row.exists else ["–"],
        [value] if bounded or value.value is not None else ["–"],
        ["[", lcb.by("lower"), ", ", ucb.by("upper"), "]"] if bounded else ["none"],
        [row["asked"]] if row["asked"].value else ["–"],
        ["pass" if passed else "**FAIL**"],
        [reason] if reason.value else ["–"],
    ]


def _strip(row: Quote, passed: bool) -> str:
    required = Row(**row.value).required if row.value else None
    if required is None:
        return ""
    _, operator, threshold = required
    numbers = (row[name].value for name in ("value", "lcb", "ucb"))
    return interval_strip(*numbers, threshold, operator, passed)


def interval_strip(
    value: float | None,
    lcb: float | None,
    ucb: float | None,
    threshold: float | None,
    operator: str,
    passed: bool,
) -> str:
    """Small inline SVG of one gate: the passing side shaded, the threshold as a tick, the interval
    as a bar, the value as a dot.
    """
    known = [float(v) for v in (value, lcb, ucb) if is_finite(v)]
    if not is_finite(threshold) or not known:
        return ""
    low, high = min(*known, threshold), max(*known, threshold)
    margin = 0.15 * (high - low) or max(abs(low), 1e-3) * 0.5
    low, high = low - margin, high + margin

    def at(v: float) -> float:
        return round(4 + 112 * (v - low) / (high - low), 1)

    edge = at(threshold)
    start, width = (edge, 120 - edge) if operator.startswith(">") else (0, edge)
    colour = "var(--pass)" if passed else "var(--fail)"
    out = [
        "<svg class='strip' viewBox='0 0 120 18' width='120' height='18' aria-hidden='true'>",
        f"<rect x='{start}' y='2' width='{round(width, 1)}' height='14' fill='var(--pass)' "
        "opacity='.13'/>",
        f"<line x1='{edge}' x2='{edge}' y1='1' y2='17' stroke='var(--ink)' stroke-width='1'/>",
    ]
    if is_finite(lcb) or is_finite(ucb):
        left = at(lcb) if is_finite(lcb) else 0
        right = at(ucb) if is_finite(ucb) else 120
        out.append(
            f"<line x1='{left}' x2='{right}' y1='9' y2='9' stroke='{colour}' stroke-width='2.5'/>"
        )
    if is_finite(value):
        out.append(f"<circle cx='{at(value)}' cy='9' r='3.4' fill='{colour}'/>")
    return "".join([*out, "</svg>"])

"""A gate decision as tables: value, interval, threshold, verdict and reason of every condition, from
a ``release_policy.json``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from husai.gate.decision import Row, telling
from husai.report.document import Inline, Quote, Table, gate_names
from husai.report.plots import interval_strip

HEADER: list[Inline] = [
    ["gate"],
    ["metric"],
    ["value"],
    ["interval"],
    ["threshold"],
    ["verdict"],
    ["reason"],
]


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
        HEADER,
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
    found = re.search(r"(>=|<=|>|<)\s*([-+.\deE]+)\s*$", str(row["asked"].value or ""))
    if not found:
        return ""
    numbers = (row[name].value for name in ("value", "lcb", "ucb"))
    return interval_strip(*numbers, float(found.group(2)), found.group(1), passed)

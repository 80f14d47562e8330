"""What a stage's summary says, before it is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from husai.evidence import Metric


class StageTable(NamedTuple):
    """A stage's summary; :func:`husai.report.summary.write_summary` writes it."""

    rows: Sequence[dict]
    """Flat dictionaries whose values are numbers, text or metrics."""
    columns: Sequence[str]
    """Those that the tables show."""
    headline: str
    notes: Sequence[str] = ()
    figures: Sequence[dict] = ()
    extra: dict[str, Any] | None = None
    """Further fields of the JSON."""


def mark_pareto(
    rows: list[dict], keys: Sequence[str] = ("delta_vs_frozen", "cebench_delta_vs_frozen")
) -> None:
    """Set ``pareto`` on every row no other row beats on all keys; what was not measured is beaten by
    anything.
    """
    points = [[value_of(row[key]) for key in keys] for row in rows]
    for row, mine in zip(rows, points, strict=True):
        row["pareto"] = not any(
            all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine
            for other in points
        )


def value_of(found: Metric | None) -> float:
    """The value of a measured delta; minus infinity where there is none."""
    return -math.inf if found is None else found.value

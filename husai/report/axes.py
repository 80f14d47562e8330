"""One table per axis of a grid: what the conditions that share a value of it have in common."""

from __future__ import annotations

from collections.abc import Sequence

from husai.evidence import Metric

METHOD = "mean, smallest and largest over conditions"


def axis_tables(rows: Sequence[dict], axes: Sequence[str], names: Sequence[str]) -> list[dict]:
    """A table for every axis along which ``rows`` differ.

    Parameters
    ----------
    rows : sequence of dict
        Conditions of a grid, with metrics among their values.
    axes : sequence of str
        Keys that span the grid.
    names : sequence of str
        Metrics to summarise.

    Returns
    -------
    list of dict
        ``{axis, columns, rows}``; a row holds the axis' value, the number of conditions that share
        it, and for every metric the mean over them with the smallest and the largest in place of
        bounds. These are no intervals: conditions share seeds and data sets.
    """
    tables = []
    for axis in axes:
        values = sorted({row[axis] for row in rows}, key=lambda v: (v is None, v))
        if len(values) < 2:
            continue
        found = []
        for value in values:
            group = [row for row in rows if row[axis] == value]
            spreads = {name: _spread(group, name) for name in names}
            found.append({axis: value, "conditions": len(group), **spreads})
        tables.append({"axis": axis, "columns": [axis, "conditions", *names], "rows": found})
    return tables


def _spread(rows: Sequence[dict], name: str) -> Metric | None:
    points = [row[name].value for row in rows if row[name] is not None]
    if not points:
        return None
    return Metric(sum(points) / len(points), min(points), max(points), len(points), METHOD)

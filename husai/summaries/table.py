"""What a stage's summary says, before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


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

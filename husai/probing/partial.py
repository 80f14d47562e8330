"""Partial results of a long evaluation, beside its output, trusted for the very same inputs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import HusaiError


class Partial:
    """Finished units (data sets) of an evaluation, in ``{out}.partial.json``; each entry carries
    the hash of what it was made from.

    Parameters
    ----------
    out : path
        Where the finished record will be.
    keys : dict
        ``{unit: content hash}`` of everything a unit's result depends on; entries under another
        hash are not read.
    """

    def __init__(self, out: str | Path, keys: dict[str, str]):
        self.path, self.keys = Path(out).with_suffix(".partial.json"), keys
        self.found: dict[str, Any] = {}
        with contextlib.suppress(HusaiError, KeyError, TypeError, AttributeError):
            stored = provenance.read_json(self.path)
            self.found = {u: e["value"] for u, e in stored.items() if keys.get(u) == e["key"]}

    @property
    def missing(self) -> list[str]:
        """Units still to do, in the order of the keys."""
        return [u for u in self.keys if u not in self.found]

    def add(self, values: dict[str, Any]) -> None:
        """Keep the results of further units."""
        self.found.update(values)
        provenance.write_json(
            self.path, {u: {"key": self.keys[u], "value": v} for u, v in self.found.items()}
        )

    def values(self) -> list[Any]:
        """Results of all units in the order of the keys."""
        return [self.found[u] for u in self.keys]

    def finish(self) -> None:
        """Remove the side file once the record itself is written."""
        self.path.unlink(missing_ok=True)

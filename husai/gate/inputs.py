"""What evidence rests on: every file that a record names, and those that the evidence among them
names in turn, hashed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from husai.errors import HusaiError
from husai.provenance import read_json, sha256_file

FROM_SEEDS_ALONE = ("planted",)
"""Kinds whose records rest on no file: the planted-features check draws its data and its SAEs from
the seeds it names.
"""
WEIGHTS = "sae_weights.safetensors"


class Rests(NamedTuple):
    """What a look at a record's inputs found."""

    problems: list[str]
    """Empty when every file is there and unchanged."""
    behind: list[Mapping[str, Any]]
    """The evidence records among the inputs, and among theirs."""


def unnamed_inputs(record: Mapping[str, Any]) -> list[str]:
    """The problem of a record from a file that names nothing it rests on: no hash could ever show
    that it is out of date.
    """
    if _named(record) or record.get("kind") in FROM_SEEDS_ALONE:
        return []
    return ["names no inputs, so what it was measured on cannot be verified"]


def evidence_in(data: Any) -> list[Mapping]:
    """Evidence records of a JSON file: one, a list of them, or ``{"evidence": [...]}``."""
    if isinstance(data, Mapping) and isinstance(data.get("evidence"), list):
        data = data["evidence"]
    items = data if isinstance(data, list) else [data]
    return [
        r
        for r in items
        if isinstance(r, Mapping) and str(r.get("schema", "")).startswith("husai.evidence")
    ]


class Inputs:
    """Looks at the inputs of records, each file once; paths are relative to ``root``."""

    def __init__(self, root: Path):
        self.root = root
        self._hashes: dict[Path, str] = {}
        self._rests: dict[Path, Rests] = {}

    def of(self, record: Mapping[str, Any]) -> Rests:
        """Problems of a record's inputs and of the evidence among them, named with the way to
        them.
        """
        problems, behind = unnamed_inputs(record), []
        for item in _named(record):
            name, path = str(item["path"]), self.root / str(item["path"])
            if not self._sha256(path):
                problems.append(f"rests on {name}, which is not there")
            elif self._hashes[path] != item.get("sha256"):
                problems.append(f"rests on {name}, whose sha256 has changed since")
            elif path.suffix == ".json":
                further = self._further(path)
                problems += [f"rests on {name}, which {problem}" for problem in further.problems]
                behind += further.behind
        return Rests(problems, behind)

    def _sha256(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256_file(path) if path.is_file() else ""
        return self._hashes[path]

    def _further(self, path: Path) -> Rests:
        """The same for the evidence in an input file; nothing for any other JSON."""
        if path not in self._rests:
            self._rests[path] = Rests([], [])  # a file that leads back to itself ends here
            try:
                records = evidence_in(read_json(path))
            except HusaiError:
                records = []
            found = [self.of(record) for record in records]
            self._rests[path] = Rests(
                [p for f in found for p in f.problems],
                [*records, *(r for f in found for r in f.behind)],
            )
        return self._rests[path]


def weights_behind(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """SHA-256 of every SAE's weights that the records name as inputs."""
    found = set()
    for record in records:
        found |= {
            str(i.get("sha256"))
            for i in _named(record)
            if str(i["path"]).rsplit("/", 1)[-1] == WEIGHTS
        }
    return found


def _named(record: Mapping[str, Any]) -> list[Mapping]:
    inputs = record.get("inputs")
    return (
        [i for i in inputs if isinstance(i, Mapping) and i.get("path")]
        if isinstance(inputs, list)
        else []
    )

"""Reads evidence records, checks their shape and the hashes of what they rest on, and says what is
wrong with each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from husai.errors import HusaiError
from husai.gate.inputs import Inputs, evidence_in
from husai.provenance import EVIDENCE_SCHEMA, read_json, sha256_file

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Evidence:
    """One evidence record, where it came from, and what is wrong with it (empty when sound)."""

    record: Mapping[str, Any]
    path: str = ""
    problems: tuple[str, ...] = ()
    behind: tuple[Mapping[str, Any], ...] = ()
    """The evidence records that this one rests on, directly or through others; empty for one that
    came from memory.
    """

    @property
    def kind(self) -> str:
        return str(self.record.get("kind", ""))

    @property
    def recipe_hash(self) -> str:
        return str(self.record.get("recipe_hash") or "")

    @property
    def seeds(self) -> int:
        """Number of different seeds behind the record, 0 when it names none."""
        return len(set(_seeds(self.record)))

    @property
    def label(self) -> str:
        """How a reason names this record: its file, or its kind when it came from memory."""
        return (
            self.path
            or f"{self.kind} record of "
            f"{self.record.get('recipe') or self.recipe_hash or 'no recipe'}"
        )


class Reading(NamedTuple):
    """One metric as numbers: missing bounds are infinite; ``problem`` says why it cannot be
    used.
    """

    value: float | None
    lcb: float
    ucb: float
    n: int
    problem: str = ""

    def at(self, basis: str) -> float | None:
        """The number that a condition with this basis compares."""
        return {"point": self.value, "lcb": self.lcb, "ucb": self.ucb}[basis]


_NOTHING = Reading(None, -math.inf, math.inf, 0)


def _seeds(record: Mapping[str, Any]) -> list:
    seeds = record.get("seeds")
    if not isinstance(seeds, list):
        about = record.get("provenance")
        seeds = about.get("seeds") if isinstance(about, Mapping) else None
    return [repr(s) for s in seeds] if isinstance(seeds, list) else []


def is_number(value: Any) -> bool:
    """True for int and float, false for bool, text and null."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_metric(entry: Any) -> Reading:
    """Turn a metric of an evidence record into numbers.

    A null bound is unbounded, a null value is missing; NaN, text, an infinite value, a bound on the
    wrong side of the other or an interval that leaves out its own value make the metric unusable.
    """
    if not isinstance(entry, Mapping):
        return _NOTHING._replace(problem=f"is {entry!r}, not a metric with value, lcb, ucb and n")
    reading, problems = _as_written(entry)
    if problems:
        return _NOTHING._replace(problem=next(iter(problems.values())))
    if reading.value is None:
        return reading
    if math.isinf(reading.value):
        return reading._replace(problem="has an infinite value")
    if not reading.lcb <= reading.ucb:
        return reading._replace(problem=f"has lcb {reading.lcb:g} above ucb {reading.ucb:g}")
    slack = 1e-9 * max(1.0, abs(reading.value))
    if not reading.lcb - slack <= reading.value <= reading.ucb + slack:
        return reading._replace(
            problem=f"has value {reading.value:g} outside its own interval [{reading.lcb:g}, "
            f"{reading.ucb:g}]"
        )
    if reading.n < 1:
        return reading._replace(problem=f"has n {entry.get('n')!r}, not a positive count")
    return reading


def read_as_is(entry: Any, basis: str) -> Reading:
    """Like :func:`read_metric`, but a problem only where the number of this basis itself is not a
    finite number.

    The original's value and bound come from different computations, so nothing is asked of one by
    the other."""
    if not isinstance(entry, Mapping):
        return _NOTHING._replace(problem=f"is {entry!r}, not a metric with value, lcb, ucb and n")
    reading, problems = _as_written(entry)
    key = "value" if basis == "point" else basis
    if (
        key not in problems
        and basis == "point"
        and reading.value is not None
        and math.isinf(reading.value)
    ):
        problems[key] = "has an infinite value"
    return reading._replace(problem=problems.get(key, ""))


def _as_written(entry: Mapping) -> tuple[Reading, dict[str, str]]:
    numbers, problems = {}, {}
    for key, absent in (("value", None), ("lcb", -math.inf), ("ucb", math.inf)):
        number = entry.get(key)
        if number is not None and not is_number(number):
            problems[key] = f"has {key} {number!r}, not a number"
        elif number is not None and math.isnan(number):
            problems[key] = f"has {key} NaN"
        numbers[key] = absent if number is None or key in problems else number
    n = entry.get("n", 1)
    return Reading(
        numbers["value"],
        numbers["lcb"],
        numbers["ucb"],
        n if isinstance(n, int) and not isinstance(n, bool) else 0,
    ), problems


def shape_problems(record: Any) -> list[str]:
    """What is wrong with a record's form (schema, kind, recipe hash, metrics, inputs, provenance);
    empty when sound.
    """
    if not isinstance(record, Mapping):
        return [f"is a {type(record).__name__}, not an evidence record"]
    out = []
    if record.get("schema") != EVIDENCE_SCHEMA:
        out.append(f"has schema {record.get('schema')!r}, not {EVIDENCE_SCHEMA!r}")
    for key in ("kind", "recipe_hash"):
        if not isinstance(record.get(key), str) or not record[key]:
            out.append(f"has no {key}")
    if not isinstance(record.get("metrics"), Mapping):
        out.append("has no metrics")
    if record.get("status") == "failed":
        out.append(f"failed: {record.get('reason') or 'it does not say why'}")
    about = record.get("provenance")
    if not isinstance(about, Mapping) or not about.get("code_hash") or not about.get("config_hash"):
        out.append("has no provenance with code_hash and config_hash")
    inputs = record.get("inputs")
    if not isinstance(inputs, list):
        out.append("has no list of inputs")
    else:
        bad = [
            i
            for i in inputs
            if not (
                isinstance(i, Mapping) and _SHA256.fullmatch(str(i.get("sha256"))) and i.get("path")
            )
        ]
        out += [f"has an input without path and sha256: {i!r}" for i in bad]
    return out


def as_evidence(items: Iterable[Evidence | Mapping[str, Any]]) -> list[Evidence]:
    """Wrap plain records; shape problems are found here, hashes only by :func:`load_evidence`."""
    out = []
    for item in items:
        if isinstance(item, Evidence):
            out.append(item)
        elif isinstance(item, Mapping):
            out.append(Evidence(item, problems=tuple(shape_problems(item))))
        else:
            out.append(
                Evidence({}, problems=(f"is a {type(item).__name__}, not an evidence record",))
            )
    return out


def load_evidence(
    paths: Iterable[str | Path], root: str | Path = ".", recipe_hash: str | None = None
) -> list[Evidence]:
    """Read every evidence record in files and folders and verify the hashes of its inputs, of
    theirs, and of itself.

    A record that names no inputs has that problem: nothing could show that it is out of date.

    Parameters
    ----------
    paths : iterable of path
        Evidence files, or folders searched for ``*.json`` (other JSON there is ignored). A file may
        hold one record, a list of records or ``{"evidence": [...]}``.
    root : path
        Folder that the records' input paths are relative to.
    recipe_hash : str, optional
        Verify inputs of this candidate's records only (hashing weights takes time); all by default.

    Raises
    ------
    HusaiError
        When a path does not exist. An unreadable file inside a folder becomes a record with that
        problem.
    """
    inputs, manifests = Inputs(Path(root)), {}
    found = []
    for path in dict.fromkeys(_json_files(paths)):
        try:
            data = read_json(path)
        except HusaiError as error:
            found.append(Evidence({}, str(path), (f"is not readable ({error})",)))
            continue
        for record in evidence_in(data):
            problems, behind = shape_problems(record), []
            if recipe_hash is None or record.get("recipe_hash") == recipe_hash:
                rests = inputs.of(record)
                problems, behind = (
                    problems + rests.problems + _own_problems(path, manifests),
                    rests.behind,
                )
            found.append(Evidence(record, str(path), tuple(problems), tuple(behind)))
    return found


def _json_files(paths: Iterable[str | Path]) -> list[Path]:
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(p for p in path.rglob("*.json") if not p.name.startswith("."))
        elif path.is_file():
            files.append(path)
        else:
            raise HusaiError(
                f"{path}: no such evidence file or folder; run the stage that writes it first"
            )
    return files


def _own_problems(path: Path, manifests: dict[Path, dict[str, str]]) -> list[str]:
    folder = path.parent
    if folder not in manifests:
        manifests[folder] = {}
        for manifest in sorted(folder.glob("*manifest*.json")):
            try:
                outputs = read_json(manifest).get("outputs", [])
            except (HusaiError, AttributeError):
                continue
            manifests[folder].update(
                {
                    str((folder / r["path"]).resolve()): r["sha256"]
                    for r in outputs
                    if isinstance(r, Mapping)
                }
            )
    expected = manifests[folder].get(str(path.resolve()))
    if expected is not None and expected != sha256_file(path):
        return ["has changed since its manifest was written"]
    return []

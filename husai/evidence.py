"""The one typed form of a measured value, and of the record that keeps it: :class:`Metric` and
:class:`Evidence`, with their one reader and validator. Standard library only.

A job measures metrics and writes them with :func:`new_record`; the gate, ``husai verify`` and the
jobs that build on a record read it with :meth:`Evidence.read`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from husai.provenance import failure, file_records, provenance

SCHEMA = "husai.evidence/1"
FROM_SEEDS_ALONE = ("planted",)
"""Kinds whose records rest on no file: they draw their data and SAEs from the seeds they name."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Metric:
    """A measured value with its two-sided 95% interval.

    Attributes
    ----------
    value : float or None
        None where it could not be measured; ``method`` then says why.
    lcb, ucb : float
        Infinite where the data give no bound on that side: one seed gives none.
    n : int
        Number of independent units behind the interval.
    method : str
        How the interval was made.
    bounds : tuple of dict
        ``{"alpha", "lcb", "ucb"}``: bounds at stricter one-sided levels, stated by metrics whose
        interval cannot be widened afterwards.
    low, high, limit
        What this metric can be at least and at most, and why, where the measurement knows.
    problem : str
        Why it cannot be used; empty for a sound one. Set by :func:`read_metric` only.
    """

    value: float | None
    lcb: float = -math.inf
    ucb: float = math.inf
    n: int = 1
    method: str = "point"
    bounds: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    low: float = field(default=-math.inf, repr=False)
    high: float = field(default=math.inf, repr=False)
    limit: str = field(default="", repr=False)
    problem: str = field(default="", repr=False)

    @property
    def bounded(self) -> bool:
        """Whether there is a bound on any side."""
        return math.isfinite(self.lcb) or math.isfinite(self.ucb)

    def at(self, basis: str) -> float | None:
        """The number that a condition on ``point``, ``lcb`` or ``ucb`` compares."""
        return self.value if basis == "point" else self.lcb if basis == "lcb" else self.ucb

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file (where an infinity is null)."""
        names = ("value", "lcb", "ucb", "n", "method")
        out: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.bounds:
            out["bounds"] = [dict(bound) for bound in self.bounds]
        out |= {key: x for key, x in (("min", self.low), ("max", self.high)) if math.isfinite(x)}
        return out | ({"limit": self.limit} if self.limit else {})


@dataclass(frozen=True)
class Evidence:
    """One evidence record, where it came from, and what is wrong with it (nothing when sound)."""

    kind: str
    recipe_hash: str
    subject: str = ""
    recipe: str = ""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    inputs: tuple[Mapping[str, str], ...] = ()
    """``{"path", "sha256"}`` of every file that it rests on."""
    phase: str = ""
    """``selection`` or ``confirmation``, where the data were one of them."""
    seeds: tuple[Any, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    """The whole record as read: what its kind keeps beside the metrics."""
    path: str = ""
    problems: tuple[str, ...] = ()
    behind: tuple[Evidence, ...] = ()
    """The records that this one rests on, at any distance, where its files were followed."""
    beside: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The JSON objects among its inputs that are no evidence, by path."""

    @classmethod
    def read(cls, record: Any, path: str = "") -> Evidence:
        """The typed form of a record in a file; ``problems`` says what is wrong with its form."""
        if not isinstance(record, Mapping):
            what = f"is a {type(record).__name__}, not an evidence record"
            return cls("", "", path=path, problems=(what,))
        metrics, about = record.get("metrics"), record.get("provenance")
        about = about if isinstance(about, Mapping) else {}
        seeds = record.get("seeds")
        seeds = seeds if isinstance(seeds, list) else about.get("seeds")
        items = metrics.items() if isinstance(metrics, Mapping) else ()
        texts = ("kind", "recipe_hash", "subject", "recipe", "phase")
        return cls(
            **{key: _text(record.get(key)) for key in texts},
            metrics={str(name): read_metric(entry) for name, entry in items},
            inputs=_inputs(record),
            seeds=tuple(seeds) if isinstance(seeds, list) else (),
            provenance=about,
            record=record,
            path=path,
            problems=tuple(_problems(record)),
        )

    @property
    def n_seeds(self) -> int:
        """Number of different seeds behind the record, 0 when it names none."""
        return len({repr(seed) for seed in self.seeds})

    @property
    def label(self) -> str:
        """How a sentence names this record: its file, or its kind when it came from memory."""
        of = self.recipe or self.recipe_hash or "no recipe"
        return self.path or f"{self.kind} record of {of}"

    def config(self) -> Mapping[str, Any]:
        """The slice of the configuration that it was measured with, empty when it keeps none."""
        config = self.provenance.get("config")
        return config if isinstance(config, Mapping) else {}

    def unnamed_inputs(self) -> list[str]:
        """The problem of a record from a file that names nothing it rests on: no hash could ever
        show that it is out of date.
        """
        if self.inputs or self.kind in FROM_SEEDS_ALONE:
            return []
        return ["names no inputs, so what it was measured on cannot be verified"]


def new_record(
    kind: str,
    subject: str,
    recipe: str,
    recipe_hash: str,
    metrics: Mapping[str, Any],
    inputs: Iterable[str | Path] = (),
    config: Any = None,
    seeds: Iterable[int] = (),
    **extra: Any,
) -> dict[str, Any]:
    """A record for :func:`husai.provenance.write_json`.

    Parameters
    ----------
    kind, subject, recipe, recipe_hash : str
        What was measured, and of which recipe.
    metrics : mapping
        :class:`Metric` by name.
    inputs : iterable of path
        Files that it rests on; they are hashed here.
    config, seeds
        Slice of the configuration, kept beside its hash; seeds that were measured.
    extra
        What this kind keeps beside its metrics; ``phase`` where the data were the selection's or
        the confirmation's.
    """
    return {
        "schema": SCHEMA,
        "kind": kind,
        "subject": subject,
        "recipe": recipe,
        "recipe_hash": recipe_hash,
        "metrics": dict(metrics),
        **extra,
        "inputs": file_records(inputs),
        "provenance": {**provenance(config, seeds), "config": config},
    }


def is_number(value: Any) -> bool:
    """True for int and float, false for bool, text and null."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_metric(entry: Any) -> Metric:
    """A metric as it stands in a file, or one in memory, with its ``problem``.

    A null bound is unbounded, a null value is missing. NaN, text, an infinite value, a bound on the
    wrong side of the other, an interval that leaves out its own value, or no positive ``n`` make
    the metric unusable.
    """
    if isinstance(entry, Metric):
        entry = entry.to_json()
    if not isinstance(entry, Mapping):
        return Metric(None, problem=f"is {entry!r}, not a metric with value, lcb, ucb and n")
    numbers, problems = {}, []
    for key, absent in (("value", None), ("lcb", -math.inf), ("ucb", math.inf)):
        number = entry.get(key)
        if number is not None and not is_number(number):
            problems.append(f"has {key} {number!r}, not a number")
            number = None
        elif number is not None and math.isnan(number):
            problems.append(f"has {key} NaN")
            number = None
        numbers[key] = absent if number is None else number
    n, bounds, method = entry.get("n", 1), entry.get("bounds"), entry.get("method")
    listed = bounds if isinstance(bounds, (list, tuple)) else ()
    found = Metric(
        **numbers,
        n=n if isinstance(n, int) and not isinstance(n, bool) else 0,
        method=method if isinstance(method, str) else "",
        bounds=tuple(b for b in listed if isinstance(b, Mapping)),
        low=_limit(entry.get("min"), -math.inf),
        high=_limit(entry.get("max"), math.inf),
        limit=_text(entry.get("limit")),
    )
    problems = problems or _contradictions(found, n)
    return replace(found, problem=problems[0]) if problems else found


def _contradictions(metric: Metric, n: Any) -> list[str]:
    value, lcb, ucb = metric.value, metric.lcb, metric.ucb
    if value is None:
        return []
    if math.isinf(value):
        return ["has an infinite value"]
    if not lcb <= ucb:
        return [f"has lcb {lcb:g} above ucb {ucb:g}"]
    slack = 1e-9 * max(1.0, abs(value))
    if not lcb - slack <= value <= ucb + slack:
        return [f"has value {value:g} outside its own interval [{lcb:g}, {ucb:g}]"]
    return [] if metric.n >= 1 else [f"has n {n!r}, not a positive count"]


def _limit(number: Any, absent: float) -> float:
    return float(number) if is_number(number) and math.isfinite(number) else absent


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _inputs(record: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
    found = record.get("inputs")
    items = found if isinstance(found, list) else []
    return tuple(i for i in items if isinstance(i, Mapping) and i.get("path"))


def _problems(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record's form."""
    out = []
    if record.get("schema") != SCHEMA:
        out.append(f"has schema {record.get('schema')!r}, not {SCHEMA!r}")
    out += [f"has no {key}" for key in ("kind", "recipe_hash") if not _text(record.get(key))]
    if not isinstance(record.get("metrics"), Mapping):
        out.append("has no metrics")
    if (why := failure(record)) is not None:
        out.append(f"failed: {why}")
    about = record.get("provenance")
    if not isinstance(about, Mapping) or not about.get("code_hash") or not about.get("config_hash"):
        out.append("has no provenance with code_hash and config_hash")
    inputs = record.get("inputs")
    if not isinstance(inputs, list):
        return [*out, "has no list of inputs"]
    return out + [
        f"has an input without path and sha256: {i!r}" for i in inputs if not _is_input(i)
    ]


def _is_input(entry: Any) -> bool:
    named = isinstance(entry, Mapping) and entry.get("path")
    return bool(named and _SHA256.fullmatch(str(entry.get("sha256"))))


def records_in(data: Any) -> list[Mapping[str, Any]]:
    """Evidence records in the content of a JSON file: one, a list, or ``{"evidence": [...]}``."""
    if isinstance(data, Mapping) and isinstance(data.get("evidence"), list):
        data = data["evidence"]
    items = data if isinstance(data, list) else [data]
    return [
        item
        for item in items
        if isinstance(item, Mapping) and str(item.get("schema", "")).startswith("husai.evidence")
    ]

"""A policy as data: gates, their conditions, and what may be changed on the command line.

:mod:`husai.gate.policy_reader` makes one from a YAML file."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from husai.errors import HusaiError, nearest
from husai.shown import in_code

PINNED = {
    "cycle3": "f6a89d353222645f85c8a6bd7368111745f59123a26d6dc20eb3f16110ce8fda",
    "strict": "b1770f3e645e0bb120faf879adab4a72e54d68156a96f1a2402083c0b267deb3",
}
"""SHA-256 of the policy files that ship with this version. A name promises nothing: whoever may
edit a file may call it strict."""
CHANGED = "a CHANGED policy"
COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


def is_shipped(name: object, sha256: object) -> bool:
    """Whether a policy of this name and hash is one that ships with this version, unchanged."""
    return isinstance(name, str) and PINNED.get(name, "") == sha256


def policy_label(name: object, sha256: object) -> str:
    """How a headline names a policy: by its name, and as changed where it is not the shipped
    one."""
    return in_code(name) if is_shipped(name, sha256) else f"{in_code(name)} ({CHANGED})"


class Condition(NamedTuple):
    """One comparison: ``basis`` of ``metric`` in evidence of a kind, ``op``, ``threshold``."""

    evidence: str
    metric: str
    basis: str
    op: str
    threshold: float
    required: bool = True
    low: float = -math.inf  # what the metric can be at least
    high: float = math.inf  # and at most
    report_as: str = ""
    threshold_as: str = ""

    @property
    def name(self) -> str:
        """Readable name, e.g. ``stability.S lcb``."""
        return f"{self.evidence}.{self.metric}" + (
            "" if self.basis == "point" else f" {self.basis}"
        )

    @property
    def asked(self) -> str:
        """What is asked, e.g. ``lcb >= 0.3``."""
        return f"{self.basis} {self.op} {self.threshold:g}"

    @property
    def upward(self) -> bool:
        """Whether more is better."""
        return self.op in (">=", ">")

    def holds(self, number: Any) -> Any:
        """Whether ``number op threshold``, for each where it is an array; NaN never holds."""
        return COMPARE[self.op](number, self.threshold)

    def with_threshold(self, thresholds: Mapping[str, float]) -> Condition:
        """The same with the threshold that is given under its ``threshold_as``, if one is."""
        return self._replace(threshold=float(thresholds.get(self.threshold_as, self.threshold)))


@dataclass(frozen=True)
class Gate:
    """Conditions that must all hold; ``modes`` maps a mode to alternatives, each a tuple."""

    name: str
    why: str
    modes: Mapping[str, tuple[tuple[Condition, ...], ...]]
    mode: str = "all"
    min_n: int = 1
    required: bool = True
    counts: bool = True
    checks: tuple[str, ...] = ()

    @property
    def alternatives(self) -> tuple[tuple[Condition, ...], ...]:
        """The alternatives of the mode in force."""
        return self.modes[self.mode]

    def conditions(self) -> tuple[Condition, ...]:
        """Every condition of the mode in force, in order, once."""
        return tuple(dict.fromkeys(c for alternative in self.alternatives for c in alternative))


@dataclass(frozen=True)
class Policy:
    """A named list of gates. Every number must carry the candidate's recipe hash; confirmation
    evidence outranks the rest, and the selection's own data never counts; records that are
    malformed, changed or incoherent fail the gate that reads them, as does what no candidate could
    meet.

    ``original``: the evidence is taken as the original study took it, which
    :func:`husai.cycle3.importer.as_the_original` turns into evidence of this kind. ``fixed``: by
    evidence kind, what the evidence must have been measured with (:mod:`husai.gate.fixed`)."""

    name: str
    gates: tuple[Gate, ...]
    original: bool = False
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sha256: str = ""
    path: str = ""

    def all_conditions(self) -> tuple[Condition, ...]:
        """Every condition of every mode of every gate, once, in order."""
        alternatives = (a for gate in self.gates for mode in gate.modes.values() for a in mode)
        return tuple(dict.fromkeys(c for alternative in alternatives for c in alternative))

    @property
    def judges_bounds(self) -> bool:
        """Whether any condition is on a bound, so that the level of the bounds matters."""
        return any(c.basis != "point" for c in self.all_conditions())

    def with_options(
        self,
        modes: Mapping[str, str] | None = None,
        required: Mapping[str, bool] | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> Policy:
        """Copy with other modes, required flags (by gate) or thresholds (by ``threshold_as``).

        Raises
        ------
        HusaiError
            When a gate, a mode or a threshold of that name does not exist.
        """
        modes, required, thresholds = modes or {}, required or {}, thresholds or {}
        names = [g.name for g in self.gates]
        for name in {**modes, **required}:
            if name not in names:
                raise HusaiError(f"policy {self.name}: no gate '{name}'{nearest(name, names)}")
        known = {c.threshold_as for c in self.all_conditions()}
        for name in thresholds:
            if name not in known:
                raise HusaiError(
                    f"policy {self.name}: no threshold '{name}'{nearest(name, sorted(known))}"
                )
        gates = []
        for gate in self.gates:
            mode = modes.get(gate.name, gate.mode)
            if mode not in gate.modes:
                raise HusaiError(
                    f"gate {gate.name}: no mode '{mode}'; known: "
                    f"{', '.join(gate.modes)}{nearest(mode, list(gate.modes))}"
                )
            new = {
                name: tuple(
                    tuple(c.with_threshold(thresholds) for c in alternative)
                    for alternative in alternatives
                )
                for name, alternatives in gate.modes.items()
            }
            needed = required.get(gate.name, gate.required)
            gates.append(replace(gate, mode=mode, required=needed, modes=new))
        return replace(self, gates=tuple(gates))

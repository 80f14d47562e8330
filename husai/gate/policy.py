"""Policies as data: a YAML file of gates, read into frozen dataclasses, with every mistake reported
at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from husai.errors import HusaiError, nearest


class Condition(NamedTuple):
    """One comparison: ``basis`` of ``metric`` in evidence of kind ``evidence``, ``op``,
    ``threshold``.
    """

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

    def holds(self, number: float) -> bool:
        """Whether ``number op threshold``; NaN never holds."""
        if self.op == ">=":
            return number >= self.threshold
        if self.op == ">":
            return number > self.threshold
        return number <= self.threshold if self.op == "<=" else number < self.threshold


@dataclass(frozen=True)
class Gate:
    """Conditions that must all hold. ``modes`` maps a mode to its alternatives, each a tuple of
    conditions.
    """

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
    """A named list of gates and what is asked of the evidence as a whole.

    ``one_candidate``: every number carries the candidate's recipe hash. ``confirmation``: the
    selection's own data never counts. ``checked``: malformed, changed or incoherent records fail,
    as does what no candidate could meet."""

    name: str
    gates: tuple[Gate, ...]
    one_candidate: bool = True
    confirmation: bool = True
    checked: bool = True
    sha256: str = ""
    path: str = ""

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
        names = [g.name for g in self.gates]
        for name in {**(modes or {}), **(required or {})}:
            if name not in names:
                raise HusaiError(f"policy {self.name}: no gate '{name}'{nearest(name, names)}")
        known = {
            c.threshold_as
            for g in self.gates
            for alts in g.modes.values()
            for alt in alts
            for c in alt
        }
        for name in thresholds or {}:
            if name not in known:
                raise HusaiError(
                    f"policy {self.name}: no threshold '{name}'{nearest(name, sorted(known))}"
                )
        return replace(
            self,
            gates=tuple(
                _optioned(g, modes or {}, required or {}, thresholds or {}) for g in self.gates
            ),
        )


def _optioned(
    gate: Gate,
    modes: Mapping[str, str],
    required: Mapping[str, bool],
    thresholds: Mapping[str, float],
) -> Gate:
    mode = modes.get(gate.name, gate.mode)
    if mode not in gate.modes:
        raise HusaiError(
            f"gate {gate.name}: no mode '{mode}'; known: "
            f"{', '.join(gate.modes)}{nearest(mode, list(gate.modes))}"
        )
    new = {
        m: tuple(
            tuple(
                c._replace(threshold=float(thresholds.get(c.threshold_as, c.threshold)))
                for c in alt
            )
            for alt in alts
        )
        for m, alts in gate.modes.items()
    }
    return replace(gate, mode=mode, required=required.get(gate.name, gate.required), modes=new)


def shipped_policies() -> Path:
    """Folder of the policies that come with the code."""
    return Path(__file__).resolve().parent / "policies"


def policy_file(name_or_path: str | Path) -> Path:
    """File of a policy given by name (``strict``, ``cycle3``) or by path.

    Raises
    ------
    HusaiError
        When there is no such file; for a name with the known ones and the nearest.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")) or "/" in text or Path(text).is_file():
        if not Path(text).is_file():
            raise HusaiError(f"{text}: no such policy file")
        return Path(text)
    places = (shipped_policies(), Path("policies"))
    path = next((p for folder in places if (p := folder / f"{text}.yaml").is_file()), None)
    if path is None:
        known = sorted({p.stem for folder in places for p in folder.glob("*.yaml")})
        raise HusaiError(
            f"policy '{text}' is unknown; known: {', '.join(known)}, or give a YAML "
            f"file{nearest(text, known)}"
        )
    return path


def load_policy(name_or_path: str | Path) -> Policy:
    """Load a policy by name (``strict``, ``cycle3``) or by file.

    Raises
    ------
    HusaiError
        One line listing every mistake in the file, or the known names when there is no such policy.
    """
    path = policy_file(name_or_path)
    return parse_policy(path.read_text(), str(path))


def parse_policy(text: str, where: str = "policy") -> Policy:
    """Build a :class:`Policy` from YAML text; raises :class:`HusaiError` with all mistakes in one
    line.
    """
    from husai.gate.policy_reader import read_policy

    return replace(
        read_policy(text, where), sha256=hashlib.sha256(text.encode()).hexdigest(), path=where
    )

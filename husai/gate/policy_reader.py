"""Reads policy YAML: every mistake at once, each with its key and the nearest known name."""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
import sys
from dataclasses import replace
from typing import Any

from husai.errors import HusaiError, nearest
from husai.evidence import is_number
from husai.gate.fixed import read_fixed
from husai.gate.policy import COMPARE, Condition, Gate, Policy
from husai.gate.vocabulary import CHECKS, metric_names
from husai.yaml_files import parse_yaml

SCHEMA = "husai.policy/1"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", flags=re.ASCII)
BASES = ("point", "lcb", "ucb")
OPERATORS = tuple(COMPARE)
POLICY_KEYS = ("policy", "schema", "evidence", "declares", "fixed", "gates")
EVIDENCE_KEYS = ("one_candidate", "confirmation", "checked")
GATE_KEYS = ("why", "min_n", "required", "counts", "checks", "conditions", "mode", "modes")
NEEDED = ("evidence", "metric", "basis", "op", "threshold")
CONDITION_KEYS = (*NEEDED, "required", "range", "report_as", "threshold_as")


def parse_policy(text: str, where: str = "policy") -> Policy:
    """Build a policy from YAML text; ``where`` names it in errors.

    Raises
    ------
    HusaiError
        One line that starts with ``where`` and lists every mistake.
    """
    data, twice = parse_yaml(text, where)
    mistakes = [f"line {line}: key '{key}' appears twice" for line, key in twice]
    policy = Reader(mistakes).policy(data)
    if mistakes:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise HusaiError(f"{where}: {count}: {'; '.join(mistakes)}")
    return replace(policy, sha256=hashlib.sha256(text.encode()).hexdigest(), path=where)


class Reader:
    """Walks the parsed YAML, building dataclasses and noting mistakes as ``key.path: what``."""

    def __init__(self, mistakes: list[str]):
        self.mistakes = mistakes
        self.declared: dict[str, list[str]] = {}

    def wrong(self, where: str, what: str) -> None:
        self.mistakes.append(f"{where}: {what}")

    def keys(self, where: str, data: dict, known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                self.wrong(
                    f"{where}.{key}" if where else str(key), f"unknown key{nearest(key, known)}"
                )

    def number(self, where: str, value: Any, default: float = 0.0) -> float:
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            self.wrong(
                where,
                f"'{value}' is text in YAML; write {float(value)!r} (with a point: 1.0e-3, not "
                "1e-3)",
            )
        elif not (is_number(value) and abs(value) <= sys.float_info.max):
            self.wrong(where, f"expected a finite number, got {reprlib.repr(value)}")
        else:
            return float(value)
        return default

    def flag(self, where: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.wrong(where, f"expected true or false, got {value!r}")
        return bool(value)

    def policy(self, data: Any) -> Policy:
        if not isinstance(data, dict):
            self.wrong("policy", "expected a mapping with the keys " + ", ".join(POLICY_KEYS))
            return Policy("", ())
        self.keys("", data, POLICY_KEYS)
        if not isinstance(data.get("policy"), str) or not data.get("policy"):
            self.wrong("policy", "expected the policy's name")
        if data.get("schema") != SCHEMA:
            self.wrong("schema", f"expected '{SCHEMA}', got {data.get('schema')!r}")
        self.declared = self._declares(data.get("declares") or {})
        gates = data.get("gates")
        if not isinstance(gates, dict) or not gates:
            self.wrong("gates", "expected at least one gate")
            gates = {}
        found = (self.gate(str(name), body) for name, body in gates.items())
        read = [gate for gate in found if gate is not None]
        if read and not any(g.counts for g in read):
            self.wrong("gates", "none of them counts, so everything would pass")
        return Policy(
            name=str(data.get("policy")),
            gates=tuple(read),
            original=self._evidence(data.get("evidence") or {}),
            fixed=read_fixed(data.get("fixed") or {}, self.wrong),
        )

    def _evidence(self, data: Any) -> bool:
        """Whether evidence is taken as the original took it; no other rule is ever off."""
        if not isinstance(data, dict):
            if data != "original":
                self.wrong("evidence", f"expected 'original', or {', '.join(EVIDENCE_KEYS)}")
            return data == "original"
        self.keys("evidence", data, EVIDENCE_KEYS)
        for key, value in data.items():
            if key in EVIDENCE_KEYS and value is not True:
                self.wrong(
                    f"evidence.{key}",
                    f"{value!r} is not true, which it is for every policy; the original study's "
                    "own way is 'evidence: original'",
                )
        return False

    def _declares(self, data: Any) -> dict[str, list[str]]:
        if isinstance(data, dict) and all(isinstance(v, list) for v in data.values()):
            try:
                return {str(k): [re.compile(str(m)).pattern for m in v] for k, v in data.items()}
            except re.error as error:
                self.wrong("declares", f"{error.pattern!r} is no name and no pattern ({error})")
                return {}
        self.wrong("declares", "expected evidence kinds, each with a list of metric names")
        return {}

    def gate(self, name: str, data: Any) -> Gate | None:
        where = f"gates.{name}"
        if name == "pass_all":
            self.wrong(where, "the name is reserved")
        if not isinstance(data, dict):
            self.wrong(where, "expected a mapping with why and conditions")
            return None
        self.keys(where, data, GATE_KEYS)
        why = str(data.get("why") or "").strip()
        if not isinstance(data.get("why"), str) or not why:
            self.wrong(f"{where}.why", "expected a sentence saying why the gate is there")
        min_n = data.get("min_n", 1)
        if isinstance(min_n, bool) or not isinstance(min_n, int) or min_n < 1:
            self.wrong(
                f"{where}.min_n", f"expected a positive integer number of seeds, got {min_n!r}"
            )
            min_n = 1
        checks = data.get("checks", [])
        if not isinstance(checks, list):
            self.wrong(f"{where}.checks", f"expected a list from {', '.join(CHECKS)}")
            checks = []
        for check in checks:
            if check not in CHECKS:
                self.wrong(f"{where}.checks", f"unknown check '{check}'{nearest(check, CHECKS)}")
        required = self.flag(f"{where}.required", data.get("required", True))
        modes = self._modes(where, data)
        mode = str(data.get("mode", next(iter(modes), "all")))
        if modes and mode not in modes:
            self.wrong(
                f"{where}.mode",
                f"'{mode}' is not one of {', '.join(modes)}{nearest(mode, list(modes))}",
            )
        counts = self.flag(f"{where}.counts", data.get("counts", True))
        return Gate(name, why, modes, mode, min_n, required, counts, tuple(checks))

    def _modes(self, where: str, data: dict) -> dict[str, tuple[tuple[Condition, ...], ...]]:
        if ("conditions" in data) == ("modes" in data):
            self.wrong(where, "expected either conditions or modes")
            return {}
        if "conditions" in data:
            if not isinstance(data["conditions"], list) or not data["conditions"]:
                self.wrong(f"{where}.conditions", "expected a list of at least one condition")
                return {}
            return {"all": (self._alternative(f"{where}.conditions", data["conditions"]),)}
        modes = {}
        if not isinstance(data["modes"], dict) or not data["modes"]:
            self.wrong(f"{where}.modes", "expected modes, each a list of alternatives")
            return {}
        for mode, alternatives in data["modes"].items():
            place = f"{where}.modes.{mode}"
            if (
                not isinstance(alternatives, list)
                or not alternatives
                or not all(isinstance(a, list) for a in alternatives)
                or not all(alternatives[:-1] or alternatives)
            ):
                self.wrong(
                    place,
                    "expected a list of alternatives, each a list of conditions; only the last of "
                    "several may be empty",
                )
                continue
            modes[str(mode)] = tuple(
                self._alternative(f"{place}[{i}]", a) for i, a in enumerate(alternatives)
            )
        return modes

    def _alternative(self, where: str, items: list) -> tuple[Condition, ...]:
        found = (self.condition(f"{where}[{i}]", item) for i, item in enumerate(items))
        return tuple(condition for condition in found if condition is not None)

    def condition(self, where: str, data: Any) -> Condition | None:
        if not isinstance(data, dict):
            self.wrong(where, "expected a mapping with evidence, metric, basis, op and threshold")
            return None
        self.keys(where, data, CONDITION_KEYS)
        absent = [k for k in NEEDED if k not in data]
        if absent:
            self.wrong(where, f"needs {', '.join(absent)}")
            return None
        kind, metric, basis, op = (str(data[key]) for key in NEEDED[:-1])
        self._vocabulary(where, kind, metric)
        for key, known in (("basis", BASES), ("op", OPERATORS)):
            if data[key] not in known:
                self.wrong(
                    f"{where}.{key}",
                    f"{data[key]!r} is not one of {', '.join(known)}{nearest(data[key], known)}",
                )
        low, high = self._range(f"{where}.range", data.get("range"))
        required = self.flag(f"{where}.required", data.get("required", True))
        threshold = self.number(f"{where}.threshold", data["threshold"])
        names = str(data.get("report_as", "")), str(data.get("threshold_as", ""))
        return Condition(kind, metric, basis, op, threshold, required, low, high, *names)

    def _vocabulary(self, where: str, kind: str, metric: str) -> None:
        known = metric_names(self.declared)
        if kind not in known:
            self.wrong(
                f"{where}.evidence",
                f"unknown evidence kind '{kind}'{nearest(kind, list(known))} (own kinds go under "
                "declares)",
            )
        elif not any(re.fullmatch(pattern, metric) for pattern in known[kind]):
            self.wrong(
                f"{where}.metric",
                f"'{metric}' is not a metric of {kind} evidence{nearest(metric, list(known[kind]))}",
            )

    def _range(self, where: str, value: Any) -> tuple[float, float]:
        if value is None:
            return -math.inf, math.inf
        if not isinstance(value, list) or len(value) != 2:
            self.wrong(where, f"expected [lowest, highest] with null for unbounded, got {value!r}")
            return -math.inf, math.inf
        low = -math.inf if value[0] is None else self.number(where, value[0])
        high = math.inf if value[1] is None else self.number(where, value[1])
        if low > high:
            self.wrong(where, f"lowest {low} is above highest {high}")
        return low, high

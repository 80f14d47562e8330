"""The gate: policies as data, evidence in, one explained decision out. Imports no torch."""

from husai.evidence import Evidence
from husai.gate.decision import Decision, Row
from husai.gate.evaluate import evaluate
from husai.gate.inputs import load_evidence
from husai.gate.policy import Condition, Gate, Policy
from husai.gate.policy_files import load_policy

__all__ = [
    "Condition",
    "Decision",
    "Evidence",
    "Gate",
    "Policy",
    "Row",
    "evaluate",
    "load_evidence",
    "load_policy",
]

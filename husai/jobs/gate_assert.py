"""A decision as an exit status (``husai gate assert``)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from husai.errors import HusaiError


def run(args: Namespace) -> None:
    """Exit 2 when the decision failed, unless a spec says that this does not end the run."""
    from husai.planning.specs import AssertSpec, read_spec
    from husai.provenance import write_json

    if args.decision is None:
        raise HusaiError("--decision is missing; give release_policy.json")
    fail = read_spec(AssertSpec, args.spec).fail_on_gate_fail if args.spec else True
    gates = gate_assert_job(args.decision, fail_on_gate_fail=fail)
    if args.out is not None:
        write_json(args.out, {"pass_all": gates["pass_all"], "decision": str(args.decision)})


def gate_assert_job(decision: str | Path, *, fail_on_gate_fail: bool = True) -> dict[str, Any]:
    """Read a decision and return its gates.

    Raises
    ------
    GateFailed
        The decision failed and ``fail_on_gate_fail`` is set; the command exits 2.
    HusaiError
        The file is no decision, or has no ``gates.pass_all``.
    """
    from husai.cycle3.artifacts import read_artifact
    from husai.gate.decision import check_decision
    from husai.gate.ledger import GateFailed

    body = check_decision(read_artifact(decision), decision)
    gates = body.get("gates")
    if not isinstance(gates, Mapping) or not isinstance(gates.get("pass_all"), bool):
        raise HusaiError(f"{decision}: has no gates.pass_all; run husai gate again")
    if fail_on_gate_fail and not gates["pass_all"]:
        failing = body.get("failing") or [
            name for name, passed in gates.items() if passed is False and name != "pass_all"
        ]
        raise GateFailed(
            f"policy {body.get('policy')} failed: {', '.join(failing)}; see "
            f"{Path(decision).with_suffix('.md')}"
        )
    return dict(gates)

"""The original's command-line options of a decision, as changes to its policy."""

from __future__ import annotations

from collections.abc import Mapping

from husai.errors import HusaiError, nearest
from husai.gate.policy import Policy

EXTERNAL_MODES = ("auto", "saebench", "cebench", "joint")


def configured(
    policy: Policy,
    external_mode: str,
    use_lcb: bool,
    required: Mapping[str, bool],
) -> Policy:
    """Apply the command-line options that this policy knows.

    Raises
    ------
    HusaiError
        ``external_mode`` is no such mode, the policy has no external modes, or it lacks a gate that
        is required.
    """
    names = {g.name: g for g in policy.gates}
    if external_mode not in EXTERNAL_MODES:
        raise HusaiError(
            f"external mode '{external_mode}' is not one of "
            f"{', '.join(EXTERNAL_MODES)}{nearest(external_mode, EXTERNAL_MODES)}"
        )
    has_modes = "external" in names and len(names["external"].modes) > 1
    if not has_modes and (external_mode != "auto" or use_lcb):
        raise HusaiError(
            f"policy {policy.name} has no external modes; leave out --external-mode and "
            "--use-external-lcb"
        )
    modes = {}
    if has_modes:
        modes["external"] = external_mode + ("-lcb" if use_lcb else "")
        modes |= {
            g: "lcb" if use_lcb else "point"
            for g in ("external_saebench", "external_cebench")
            if g in names
        }
    asked = {
        gate: True
        for gate, needed in required.items()
        if needed and (gate in names or not all(g.required for g in policy.gates))
    }
    if asked.get("external"):
        asked |= {g: True for g in ("external_saebench", "external_cebench") if g in names}
    return policy.with_options(modes=modes, required=asked)


def require_flags(policy: Policy) -> dict[str, bool]:
    """``require_{gate}`` of every gate that counts: the original lists them with its thresholds."""
    return {f"require_{gate.name}": gate.required for gate in policy.gates if gate.counts}

"""Where an SAE belongs, by its own notes, and whether that is where it is about to be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def contradictions(notes: Mapping[str, Any], hook_name: str) -> list[str]:
    """What an SAE's notes (``sae.cfg``) say against reading every token's activation at
    ``hook_name``, as phrases; empty when nothing does.

    Hooks are compared where both have names of TransformerLens (``blocks.3.hook_resid_post``);
    other trainers name them in ways of their own."""
    found = []
    named = notes.get("hook_name")
    if _known(named) and _known(hook_name) and named != hook_name:
        found.append(f"it belongs to hook {named}, not {hook_name}")
    head = notes.get("hook_head_index")
    if head is not None:
        found.append(f"it reads attention head {head} of its hook alone")
    positions = notes.get("seqpos_slice")
    if positions and any(p is not None for p in positions):
        shown = ":".join("" if p is None else str(p) for p in positions)
        found.append(f"it was trained on the positions [{shown}] of each text alone")
    return found


def _known(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("blocks.")

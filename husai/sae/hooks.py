"""Where an SAE belongs, by its own notes, and whether that is where it is about to be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def remarks(
    notes: Mapping[str, Any], model: str | None = None, prepend_bos: bool | None = None
) -> list[str]:
    """What an SAE's notes say of another model or another way of reading text than is in use, as
    phrases: to be told rather than refused, as one model has several names. ``model`` is the name
    or folder of the one in use, and ``prepend_bos`` whether its texts open with that token.
    """
    found = []
    named = notes.get("model_name")
    if isinstance(named, str) and model is not None and _bare(named) != _bare(model):
        found.append(f"it names the model {named}, in use is {model}: right if both are one model")
    said = notes.get("prepend_bos")
    if isinstance(said, bool) and prepend_bos is not None and said != prepend_bos:
        with_or_without = "with" if said else "without"
        found.append(
            f"it was trained {with_or_without} a beginning-of-sequence token before each text, "
            f"which is {'' if prepend_bos else 'not '}there (prepend_bos of the subject)"
        )
    return found


def place(notes: Mapping[str, Any]) -> dict[str, str | None]:
    """``model_name`` and ``hook_name`` of an SAE's notes; None for what they do not say."""
    said = {name: notes.get(name) for name in ("model_name", "hook_name")}
    return {name: value if isinstance(value, str) else None for name, value in said.items()}


def differences(notes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Models and hooks that SAEs name and that are not the same for all, as phrases."""
    found = []
    for key, what, bare in (("model_name", "models", _bare), ("hook_name", "hooks", str)):
        named = [said for n in notes if (said := place(n)[key])]
        if len(set(map(bare, named))) > 1:
            found.append(f"they name different {what} ({', '.join(dict.fromkeys(named))})")
    return found


def stated_prepend_bos(notes: Iterable[Mapping[str, Any]]) -> bool | None:
    """Whether SAEs were trained on text that opens with the beginning-of-sequence token; None where
    their notes do not say so, or disagree.
    """
    said = {n["prepend_bos"] for n in notes if isinstance(n.get("prepend_bos"), bool)}
    return said.pop() if len(said) == 1 else None


def _bare(model: str) -> str:
    """The last part of a model's name, in lower case: organisations are often left out."""
    return model.rstrip("/").rsplit("/", 1)[-1].lower()


def _known(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("blocks.")

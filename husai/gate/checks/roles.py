"""Each record behind the evidence is that of its role: subject, recipe and shape of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from husai.errors import HusaiError
from husai.evidence import Evidence
from husai.gate.inputs import WEIGHTS
from husai.recipe import RANDOM, Recipe

COMPARED = {
    **dict.fromkeys(("saebench", "cebench", "faithfulness"), "frozen"),
    "random_model": "random_model",
    "transcoder": "transcoder",
}
"""The role that a kind of evidence compares the candidate with."""


def others(item: Evidence) -> list[Evidence]:
    """Records behind an item that are of another recipe than its own."""
    return [one for one in item.behind if one.recipe_hash != item.recipe_hash]


def bound(item: Evidence) -> list[str]:
    """What a record rests on that is not what its kind asks for: recipes, subjects, weights."""
    recipes = {h: r for h, r in map(_described, _recipes(item).values()) if r is not None}
    own, out = recipes.get(item.recipe_hash), _misshapen(item)[:1]
    if item.kind in ("stability", "integrity") and own is None:
        out.append(f"rests on no recipe.json of {item.recipe_hash}")
    if own is not None and own.subject != item.subject:
        out.append(f"is about {item.subject}, its recipe about {own.subject}")
    for one in others(item) if item.kind in COMPARED else ():
        wrong = _not_of_role(item, one, own, recipes.get(one.recipe_hash))
        if wrong:
            out.append(f"rests on {one.label} as {COMPARED[item.kind]}, which {wrong}")
    return out


def _not_of_role(item: Evidence, one: Evidence, own: Recipe | None, theirs: Recipe | None) -> str:
    role = COMPARED[item.kind]
    wanted = item.subject + (RANDOM if role == "random_model" else "")
    if role != "transcoder" and one.subject != wanted:
        return f"is about {one.subject}, not about {wanted}"
    if role == "frozen" or one.kind != "stability":
        return ""
    if theirs is None:
        return f"rests on no recipe.json of {one.recipe_hash}"
    if theirs.subject != one.subject:
        return f"is about {one.subject}, its recipe about {theirs.subject}"
    if role == "transcoder":
        return "" if theirs.architecture == role else f"is of a {theirs.architecture} SAE"
    same = own is None or own.brought or theirs.architecture == own.architecture
    if not same or (own is not None and theirs.hook_name != own.hook_name):
        return "was trained by another recipe than the candidate"
    return ""


def _recipes(item: Evidence) -> dict[str, Mapping[str, Any]]:
    return {name: d for name, d in item.beside.items() if name.endswith("recipe.json")}


def _described(data: Mapping[str, Any]) -> tuple[str, Recipe | None]:
    """Hash and recipe of a ``recipe.json``; no recipe where its hash is not that of its fields."""
    try:
        recipe = Recipe.from_dict(dict(data["recipe"]))
        return (recipe.hash, recipe) if recipe.hash == data.get("hash") else ("", None)
    except (HusaiError, TypeError, ValueError, KeyError, AttributeError):
        return "", None


def _misshapen(item: Evidence) -> list[str]:
    """Weights that are no SAE's, or not of the width that the recipe beside them names."""
    out = []
    for name, tensors in item.beside.items():
        path = PurePosixPath(name)
        if path.name != WEIGHTS:
            continue
        shape = tensors.get("W_dec", ())
        if len(shape) != 2:
            out.append(f"rests on {name}, which holds no decoder")
            continue
        ending = f"{path.parent.parent}/recipe.json"
        for data in (d for n, d in _recipes(item).items() if n.endswith(ending)):
            wanted = [_width(data), data.get("d_out")]
            if any(w is not None and w != n for w, n in zip(wanted, shape, strict=True)):
                out.append(f"rests on {name}, whose decoder is {shape}, not {wanted} as its recipe")
    return out


def _width(data: Mapping[str, Any]) -> int | None:
    """Latents that a ``recipe.json`` names; None where training decides how many there are."""
    fields = data.get("resolved") or data.get("recipe") or {}
    width = fields.get("d_sae") if isinstance(fields, Mapping) else None
    decided = isinstance(width, int) and not fields.get("consensus_members")
    return width if decided else None

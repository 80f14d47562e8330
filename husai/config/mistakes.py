"""A typed model's errors in words for a reader: which key, what it holds, what was expected."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from pydantic import BaseModel, ValidationError

from husai.errors import nearest

# What pydantic puts into the place of an error besides the keys: the form of a value that may have
# several.
FORMS = ("int", "float", "str", "one", "each", "block", "union")
FORM_PREFIXES = ("function-", "list[", "dict[", "literal[", "constrained-", "tuple[", "union[")


def mistakes(error: ValidationError, model: Any) -> list[tuple[tuple[str, ...], str]]:
    """``(keys, phrase)`` of every mistake, once each; ``model`` is what the value was to be."""
    found = [(_keys(item["loc"], model), _phrase(item, model)) for item in error.errors()]
    return list(dict.fromkeys(found))


def _keys(loc: tuple, model: Any) -> tuple[str, ...]:
    """The keys that lead to a value, without the forms that pydantic tried and without the kind of
    a subject, which it names before the subject's own keys.
    """
    parts = [str(p) for p in loc]
    kind = 2 if parts[:1] == ["subjects"] else 0 if not isinstance(model, type) else None
    return tuple(
        p
        for i, p in enumerate(parts)
        if i != kind and p not in FORMS and not p.startswith(FORM_PREFIXES)
    )


def _phrase(item: dict, model: Any) -> str:
    value = item["input"]
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) < 80 else shown[:77] + "..."
    if item["type"] == "extra_forbidden":
        return f"unknown key, set to {shown}{_meant(item['loc'][-1], model)}"
    if item["type"] == "missing":
        return "missing; this key is required"
    if item["type"] in ("model_type", "dict_type"):
        return f"got {shown}, expected a block of keys"
    if item["type"] == "string_pattern_mismatch":
        return f"got {shown}, it should match {item['ctx']['pattern']}"
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = f"{float(value):.1e}".replace("e-0", "e-").replace("e+0", "e+")
            hint = f"YAML reads {value} as text here, write it as {number}"
            return f"got the text {shown}, expected a number; {hint}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"got {shown}, {message.replace('input should', 'it should')}"


def _meant(key: str, model: Any) -> str:
    """The known key that is most like an unknown one; one of the same name belongs elsewhere."""
    return nearest(key, [known for known in _known_keys(model) if known != key])


def _known_keys(model: Any) -> list[str]:
    """Every key of a model and of those in it."""
    names: list[str] = []
    stack = models_in(model)
    for one in stack:
        names += list(one.model_fields)
        for field in one.model_fields.values():
            stack += [m for m in models_in(field.annotation) if m not in stack]
    return names


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in models_in(part)]

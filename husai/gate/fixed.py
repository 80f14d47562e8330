"""Settings that a policy fixes: what the evidence must have been measured with, and on how much of
it at least. Whoever may choose k, the penalty or the data sets afterwards chooses the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from husai.errors import nearest
from husai.evidence import SCHEMA, Evidence
from husai.gate.policy import Policy

LEAST = "min_"
"""Beginning of the keys that ask for at least as many; every other key asks for the same value."""
KEYS = {
    "saebench": (
        *("engine", "pooling", "penalty", "gate_k", "dense_k"),
        *("min_datasets", "min_families"),
    ),
    "cebench": ("min_pairs",),
    "ood": ("pooling", "penalty", "gate_k", "min_datasets", "min_families"),
    "faithfulness": ("min_texts",),
}
"""What can be fixed, by evidence kind."""


def read_fixed(data: Any, wrong: Callable[[str, str], None]) -> dict[str, dict[str, Any]]:
    """The ``fixed`` section of a policy; ``wrong(where, what)`` takes each mistake."""
    if not isinstance(data, dict):
        wrong("fixed", f"expected evidence kinds ({', '.join(KEYS)}), each with its settings")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for kind, settings in data.items():
        if kind not in KEYS:
            wrong(f"fixed.{kind}", f"nothing can be fixed of it{nearest(kind, KEYS)}")
            continue
        if not isinstance(settings, dict):
            wrong(f"fixed.{kind}", f"expected settings from {', '.join(KEYS[kind])}")
            continue
        for key, value in settings.items():
            counts = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if key not in KEYS[kind]:
                wrong(f"fixed.{kind}.{key}", f"unknown setting{nearest(key, KEYS[kind])}")
            elif not counts and (key.startswith(LEAST) or key.endswith("_k")):
                wrong(f"fixed.{kind}.{key}", f"expected a positive integer, got {value!r}")
        found[kind] = dict(settings)
    return found


def deviations(fixed: Mapping[str, Any], items: Sequence[Evidence]) -> str:
    """How records of one kind differ from what is fixed for it; empty when they do not."""
    found = []
    for item in items:
        settings = stated(item)
        for key, wanted in fixed.items():
            value, label = settings.get(key.removeprefix(LEAST)), key.removeprefix(LEAST)
            if value is None:
                found.append(f"{item.label} does not say its {label}, which the policy fixes")
            elif key.startswith(LEAST) and value < wanted:
                found.append(f"{item.label} has {value} {label}, the policy asks for {wanted}")
            elif not key.startswith(LEAST) and value != wanted:
                found.append(f"{item.label} has {label} {value}, the policy fixes {wanted}")
    return "fails: " + "; ".join(found) if found else ""


def records_as_fixed(
    policy: Policy, kinds: Mapping[str, Mapping[str, Any]], **about: Any
) -> list[dict[str, Any]]:
    """Records with the metrics of ``kinds``, by evidence kind, that state exactly what a policy
    fixes: the small benchmarks of the self-test stand for the real ones.
    """
    head = {"schema": SCHEMA, "inputs": [], **about}
    names = {"datasets": "n_informative", "families": "n_families"}
    out = []
    for kind, metrics in kinds.items():
        fixed = policy.fixed.get(kind, {})
        least = {key.removeprefix(LEAST): n for key, n in fixed.items() if key.startswith(LEAST)}
        counts = {names.get(key, f"n_{key}"): n for key, n in least.items()}
        same = {key: value for key, value in fixed.items() if not key.startswith(LEAST)}
        out.append({**head, "kind": kind, "metrics": metrics, **counts, "probing": same})
    return out


def stated(item: Evidence) -> dict[str, Any]:
    """What a record was measured with, by the records of single SAEs that it rests on; by its own
    word where it rests on none. A setting that differs between them is shown as a list. The dense
    comparison's k is the candidate's own: a control is probed at the gate's k alone.
    """
    found = [_of_record(item.kind, item.record)]
    behind = [one for one in item.behind if one.kind == item.kind]
    own = [
        _of_record(one.kind, one.record) for one in behind if one.recipe_hash == item.recipe_hash
    ]
    controls = [
        _of_record(one.kind, one.record) | {"dense_k": (own or found)[0].get("dense_k")}
        for one in behind
        if one.recipe_hash != item.recipe_hash
    ]
    return _merged([*own, *controls] or found)


def _of_record(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    if kind in ("saebench", "ood"):
        from husai.probing.tables import counts

        found = counts(record["per_dataset"]) if record.get("per_dataset") else record
        said = {"datasets": found.get("n_informative"), "families": found.get("n_families")}
        return dict(record.get("probing") or {}) | said
    if kind == "cebench":
        return {"pairs": record.get("n_pairs")}
    return {"texts": len((record.get("texts") or {}).get("ablated", ())) or record.get("n_texts")}


def _merged(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One value by key where all agree; of several numbers of things the smallest."""
    merged: dict[str, Any] = {}
    for key in {key for one in found for key in one}:
        values = [one.get(key) for one in found]
        if all(value == values[0] for value in values):
            merged[key] = values[0]
        elif all(isinstance(value, int) for value in values):
            merged[key] = min(values)
        else:
            merged[key] = sorted({str(value) for value in values})
    return merged

"""One code version, one configuration and verified files behind all evidence of a decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from husai.evidence import Evidence
from husai.gate.inputs import weights_behind
from husai.provenance import canonical_json, hash_json

SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "latents of a probe": {"gate_k": ("integrity", "saebench", "cebench", "ood")},
    "penalty of a probe": {"penalty": ("saebench", "ood")},
    "rows of a data set": {"max_rows": ("saebench", "cebench", "ood")},
    "confirmation data sets": {
        "datasets": ("integrity", "saebench", "cebench"),
        "confirmation": ("cebench", "ood"),
    },
}
"""Settings that jobs of several kinds depend on: where the configuration slice of each kind states
them.

A partial rerun keeps them equal: whoever changes one runs every job again whose slice holds it.
"""


def one_version(items: Sequence[Evidence], *_: object) -> str:
    """Fails when the evidence was made by several versions of the code, naming each."""
    versions: dict[str, set[str]] = defaultdict(set)
    for item in items:
        versions[_made(item, "code_hash")].add(item.label)
    return _several(versions, "code versions")


def one_config(items: Sequence[Evidence], *_: object) -> str:
    """Fails when records name several run configurations, or cannot come from one configuration.

    Each kind of job hashes its own slice of the configuration, so hashes are compared within a
    kind. Across kinds, what slices have in common (:data:`SETTINGS`) must be equal, in the records
    and in those they rest on, and all kinds must rest on SAEs in common: the same recipe trained on
    other activations gives other weights."""
    runs: dict[str, set[str]] = defaultdict(set)
    slices: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for item in items:
        run = item.record.get("run_config_hash") or _made(item, "run_config_hash")
        if run:
            runs[str(run)].add(item.label)
        slices[item.kind][_made(item, "config_hash")].add(item.label)
    groups = {"run configurations": runs}
    groups |= {f"configurations of {kind}": values for kind, values in sorted(slices.items())}
    groups |= {f"values of {name}": _stated(items, places) for name, places in SETTINGS.items()}
    found = [*(_several(values, what) for what, values in groups.items()), _no_common_sae(items)]
    return "; ".join(filter(None, found))


def _stated(
    items: Sequence[Evidence], places: Mapping[str, tuple[str, ...]]
) -> dict[str, set[str]]:
    """Each value of a setting in the records and what they rest on, with the records behind it."""
    values: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for one in (item, *item.behind):
            config = one.config()
            for key, kinds in places.items():
                if key in config and one.kind in kinds:
                    values[_short(config[key])].add(item.label)
    return values


def _short(value: object) -> str:
    text = canonical_json(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({hash_json(value)[:8]})"


def _no_common_sae(items: Sequence[Evidence]) -> str:
    """Fails when the kinds of evidence that rest on SAEs have none in common."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for item in items:
        kinds[item.kind] |= weights_behind((item, *item.behind))
    kinds = {kind: weights for kind, weights in kinds.items() if weights}
    if not kinds or set.intersection(*kinds.values()):
        return ""
    first = min(kinds)
    apart = sorted(kind for kind in kinds if not kinds[kind] & kinds[first])
    named = f"none is common to {', '.join(sorted(kinds))}"
    if apart:
        named = f"{', '.join(apart)} share none with {first}"
    return f"fails: the evidence is about different SAEs, {named}"


def verified(items: Sequence[Evidence], unreadable: Sequence[str], *_: object) -> str:
    """Fails when a record is malformed, changed, unreadable, or rests on a lost or changed file."""
    bad = sorted(f"{e.label} {p}" for e in items for p in e.problems) + list(unreadable)
    return fails(bad if items else [*bad, "there is no evidence to verify"])


def fails(problems: Sequence[str], most: int = 6) -> str:
    """How a check says what is wrong, the first few of it; empty where nothing is."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "fails: " + "; ".join(problems[:most]) + more if problems else ""


def _made(item: Evidence, key: str) -> str:
    return str(item.provenance.get(key) or "")


def _several(values: Mapping[str, set[str]], what: str) -> str:
    if len(values) < 2:
        return ""
    groups = [
        f"{value or 'none named'} behind {', '.join(sorted(labels)[:4])}"
        for value, labels in sorted(values.items())
    ]
    return f"fails: the evidence is stale, {len(values)} {what}: " + "; ".join(groups)

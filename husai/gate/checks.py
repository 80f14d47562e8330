"""Checks on the evidence as a whole: one code version, one configuration, every hash verified. Empty text means it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from husai.gate.evidence import Evidence


def one_version(items: Sequence[Evidence], unreadable: Sequence[str]) -> str:
    """Fails when the evidence was made by several versions of the code, naming each."""
    versions: dict[str, set[str]] = defaultdict(set)
    for item in items:
        versions[_provenance(item, "code_hash")].add(item.label)
    return _several(versions, "code versions")


def one_config(items: Sequence[Evidence], unreadable: Sequence[str]) -> str:
    """Fails when records name several run configurations, or records of one kind have several configuration slices.

    Each kind of job hashes its own slice of the configuration, so slices are compared within a kind.
    """
    runs: dict[str, set[str]] = defaultdict(set)
    slices: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for item in items:
        run = item.record.get("run_config_hash") or _provenance(item, "run_config_hash")
        if run:
            runs[str(run)].add(item.label)
        slices[item.kind][_provenance(item, "config_hash")].add(item.label)
    found = [_several(runs, "run configurations")]
    found += [_several(values, f"configurations of {kind}") for kind, values in sorted(slices.items())]
    return "; ".join(text for text in found if text)


def verified(items: Sequence[Evidence], unreadable: Sequence[str]) -> str:
    """Fails when a record is malformed, changed, unreadable, or rests on a file that is missing or changed."""
    bad = sorted(f"{e.label} {p}" for e in items for p in e.problems) + list(unreadable)
    if not items:
        bad.append("there is no evidence to verify")
    more = f"; and {len(bad) - 6} more" if len(bad) > 6 else ""
    return "fails: " + "; ".join(bad[:6]) + more if bad else ""


CHECKS = {"one_version": one_version, "one_config": one_config, "verified": verified}


def _provenance(item: Evidence, key: str) -> str:
    about = item.record.get("provenance")
    return str(about.get(key) or "") if isinstance(about, Mapping) else ""


def _several(values: Mapping[str, set[str]], what: str) -> str:
    if len(values) < 2:
        return ""
    groups = [f"{value or 'none named'} behind {', '.join(sorted(labels)[:4])}" for value, labels in sorted(values.items())]
    return f"fails: the evidence is stale, {len(values)} {what}: " + "; ".join(groups)

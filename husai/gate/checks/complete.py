"""Whether a benchmark's record holds all that its settings name: every data set at every k, for
every seed, once, against the same baselines. A row that is left out, or stands twice, is a choice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from husai.evidence import Evidence
from husai.gate.inputs import WEIGHTS

BASELINES = {
    "saebench": ("family", "dense_val_lcb", "dense_auc", "neurons_auc", "pca_auc"),
    "ood": ("family", "dense_val_lcb", "llm_id", "llm_ood"),
}
"""What a row says of the subject, and not of the SAE."""
AXIS = {"saebench": "k", "ood": "seed"}
"""What a record has one row of for each data set."""


def incomplete(item: Evidence) -> list[str]:
    """What an item and the records behind it lack, hold twice, or state otherwise than measured."""
    out, grids = [], defaultdict(list)
    for one in {id(e): e for e in (item, *item.behind)}.values():
        said, config = one.record.get("probing"), one.config()
        who = "" if one is item else f"{one.label} "
        if isinstance(said, Mapping):
            shared = (key for key in sorted(said.keys() & config.keys()) if config[key] != [])
            apart = [key for key in shared if said[key] != config[key]]
            out += [f"{who}states another {key} than it was measured with" for key in apart]
        if one.kind in AXIS and (one.kind == "ood" or "seed" in one.record):
            rows = one.record.get("per_dataset") or []
            out += [f"{who}{text}" for text in _grid(one.kind, rows, *_named(one))]
            grids[one.kind, one.subject] += rows
        if one.kind == "cebench" and "seed" in one.record:
            out += [f"{who}{text}" for text in _pairs(one, item)]
    for (kind, _), rows in grids.items():
        out += _apart(kind, rows)
    return out


def _named(one: Evidence) -> tuple[Sequence[Any], Sequence[Any]]:
    """Data sets and values of the axis that a record's settings name; empty where they do not
    say."""
    config = one.config()
    if one.kind == "ood":
        return config.get("ood") or [], list(one.seeds)
    return config.get("datasets") or [], config.get("ks") or []


def _grid(
    kind: str, rows: Iterable[Mapping[str, Any]], names: Sequence[Any], values: Sequence[Any]
) -> list[str]:
    axis = AXIS[kind]
    found = Counter((row["dataset"], row.get(axis)) for row in rows)
    wanted = {*product(names or {d for d, _ in found}, values or {v for _, v in found})}
    out = [f"has two rows of {d} at {axis} {v}" for (d, v), n in found.items() if n > 1]
    out += [f"has no row of {d} at {axis} {v}" for d, v in sorted(wanted - {*found}, key=str)]
    out += [f"has a row of {d} at {axis} {v}" for d, v in sorted({*found} - wanted, key=str)]
    return out[:1]


def _apart(kind: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Baselines that differ between rows of one data set, at one k where there are several."""
    found: dict[Hashable, set] = defaultdict(set)
    for row in rows:
        at = (row["dataset"], row.get("k") if kind == "saebench" else None)
        found[at].add(tuple(row.get(name) for name in BASELINES[kind]))
    return [
        f"rests on several baselines of {d}" for (d, _), said in found.items() if len(said) > 1
    ][:1]


def _pairs(one: Evidence, item: Evidence) -> list[str]:
    """Pairs and width of a CE-Bench record that are not what it holds, and rests on."""
    record = one.record
    held = {len(values) for values in record["per_pair"].values()}
    said = {record.get("n_pairs"), one.config().get("n_pairs", record.get("n_pairs"))}
    out = [] if held == said else [f"holds {sorted(held)} pairs and names {sorted(said, key=str)}"]
    for entry in one.inputs:
        path = str(entry["path"])
        shape = item.beside.get(path, {}).get("W_dec", ()) if path.endswith(WEIGHTS) else ()
        if len(shape) == 2 and shape[0] != record["d_sae"]:
            out.append(f"names {record['d_sae']} latents of weights that hold {shape[0]}")
    return out

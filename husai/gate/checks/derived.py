"""Evidence is derived, not believed: each record must rest on the files that its kind needs, and
its metrics must follow from the values stored in it and behind it. One way for ``gate``, ``claim``
and ``verify``."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from husai.cebench.bound import score_bound
from husai.errors import MALFORMED, HusaiError
from husai.evidence import Evidence, Metric, read_metric
from husai.gate.checks.coherent import fails
from husai.gate.checks.complete import incomplete
from husai.gate.checks.integrity import integrity_metrics
from husai.gate.checks.roles import bound
from husai.gate.inputs import WEIGHTS
from husai.probing.paired import metrics
from husai.probing.tables import drop_metric, probing_metrics
from husai.provenance import failure, finite
from husai.statistics import ensemble_metrics, jackknife_t
from husai.statistics.ensemble import SINGLE
from husai.statistics.recovered import faithfulness_metrics, losses_of, recovered_interval
from husai.stress import paired_probes, probing_difference, stress_metrics

RELATIVE, ABSOLUTE = 1e-9, 1e-12
"""How far a number derived again may lie from the one that was written: the sums of another machine
differ in their last digits.
"""
NOT_GATED = {"stability": SINGLE, "saebench": ("auc",)}
"""Metrics that are reported only, or (``shared_init_pairs``) judged as part of the integrity
record, and that nothing stored beside them gives."""
STRESS = ("random_model", "transcoder")
KINDS = ("integrity", "stability", *STRESS, "ood", "saebench", "cebench", "faithfulness")
"""Kinds that policies gate and that rest on trained SAEs."""
RESTS_ON_RECORDS = ("integrity", *STRESS, "saebench", "cebench", "faithfulness")
"""Kinds whose record over seeds is derived from the records that it rests on."""
_SEED = re.compile(r"seed-?\d+")


def derived(items: Sequence[Evidence], *_: object) -> str:
    """Fails when a record from a file lacks what its kind rests on, or does not follow from it."""
    items = [e for e in items if e.path and not e.problems]
    subjects = sorted({e.subject for e in items})
    apart = f"records are about several subjects: {', '.join(subjects)}"
    bad = [apart] * (len(subjects) > 1)
    bad += [f"{e.label} {text}" for e in items for text in (*unfounded(e), *_twins(e, items))]
    return fails(sorted(set(bad)))


def _twins(item: Evidence, items: Sequence[Evidence]) -> list[str]:
    """Metrics of the judged stability record that differ from those of the same recipe's record
    behind another item: what the others rest on is what is judged.
    """
    if item.kind != "stability":
        return []
    twins = {b.path: b for e in items for b in e.behind if b.kind == item.kind}
    out = []
    for twin in (t for t in twins.values() if t.recipe_hash == item.recipe_hash):
        names = sorted({*item.metrics, *twin.metrics})
        pairs = {n: (item.metrics.get(n), twin.metrics.get(n)) for n in names}
        if apart := [name for name, pair in pairs.items() if not same_metric(*pair)]:
            said = f"{', '.join(apart)} differ from {twin.label}, which other evidence rests on"
            out.append(f"says otherwise than what the rest is about: {said}")
    return out


def unfounded(item: Evidence) -> list[str]:
    """What a record lacks, and which of its metrics do not follow; nothing for a failed one, and
    for a kind that no shipped policy gates."""
    if item.kind not in KINDS or failure(item.record) is not None:
        return []
    return [*_lacking(item), *bound(item), *differences(item)]


def _lacking(item: Evidence) -> list[str]:
    """Weights of as many SAEs of one recipe as the record names seeds."""
    folders: dict[PurePosixPath, set[str]] = defaultdict(set)
    for one in (item, *item.behind):
        for entry in one.inputs:
            path = PurePosixPath(str(entry["path"]))
            if path.name == WEIGHTS and _SEED.fullmatch(path.parent.name):
                folders[path.parent.parent].add(str(entry.get("sha256")))
    found = max(map(len, folders.values()), default=0)
    if not item.n_seeds:
        return ["names no seeds"]
    resting = f"rests on the weights (seed*/{WEIGHTS}) of {found} SAEs"
    return [f"names {item.n_seeds} seeds but {resting}"] if found < item.n_seeds else []


def differences(item: Evidence) -> list[str]:
    """Metrics that do not follow from what is stored in and behind the record; missing rows."""
    if item.kind not in KINDS:
        return []
    if not isinstance(item.record.get("metrics"), Mapping):
        return ["has no metrics"]
    try:
        rows = incomplete(item)
        again, source = _again(item)
    except (*MALFORMED, HusaiError) as error:
        return [f"its metrics cannot be derived again ({type(error).__name__}: {error})"]
    return [*rows, *_compared(item.metrics, again, source, NOT_GATED.get(item.kind, ()))]


def _again(item: Evidence) -> tuple[Mapping[str, Metric | None], str]:
    """The metrics of a record, measured values taken as given, and what they are derived from."""
    record = item.record
    if "seed" in record and item.kind in SINGLES:
        return SINGLES[item.kind](record), "values per data set, pair or text"
    if item.kind == "stability":
        return ensemble_metrics(record), "pairwise values and nulls"
    if item.kind in STRESS:
        pair = [b for b in item.behind if b.kind == "stability"][:2]
        if len(pair) < 2 or pair[0].recipe_hash != item.recipe_hash:
            raise ValueError("it rests on no two stability records, the first of its own recipe")
        again = stress_metrics(item.kind, *(b.record for b in pair))
        if not (rows := paired_probes(*_singles(item, "saebench"))):
            return again, "two stability records"
        again["delta_probing"] = probing_difference(rows)
        return again, "two stability records and probes"
    if item.kind == "ood":
        return _ood(record), "values per data set"
    if item.kind == "integrity":
        return _integrity(item), "inputs"
    own, control = _singles(item, item.kind)
    if {r.get("seed") for r in own} != set(item.seeds) or not control:
        raise ValueError("it does not rest on a record of each of its seeds and of a control")
    if item.kind == "saebench":
        return probing_metrics(own, control), "records per seed"
    if item.kind == "faithfulness":
        losses_of([*own, *control])  # refuses those of other texts
        return faithfulness_metrics(losses_of(own), losses_of(control)), "losses per text"
    from husai.cebench.evidence import recipe_metrics

    return recipe_metrics(own, control), "records per seed"


def _probed(record: Mapping[str, Any]) -> dict[str, Metric]:
    settings = record["probing"]
    if not any("dense_val_lcb" in row for row in record["per_dataset"]):
        return {}  # an SAE of the randomised subject: AUCs without baselines
    return metrics(record["per_dataset"], settings["gate_k"], settings["dense_k"])


def _contrasted(record: Mapping[str, Any]) -> dict[str, Metric]:
    scores = {name: float(np.mean(values)) for name, values in record["per_pair"].items()}
    shares = {f"{name}_fraction": value / record["bound"] for name, value in scores.items()}
    known = scores | shares | {"bound": score_bound(record["d_sae"]), "l0": record["l0"]}
    own = {name: read_metric(entry) for name, entry in record["metrics"].items()}
    return {name: replace(own.get(name, Metric(None)), value=v) for name, v in known.items()}


def _spliced(record: Mapping[str, Any]) -> dict[str, Metric]:
    texts = record["texts"]
    return {"recovered": recovered_interval(texts["spliced"], texts["ablated"])}


SINGLES = {"saebench": _probed, "cebench": _contrasted, "faithfulness": _spliced}
"""How the metrics of one SAE's record follow from the values beside them."""


def _singles(item: Evidence, kind: str) -> tuple[list[dict], list[dict]]:
    """Records of one kind behind an item, in its order: the candidate's, and those of others."""
    behind = [b for b in item.behind if b.kind == kind]
    own = [dict(b.record) for b in behind if b.recipe_hash == item.recipe_hash]
    return own, [dict(b.record) for b in behind if b.recipe_hash != item.recipe_hash]


def _ood(record: Mapping[str, Any]) -> dict[str, Metric]:
    old = jackknife_t(record["alphabetical"]["per_seed"])
    return drop_metric(record["per_dataset"]) | {"ood_drop": old}


def _integrity(item: Evidence) -> dict[str, Metric]:
    def ending(text: str) -> Mapping[str, Any]:
        found = [data for name, data in item.beside.items() if name.endswith(text)]
        if len(found) != 1:
            raise ValueError(f"it rests on {len(found)} files named {text}, not on one")
        return found[0]

    own = [b for b in item.behind if b.kind == "stability" and b.recipe_hash == item.recipe_hash]
    if not own:
        raise ValueError("it rests on no stability record of its recipe")
    subject = f"subjects/{item.subject}"
    return integrity_metrics(
        ending(f"{subject}/model/metrics.json").get("leak_probe"),
        ending(f"{subject}/probes/manifest.json")["text_overlap_rows"],
        ending("recipe.json"),
        own[0].metrics.get("shared_init_pairs"),
    )


def _compared(
    metrics: Mapping[str, Metric],
    again: Mapping[str, Metric | None],
    source: str,
    single: Sequence[str] = (),
) -> list[str]:
    again = {name: None if m is None else read_metric(finite(m)) for name, m in again.items()}
    out = [
        f"metric {name} cannot be derived from its {source}"
        for name in metrics
        if name not in again and name not in single
    ]
    return out + [
        f"metric {name} is {_shown(metrics.get(name))} but its {source} give {_shown(value)}"
        for name, value in again.items()
        if not same_metric(metrics.get(name), value)
    ]


def same_metric(a: Metric | None, b: Metric | None) -> bool:
    """Whether two metrics say the same: value, bounds (at every level) and n."""
    if a is None or b is None:
        return a is b
    if a.problem or len(a.bounds) != len(b.bounds):
        return False
    bounds = all(alike(dict(x), dict(y)) for x, y in zip(a.bounds, b.bounds, strict=True))
    return bounds and all(
        alike(getattr(a, name), getattr(b, name)) for name in ("value", "lcb", "ucb", "n")
    )


def alike(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same, numbers nearly; of two objects what both hold."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(alike(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return a == b


def _shown(metric: Metric | None) -> str:
    if metric is None:
        return "missing"
    if metric.problem:
        return f"not a measured value: it {metric.problem}"
    return f"{metric.value} [{metric.lcb}, {metric.ucb}] (n = {metric.n})"

"""Tables of paired probing results over informative data sets: one SAE's AUC less a baseline's or a
control's, data set by data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from husai.evidence import Metric
from husai.statistics import crossed_metric

INFORMATIVE = 0.60
"""A data set is informative where the lower bound of the dense probe's validation AUC reaches this:
where the subject itself does not tell the classes apart, no SAE on it can."""
NONE_INFORMATIVE = (
    f"no data set is informative: nowhere does the lower bound of the dense probe's validation AUC "
    f"reach {INFORMATIVE:.2f}"
)


def informative(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """``{data set: family}`` of the informative ones among rows of single data sets."""
    return {r["dataset"]: r["family"] for r in rows if r["dense_val_lcb"] >= INFORMATIVE}


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many informative data sets there are, in how many families."""
    found = informative(rows)
    return {"n_informative": len(found), "n_families": len(set(found.values()))}


def aucs(record: dict, k: int, name: str = "auc") -> dict[str, float]:
    """``{data set: AUC}`` of one SAE (or of its baseline ``dense_auc``, ...) at a fixed k, of the
    informative data sets.
    """
    counted = informative(record["per_dataset"])
    rows = (row for row in record["per_dataset"] if row["k"] == k)
    return {row["dataset"]: row[name] for row in rows if row["dataset"] in counted}


def probe_table(
    records: Sequence[dict], k: int, against: Sequence[dict] | str
) -> tuple[np.ndarray, list[str]]:
    """Paired deltas of AUC ``(n_seeds, n_datasets)`` at a fixed k on the informative data sets, and
    the families of these.

    ``against`` is a baseline column (``dense_auc``, ``neurons_auc``, ``pca_auc``) or the control's
    records: the same seed where there is one, otherwise the mean over the control's seeds."""
    names = sorted(aucs(records[0], k))
    table = []
    for record in records:
        ours = aucs(record, k)
        if isinstance(against, str):
            theirs = aucs(record, k, against)
        else:
            controls = [c for c in against if c["seed"] == record["seed"]] or list(against)
            theirs = {n: float(np.mean([aucs(c, k)[n] for c in controls])) for n in names}
        table.append([ours[n] - theirs[n] for n in names])
    family = informative(records[0]["per_dataset"])
    return np.array(table, dtype=np.float64), [family[n] for n in names]


def probing_metrics(records: Sequence[dict], controls: Sequence[dict]) -> dict[str, Metric]:
    """``delta_vs_frozen`` (the frozen-decoder control), ``_neurons`` and ``_pca`` at the gate's k,
    ``delta_vs_dense`` at its own, larger one: paired, crossed over seeds and families of the
    informative data sets; nothing where there is none.

    The settings are those that the records were measured with."""
    settings = records[0]["probing"]
    k, dense_k = settings["gate_k"], settings["dense_k"]
    compared = {"frozen": (k, controls), "neurons": (k, "neurons_auc"), "pca": (k, "pca_auc")}
    compared["dense"] = (dense_k, "dense_auc")
    tables = {name: probe_table(records, *how) for name, how in compared.items()}
    return {
        f"delta_vs_{name}": crossed_metric(*table) for name, table in tables.items() if table[1]
    }


def drop_metric(rows: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """``excess_drop``: (SAE in domain - SAE out) - (dense in domain - dense out), crossed over
    seeds and families of the informative data sets; nothing where there is none.

    Parameters
    ----------
    rows : sequence of mapping
        One per SAE and data set; of every data set the SAEs in the same order.
    """
    counted = informative(rows)
    drops: dict[str, list[float]] = {name: [] for name in counted}
    for row in rows:
        if row["dataset"] in counted:
            drop = (row["sae_id"] - row["sae_ood"]) - (row["llm_id"] - row["llm_ood"])
            drops[row["dataset"]].append(drop)
    if not counted:
        return {}
    return {"excess_drop": crossed_metric(np.transpose(list(drops.values())), [*counted.values()])}

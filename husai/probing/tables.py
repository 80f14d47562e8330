"""Tables of paired probing results: one SAE's AUC less a baseline's or a control's, data set by data
set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from husai.evidence import Metric
from husai.statistics import crossed_metric


def aucs(record: dict, k: int, name: str = "auc") -> dict[str, float]:
    """``{data set: AUC}`` of one SAE (or of its baseline ``dense_auc``, ...) at a fixed k."""
    return {row["dataset"]: row[name] for row in record["per_dataset"] if row["k"] == k}


def families(record: dict) -> dict[str, str]:
    """``{data set: family}``."""
    return {row["dataset"]: row["family"] for row in record["per_dataset"]}


def probe_table(
    records: Sequence[dict], k: int, against: Sequence[dict] | str
) -> tuple[np.ndarray, list[str]]:
    """Paired deltas of AUC ``(n_seeds, n_datasets)`` at a fixed k, and the data sets' families.

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
    family = families(records[0])
    return np.array(table, dtype=np.float64), [family[n] for n in names]


def probing_metrics(records: Sequence[dict], controls: Sequence[dict]) -> dict[str, Metric]:
    """``delta_vs_frozen``, ``_neurons`` and ``_pca`` at the gate's k, ``delta_vs_dense`` at its own
    larger k: paired, crossed over seeds and families.

    The settings are those that the records were measured with; ``controls`` are the records of the
    frozen-decoder control.
    """
    settings = records[0]["probing"]
    k = settings["gate_k"]
    compared = {"frozen": (k, controls), "dense": (settings.get("dense_k", k), "dense_auc")}
    compared |= {name: (k, f"{name}_auc") for name in ("neurons", "pca")}
    return {
        f"delta_vs_{name}": crossed_metric(*probe_table(records, at, against))
        for name, (at, against) in compared.items()
    }

"""Probes of one SAE paired with their baselines, data set by data set, and their summaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from husai.errors import HusaiError
from husai.evidence import Metric
from husai.probing.tables import informative

CYCLE3_MAX_K = 5
"""Largest k of the original campaign's probes."""
BASELINES = ("dense", "neurons", "pca")


def paired_rows(results: Sequence[dict], baselines: dict[str, dict]) -> list[dict]:
    """One row per data set and k, with the baselines of the same data set and k beside it.

    Parameters
    ----------
    results : sequence of dict
        Fields of :class:`husai.probing.protocol.ProbeResult`.
    baselines : dict
        ``{data set: {"dense": {...}, "neurons": {k: {...}}, "pca": {k: {...}}}}``.

    Raises
    ------
    HusaiError
        The baselines have no entry for the data set of a row at its k.
    """
    rows = []
    for result in results:
        base, k = baselines.get(result["dataset"]), str(result["k"])
        if base is None or k not in base["neurons"]:
            raise HusaiError(
                f"data set '{result['dataset']}': the baselines have no entry at k = {k}; run "
                "husai saebench --baselines-only with the same spec"
            )
        beside = {
            "informative": base["informative"],
            "dense_val_lcb": base["validation"]["lcb"],
            "dense_auc": base["dense"]["auc"],
            "neurons_auc": base["neurons"][k]["auc"],
            "pca_auc": base["pca"][k]["auc"],
        }
        rows.append(result | beside)
    return rows


def at_k(rows: Sequence[dict], k: int, name: str = "auc") -> np.ndarray:
    """Column ``name`` at one k, over data sets in their order: ``(n_datasets,)``, float64."""
    return np.array([row[name] for row in rows if row["k"] == k], dtype=np.float64)


def validation_k(rows: Sequence[dict]) -> int:
    """The k with the best mean validation AUC: the only choice that looks at no test row."""
    return max(sorted({row["k"] for row in rows}), key=lambda k: at_k(rows, k, "val_auc").mean())


def metrics(rows: Sequence[dict], gate_k: int, dense_k: int) -> dict[str, Metric]:
    """Mean AUC per k and mean paired deltas, against the dense probe at ``dense_k``, otherwise at
    ``gate_k``, over the informative data sets; nothing where there is none. One SAE is one seed, so
    no metric has an interval.
    """
    counted = informative(rows)
    rows = [row for row in rows if row["dataset"] in counted]
    if not rows:
        return {}
    out = {f"auc_k{k}": _mean(at_k(rows, k)) for k in sorted({row["k"] for row in rows})}
    for name in BASELINES:
        k = dense_k if name == "dense" else gate_k
        out[f"{name}_auc_k{k}"] = _mean(at_k(rows, k, f"{name}_auc"))
        out[f"delta_vs_{name}"] = _mean(at_k(rows, k) - at_k(rows, k, f"{name}_auc"))
    return out


def _mean(values: np.ndarray) -> Metric:
    return Metric(float(values.mean()), n=1, method=f"mean over {len(values)} data sets, one seed")


def cycle3_summary(rows: Sequence[dict], dense: dict[str, dict]) -> dict[str, Any]:
    """The summary the ``cycle3`` policy reads: best k <= 5 *on test AUC* minus the dense baseline.
    Kept for comparison, not for claims.

    The baseline is the mean over exactly the data sets of ``rows``.
    """
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    ks = sorted({row["k"] for row in rows})
    ks = [k for k in ks if k <= CYCLE3_MAX_K] or ks
    scores = ("accuracy", "auc", "f1")
    by_k = [
        {"k": k} | {f"test_{score}": float(at_k(rows, k, score).mean()) for score in scores}
        for k in ks
    ]
    llm = {f"llm_test_{s}": float(np.mean([dense[n][s] for n in names])) for s in scores}
    best = max(by_k, key=lambda row: row["test_auc"])
    return {
        "sae_metrics_by_k": by_k,
        "best_by_auc": best,
        "llm_metrics": llm,
        "best_minus_llm_auc": best["test_auc"] - llm["llm_test_auc"],
        "flaw": "k is chosen on test AUC",
    }

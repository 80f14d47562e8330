"""The record of one SAE's sparse probing: paired with its baselines data set by data set, in our
shape and in SAEBench's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import Metric
from husai.probing.protocol import ProbeResult

CYCLE3_MAX_K = 5
BASELINES = ("dense", "neurons", "pca")
SAEBENCH_VERSION = "0.6.0"
SAEBENCH_KS = (1, 2, 5, 10, 20, 50, 100)


def paired_rows(results: Sequence[ProbeResult | dict], baselines: dict[str, dict]) -> list[dict]:
    """One row per data set and k, with the baselines of the same data set and k beside it.

    Parameters
    ----------
    baselines : dict
        ``{data set: {"dense": {...}, "neurons": {k: {...}}, "pca": {k: {...}}}}``.
    """
    rows = []
    for result in results:
        row = dict(result) if isinstance(result, dict) else result._asdict()
        base, k = baselines.get(row["dataset"]), str(row["k"])
        if base is None or k not in base["neurons"]:
            raise HusaiError(
                f"data set '{row['dataset']}': the baselines have no entry at k = {k}; run husai "
                "saebench --baselines-only with the same spec"
            )
        row.update(
            dense_auc=base["dense"]["auc"],
            neurons_auc=base["neurons"][k]["auc"],
            pca_auc=base["pca"][k]["auc"],
        )
        rows.append(row)
    return rows


def at_k(rows: Sequence[dict], k: int, name: str = "auc") -> np.ndarray:
    """Column ``name`` at one k, over data sets in their order."""
    return np.array([row[name] for row in rows if row["k"] == k], dtype=np.float64)


def validation_k(rows: Sequence[dict]) -> int:
    """The k with the best mean validation AUC: the only choice of k that does not look at test
    rows.
    """
    return max(sorted({row["k"] for row in rows}), key=lambda k: at_k(rows, k, "val_auc").mean())


def metrics(rows: Sequence[dict], gate_k: int) -> dict[str, dict]:
    """Mean AUC per k and mean paired deltas at ``gate_k``; one SAE is one seed, so no metric has an
    interval.
    """
    ks = sorted({row["k"] for row in rows})
    if gate_k not in ks:
        raise HusaiError(
            f"external.probing.gate_k: {gate_k} is not among the probed ks {ks}; add it to "
            "external.probing.ks"
        )
    out = {f"auc_k{k}": _mean(at_k(rows, k)) for k in ks}
    for name in BASELINES:
        out[f"{name}_auc_k{gate_k}"] = _mean(at_k(rows, gate_k, f"{name}_auc"))
        out[f"delta_vs_{name}"] = _mean(at_k(rows, gate_k) - at_k(rows, gate_k, f"{name}_auc"))
    return out


def _mean(values: np.ndarray) -> dict:
    return Metric(float(values.mean()), n=1, method=f"mean over {len(values)} data sets, one seed")


def cycle3_summary(rows: Sequence[dict], dense: dict[str, dict]) -> dict[str, Any]:
    """The summary the ``cycle3`` policy reads: best k <= 5 *on test AUC* minus the dense baseline.
    Kept for comparison, not for claims.

    The baseline is the mean over exactly the data sets of ``rows``.
    """
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    ks = sorted({row["k"] for row in rows})
    ks = [k for k in ks if k <= CYCLE3_MAX_K] or ks
    by_k = [
        {
            "k": k,
            **{
                f"test_{out}": float(at_k(rows, k, name).mean())
                for out, name in (("accuracy", "accuracy"), ("auc", "auc"), ("f1", "f1"))
            },
        }
        for k in ks
    ]
    llm = {
        f"llm_test_{name}": float(np.mean([dense[n][name] for n in names]))
        for name in ("accuracy", "auc", "f1")
    }
    best = max(by_k, key=lambda row: row["test_auc"])
    return {
        "sae_metrics_by_k": by_k,
        "best_by_auc": best,
        "llm_metrics": llm,
        "best_minus_llm_auc": best["test_auc"] - llm["llm_test_auc"],
        "flaw": "k is chosen on test AUC",
    }


def to_saebench_schema(record: dict, dense: dict[str, dict] | None = None) -> dict[str, Any]:
    """A record of :func:`husai.jobs.external.saebench_job` as SAEBench publishes its
    ``sparse_probing_sae_probes`` results.

    Field names follow ``SparseProbingSaeProbesEvalOutput`` of sae-bench 0.6.0; the eval id is
    derived from the record, so equal records give equal files. ``dense`` adds accuracy and F1 of
    the baseline, by data set."""
    rows, config = record["per_dataset"], record["probing"]
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    ks = sorted({row["k"] for row in rows})
    details = [_detail(name, rows, (dense or {}).get(name)) for name in names]
    by_k = {
        str(k): {f"test_{m}": float(at_k(rows, k, m).mean()) for m in ("accuracy", "auc", "f1")}
        for k in ks
    }
    llm = {
        key: float(np.mean([d[key] for d in details]))
        for key in details[0]
        if key.startswith("llm_") and details[0][key] is not None
    }
    identity = provenance.hash_json([record["recipe_hash"], record.get("seed"), config, rows])
    seconds = provenance.utc_now() if "provenance" not in record else record["provenance"]["time"]
    return {
        "eval_type_id": "sparse_probing_sae_probes",
        "eval_config": {
            "model_name": record["subject"],
            "random_seed": config["probe_seed"],
            "dataset_names": names,
            "reg_type": config["penalty"],
            "setting": "normal",
            "ks": ks,
            "binarize": False,
            "results_path": "",
            "model_cache_path": None,
            "include_llm_baseline": True,
            "baseline_method": "logreg",
        },
        "eval_id": str(uuid.UUID(identity[:32])),
        "datetime_epoch_millis": _milliseconds(seconds),
        "eval_result_metrics": {
            "llm": {f"llm_test_{m}": llm.get(f"llm_test_{m}") for m in ("accuracy", "auc", "f1")},
            "sae": _named_fields(by_k),
        },
        "eval_result_details": details,
        "sae_metrics_by_k": by_k,
        "eval_result_unstructured": None,
        "sae_bench_commit_hash": f"schema of sae-bench {SAEBENCH_VERSION}",
        "sae_lens_id": record["recipe"],
        "sae_lens_release_id": f"{record['subject']}_{record['recipe_hash']}_seed{record.get('seed')}",
        "sae_lens_version": provenance.library_versions().get("sae-lens"),
        "sae_cfg_dict": dict(record.get("sae_meta") or {}),
    }


def _detail(name: str, rows: Sequence[dict], dense: dict | None) -> dict:
    mine = [row for row in rows if row["dataset"] == name]
    scores = {
        str(row["k"]): {f"test_{m}": row[m] for m in ("accuracy", "auc", "f1")} for row in mine
    }
    return {
        "dataset_name": name,
        "llm_test_accuracy": (dense or {}).get("accuracy"),
        "llm_test_auc": mine[0]["dense_auc"],
        "llm_test_f1": (dense or {}).get("f1"),
        **_named_fields(scores),
        "sae_metrics_by_k": scores,
    }


def _named_fields(by_k: dict[str, dict[str, float]]) -> dict[str, float]:
    """``sae_top_{k}_...`` of the k that SAEBench's classes name; every k is in
    ``sae_metrics_by_k``.
    """
    return {
        f"sae_top_{k}_{m}": v
        for k, values in by_k.items()
        if int(k) in SAEBENCH_KS
        for m, v in values.items()
    }


def _milliseconds(time: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(time).timestamp() * 1000)

"""Results of SAEBench's and CE-Bench's own programs: read back, compared with ours data set by data
set, and ours written as SAEBench writes its own.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from husai import provenance
from husai.errors import HusaiError
from husai.official.preflight import SAEBENCH_VERSION
from husai.probing.paired import at_k
from husai.shown import markdown_table

AUC_TOLERANCE = 0.002
"""By how much a probe of the fast engine may differ from the official one's on an informative data
set: see benchmarks/README.md."""
RELATIVE_TOLERANCE = 1.0e-3
"""Of CE-Bench scores, which both compute in float32 or better."""
SAEBENCH_KS = (1, 2, 5, 10, 20, 50, 100)
"""The values of k for which SAEBench's result classes have fields."""
MEASURES = ("accuracy", "auc", "f1")
SAEBENCH_KEY = re.compile(r"sae_top_(\d+)_test_auc")
CEBENCH_NAMES = ("contrastive_score_mean", "independent_score_mean", "interpretability_score_mean")

Table = dict[tuple[str, str], float]


def read_saebench(path: str | Path) -> Table:
    """``{(data set, measure): test AUC}`` of a SAEBench sparse-probing result; measures are ``sae
    k=5`` and ``llm``.

    Raises
    ------
    HusaiError
        No result of SAEBench's sparse probing through sae-probes.
    """
    record = provenance.read_json(path)
    details = record.get("eval_result_details") if isinstance(record, dict) else None
    if not isinstance(details, list):
        raise HusaiError(
            f"{path}: no SAEBench result (eval_result_details is missing); name the program's own "
            "result file"
        )
    table: Table = {}
    for row in details:
        name = row.get("dataset_name")
        if name is None:
            raise HusaiError(
                f"{path}: a row of eval_result_details has no dataset_name; results of another "
                "evaluation cannot be compared"
            )
        for key, value in row.items():
            found = SAEBENCH_KEY.fullmatch(key)
            if found and value is not None:
                table[name, f"sae k={found[1]}"] = float(value)
        for k, scores in (row.get("sae_metrics_by_k") or {}).items():
            if scores.get("test_auc") is not None:
                table[name, f"sae k={k}"] = float(scores["test_auc"])
        if row.get("llm_test_auc") is not None:
            table[name, "llm"] = float(row["llm_test_auc"])
    return table


def read_cebench(path: str | Path) -> Table:
    """``{("all pairs", score): mean over pairs of the highest z-score}`` of a CE-Bench result, or
    of our record of one SAE.

    Raises
    ------
    HusaiError
        The file is no JSON, or no CE-Bench result with every score.
    """
    record = provenance.read_json(path)
    try:
        if isinstance(record, dict) and isinstance(record.get("custom_metrics"), dict):
            return {
                ("all pairs", name): float(record["custom_metrics"][f"{name}_max"])
                for name in CEBENCH_NAMES
            }
        return {("all pairs", name): float(record[name]["max"]) for name in CEBENCH_NAMES}
    except (KeyError, TypeError):
        raise HusaiError(
            f"{path}: no CE-Bench result ({CEBENCH_NAMES[0]}.max is missing); name the program's "
            "own results.json"
        ) from None


def compare(
    ours: Mapping, official: Mapping, tolerance: float, relative: bool = False
) -> dict[str, Any]:
    """Difference ours minus official of every entry both have, largest first, and what only one of
    them has.

    ``within_tolerance`` is False when nothing could be compared.
    """
    rows = []
    for key in ours.keys() & official.keys():
        difference = ours[key] - official[key]
        scale = max(abs(official[key]), 1e-12) if relative else 1.0
        rows.append(
            {
                "dataset": key[0],
                "measure": key[1],
                "ours": ours[key],
                "official": official[key],
                "difference": difference,
                "within": abs(difference) <= tolerance * scale,
            }
        )
    rows.sort(key=lambda r: (-abs(r["difference"]), r["dataset"], r["measure"]))
    return {
        "rows": rows,
        "n": len(rows),
        "max_abs_difference": abs(rows[0]["difference"]) if rows else None,
        "mean_difference": sum(r["difference"] for r in rows) / len(rows) if rows else None,
        "tolerance": tolerance,
        "relative": relative,
        "within_tolerance": bool(rows) and all(r["within"] for r in rows),
        "only_ours": sorted(" ".join(k) for k in ours.keys() - official.keys()),
        "only_official": sorted(" ".join(k) for k in official.keys() - ours.keys()),
    }


def compare_files(program: str, results: Sequence[str | Path], ours: str | Path) -> dict[str, Any]:
    """Compare the result files of ``saebench`` or ``cebench`` with our record of the same SAE.

    Raises
    ------
    HusaiError
        ``cebench`` has more than one result file, or a file is not what it should be.
    """
    if program == "saebench":
        official = {key: value for path in results for key, value in read_saebench(path).items()}
        return compare(our_probing(ours), official, AUC_TOLERANCE)
    if len(results) != 1:
        raise HusaiError(
            f"official cebench: {len(results)} result files, one SAE is compared; name its file in "
            "'results'"
        )
    return compare(read_cebench(ours), read_cebench(results[0]), RELATIVE_TOLERANCE, relative=True)


def our_probing(path: str | Path) -> Table:
    """AUCs of our sparse-probing record, or of our own SAEBench-format output.

    Raises
    ------
    HusaiError
        The file is no JSON, or holds no AUC per data set.
    """
    record = provenance.read_json(path)
    if isinstance(record, dict) and "eval_result_details" in record:
        return read_saebench(path)
    try:
        table: Table = {}
        for row in record["per_dataset"]:
            table[row["dataset"], f"sae k={row['k']}"] = float(row["auc"])
            if row.get("dense_auc") is not None:
                table[row["dataset"], "llm"] = float(row["dense_auc"])
        return table
    except (KeyError, TypeError, AttributeError):
        raise HusaiError(
            f"{path}: holds no AUC per data set; give a saebench.json that this pipeline wrote"
        ) from None


def write_comparison(comparison: dict, out: str | Path) -> list[Path]:
    """Write ``comparison.json`` and ``comparison.md`` in folder ``out``; returns their paths."""
    out = Path(out)
    provenance.write_json(out / "comparison.json", comparison)
    provenance.write_text(out / "comparison.md", comparison_table(comparison))
    return [out / "comparison.json", out / "comparison.md"]


def comparison_table(comparison: dict) -> str:
    """The comparison as Markdown."""
    kind = " of the official value" if comparison["relative"] else ""
    verdict = "DIFFER" if comparison["n"] else "have nothing in common"
    verdict = "agree" if comparison["within_tolerance"] else verdict
    tolerance = f"{comparison['tolerance']:g}{kind}"
    lines = [f"{comparison['n']} values {verdict} (tolerance {tolerance}).", ""]
    if comparison["rows"]:
        rows = []
        for row in comparison["rows"]:
            difference = f"{row['difference']:+.5f}" + ("" if row["within"] else " **")
            values = f"{row['ours']:.5f}", f"{row['official']:.5f}", difference
            rows.append([row["dataset"], row["measure"], *values])
        lines += markdown_table(["data set", "measure", "ours", "official", "difference"], rows)
    for side in ("ours", "official"):
        missing = comparison[f"only_{side}"]
        if missing:
            lines += ["", f"Only in {side}: {', '.join(missing)}"]
    return "\n".join(lines) + "\n"


def to_saebench_schema(record: dict, dense: dict[str, dict] | None = None) -> dict[str, Any]:
    """A record of :func:`husai.jobs.saebench.saebench_job` as SAEBench publishes its
    ``sparse_probing_sae_probes`` results.

    Field names follow ``SparseProbingSaeProbesEvalOutput`` of sae-bench 0.6.0; the eval id is
    derived from the record, so equal records give equal files. ``dense`` adds accuracy and F1 of
    the baseline, by data set."""
    rows, config = record["per_dataset"], record["probing"]
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    ks = sorted({row["k"] for row in rows})
    details = [_detail(name, rows, (dense or {}).get(name, {})) for name in names]
    by_k = {str(k): {f"test_{m}": float(at_k(rows, k, m).mean()) for m in MEASURES} for k in ks}
    llm = {
        key: float(np.mean([d[key] for d in details]))
        for key in details[0]
        if key.startswith("llm_") and details[0][key] is not None
    }
    identity = provenance.hash_json([record["recipe_hash"], record.get("seed"), config, rows])
    time = record["provenance"]["time"] if "provenance" in record else provenance.utc_now()
    return {
        "eval_type_id": "sparse_probing_sae_probes",
        "eval_config": _eval_config(record["subject"], config, names, ks),
        "eval_id": str(uuid.UUID(identity[:32])),
        "datetime_epoch_millis": int(datetime.fromisoformat(time).timestamp() * 1000),
        "eval_result_metrics": {
            "llm": {f"llm_test_{m}": llm.get(f"llm_test_{m}") for m in MEASURES},
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


def _eval_config(subject: str, config: dict, names: list[str], ks: list[int]) -> dict[str, Any]:
    return {
        "model_name": subject,
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
    }


def _detail(name: str, rows: Sequence[dict], dense: dict) -> dict:
    mine = [row for row in rows if row["dataset"] == name]
    scores = {str(row["k"]): {f"test_{m}": row[m] for m in MEASURES} for row in mine}
    return {
        "dataset_name": name,
        "llm_test_accuracy": dense.get("accuracy"),
        "llm_test_auc": mine[0]["dense_auc"],
        "llm_test_f1": dense.get("f1"),
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

"""Reads frontier, scaling and assignment results, the original's and this pipeline's (which are
written alike), as the candidates that selectors compare.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from husai.cycle3.artifacts import (
    INTERPRETABILITY,
    cebench_attainable,
    first_number,
    read_artifact,
)
from husai.errors import HusaiError
from husai.selection.candidates import EXTERNAL, Candidate


def load_candidates(
    frontier: Sequence = (), scaling: Sequence = (), assignment: Sequence = ()
) -> list[Candidate]:
    """Candidates of all result files, in the order given: frontier, scaling, assignment.

    Raises
    ------
    HusaiError
        When no file is given, or one is missing, broken, or has no ``records`` list.
    """
    if not (frontier or scaling or assignment):
        raise HusaiError(
            "give at least one --frontier-results, --scaling-results or --assignment-results file"
        )
    out: list[Candidate] = []
    for source, paths in (("frontier", frontier), ("scaling", scaling), ("assignment", assignment)):
        for path in paths:
            data = read_artifact(path)
            records = data.get("records")
            if not isinstance(records, list) or not all(isinstance(r, Mapping) for r in records):
                raise HusaiError(
                    f"{path}: has no list of 'records'; is it a file of {source} results?"
                )
            build = _assignment if source == "assignment" else _candidate
            found = (build(record, source, str(path), _at(data, "config")) for record in records)
            out += [c for c in found if c is not None]
    return out


def _at(record: Any, *keys: str) -> Any:
    """Nested value, or an empty dict where the way to it is missing or not an object."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return {} if record is None else record


def _number(*values: Any) -> float | None:
    """First number; NaN counts as not measured."""
    number = first_number(values)
    return None if number is None or math.isnan(number) else number


def _width(*places: Any) -> int | None:
    number = _number(
        *(_at(p, "d_sae") for p in places), *(_at(p, "sae_meta", "d_sae") for p in places)
    )
    return int(number) if number is not None and number >= 2 else None


def _candidate(record: Mapping, source: str, path: str, config: Any) -> Candidate | None:
    sae, ce = _at(record, "saebench"), _at(record, "cebench")
    metrics = {
        "saebench_delta": _number(
            _at(sae, "summary", "best_minus_llm_auc"), _at(sae, "best_minus_llm_auc")
        ),
        "cebench_interp_delta_vs_baseline": _number(
            _at(ce, "delta_vs_matched_baseline", INTERPRETABILITY)
        ),
        "train_explained_variance": _number(
            _at(record, "train_metrics", "explained_variance"),
            _at(record, "train_summary", "final_metrics", "explained_variance"),
        ),
        "cebench_interpretability_max": _number(
            _at(ce, "custom_metrics", INTERPRETABILITY),
            _at(ce, "cebench_summary", INTERPRETABILITY),
        ),
    }
    measured = any(metrics[k] is not None for k in EXTERNAL)
    checkpoint = record.get("checkpoint")
    if not isinstance(checkpoint, str) and ("checkpoint" in record or not measured):
        return None
    architectures = (
        record.get("architecture"),
        _at(ce, "sae_meta", "architecture"),
        _at(sae, "sae_meta", "architecture"),
    )
    architecture = next((a for a in architectures if isinstance(a, str)), "unknown")
    names = (
        record.get("hook_name"),
        _at(ce, "config", "hook_name"),
        _at(sae, "config", "hook_name"),
    )
    condition_id = record.get("condition_id")
    if not isinstance(condition_id, str):
        condition_id = f"{record.get('architecture', 'unknown')}_seed{record.get('seed', 'na')}"
    strict = _at(record, "strict")
    return Candidate(
        condition_id=condition_id,
        source=source,
        seed=record.get("seed"),
        architecture=architecture,
        metrics=metrics,
        returncodes={k: record.get(f"{k}_returncode") for k in ("saebench", "cebench")},
        checkpoint=checkpoint,
        hook_name=next((n for n in names if isinstance(n, str)), None),
        recipe=record.get("recipe"),
        resolved=record.get("resolved"),
        recipe_hash=record.get("recipe_hash"),
        strict={k: _number(v) for k, v in strict.items()} if isinstance(strict, Mapping) else {},
        gated=gated if isinstance(gated := _at(record, "gated"), Mapping) else {},
        cebench_max=cebench_attainable(record),
        d_sae=_width(record, sae, ce),
        source_results=path,
    )


def _assignment(record: Mapping, source: str, path: str, config: Any) -> Candidate | None:
    checkpoint = next(
        (
            record[k]
            for k in ("selected_checkpoint", "checkpoint")
            if isinstance(record.get(k), str)
        ),
        None,
    )
    external = _at(record, "external_eval") or record
    sae, ce, chosen = (
        _at(external, "saebench"),
        _at(external, "cebench"),
        _at(record, "selection_metrics"),
    )
    metrics = {
        "saebench_delta": _number(
            _at(chosen, "saebench_delta"), _at(sae, "summary", "best_minus_llm_auc")
        ),
        "cebench_interp_delta_vs_baseline": _number(
            _at(chosen, "cebench_delta"), _at(ce, "delta_vs_matched_baseline", INTERPRETABILITY)
        ),
        "train_explained_variance": _number(
            _at(record, "explained_variance", "mean"), record.get("explained_variance")
        ),
        "cebench_interpretability_max": _number(
            _at(chosen, "cebench_interpretability_max"), _at(ce, "custom_metrics", INTERPRETABILITY)
        ),
    }
    if checkpoint is None and not any(metrics[k] is not None for k in EXTERNAL):
        return None
    match = re.search(r"seed(\d+)", checkpoint or "")
    seed = int(match.group(1)) if match else record.get("seed")
    name = f"assignv3_lambda{record.get('lambda_consistency')}"
    hook_name = _at(config, "hook_name")
    name += "" if seed is None else f"_seed{seed}"
    return Candidate(
        condition_id=str(record.get("condition_id") or name),
        source=source,
        seed=seed,
        architecture=str(record.get("architecture") or "topk"),
        metrics=metrics,
        returncodes={k: _at(external, f"{k}_returncode") or None for k in ("saebench", "cebench")},
        checkpoint=checkpoint,
        hook_name=hook_name if isinstance(hook_name, str) else None,
        recipe=record.get("recipe"),
        resolved=record.get("resolved"),
        recipe_hash=record.get("recipe_hash"),
        strict={k: _number(v) for k, v in _at(record, "strict").items()},
        cebench_max=cebench_attainable(external),
        d_sae=_width(record, sae, ce),
        source_results=path,
    )

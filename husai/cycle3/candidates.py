"""Reads frontier, scaling and assignment results, the original's and this pipeline's (which are
written alike), as the candidates that selectors compare.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from husai.cycle3.artifacts import INTERPRETABILITY, cebench_attainable, first_number, read_artifact
from husai.errors import HusaiError
from husai.selection.candidates import EXTERNAL, METRICS, Candidate


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
            read = _assigned if source == "assignment" else _condition
            for record in records:
                own = read(record, _at(data, "config", "hook_name"))
                if own is not None:
                    out.append(_candidate(record, own, source, str(path)))
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


def _text(*values: Any) -> str | None:
    """First text."""
    return next((value for value in values if isinstance(value, str)), None)


def _candidate(record: Mapping, own: dict[str, Any], source: str, path: str) -> Candidate:
    """What all records say alike, beside what their kind says in its ``own`` way."""
    strict, gated = _at(record, "strict"), _at(record, "gated")
    return Candidate(
        source=source,
        recipe=record.get("recipe"),
        resolved=record.get("resolved"),
        recipe_hash=record.get("recipe_hash"),
        strict={k: _number(v) for k, v in strict.items()} if isinstance(strict, Mapping) else {},
        gated=gated if isinstance(gated, Mapping) else {},
        source_results=path,
        **own,
    )


def _metrics(*values: float | None) -> dict[str, float | None]:
    return dict(zip(METRICS, values, strict=True))


def _condition(record: Mapping, _: Any) -> dict[str, Any] | None:
    """Fields of a record of the frontier or of scaling; None of one without an SAE."""
    sae, ce = _at(record, "saebench"), _at(record, "cebench")
    metrics = _metrics(
        _number(_at(sae, "summary", "best_minus_llm_auc"), _at(sae, "best_minus_llm_auc")),
        _number(_at(ce, "delta_vs_matched_baseline", INTERPRETABILITY)),
        _number(
            _at(record, "train_metrics", "explained_variance"),
            _at(record, "train_summary", "final_metrics", "explained_variance"),
        ),
        _number(
            _at(ce, "custom_metrics", INTERPRETABILITY),
            _at(ce, "cebench_summary", INTERPRETABILITY),
        ),
    )
    measured = any(metrics[k] is not None for k in EXTERNAL)
    checkpoint = record.get("checkpoint")
    if not isinstance(checkpoint, str) and ("checkpoint" in record or not measured):
        return None
    name = f"{record.get('architecture', 'unknown')}_seed{record.get('seed', 'na')}"
    return {
        "condition_id": _text(record.get("condition_id"), name),
        "seed": record.get("seed"),
        "architecture": _text(
            record.get("architecture"),
            _at(ce, "sae_meta", "architecture"),
            _at(sae, "sae_meta", "architecture"),
            "unknown",
        ),
        "metrics": metrics,
        "returncodes": {k: record.get(f"{k}_returncode") for k in ("saebench", "cebench")},
        "checkpoint": checkpoint,
        "hook_name": _text(
            record.get("hook_name"), _at(ce, "config", "hook_name"), _at(sae, "config", "hook_name")
        ),
        "cebench_max": cebench_attainable(record),
    }


def _assigned(record: Mapping, hook_name: Any) -> dict[str, Any] | None:
    """Fields of a record of the assignment study; None of one without an SAE."""
    checkpoint = _text(record.get("selected_checkpoint"), record.get("checkpoint"))
    external = _at(record, "external_eval") or record
    sae, ce = _at(external, "saebench"), _at(external, "cebench")
    chosen = _at(record, "selection_metrics")
    metrics = _metrics(
        _number(_at(chosen, "saebench_delta"), _at(sae, "summary", "best_minus_llm_auc")),
        _number(
            _at(chosen, "cebench_delta"), _at(ce, "delta_vs_matched_baseline", INTERPRETABILITY)
        ),
        _number(_at(record, "explained_variance", "mean"), record.get("explained_variance")),
        _number(
            _at(chosen, "cebench_interpretability_max"), _at(ce, "custom_metrics", INTERPRETABILITY)
        ),
    )
    if checkpoint is None and not any(metrics[k] is not None for k in EXTERNAL):
        return None
    match = re.search(r"seed(\d+)", checkpoint or "")
    seed = int(match.group(1)) if match else record.get("seed")
    name = f"assignv3_lambda{record.get('lambda_consistency')}"
    name += "" if seed is None else f"_seed{seed}"
    return {
        "condition_id": str(record.get("condition_id") or name),
        "seed": seed,
        "architecture": str(record.get("architecture") or "topk"),
        "metrics": metrics,
        "returncodes": {
            k: _at(external, f"{k}_returncode") or None for k in ("saebench", "cebench")
        },
        "checkpoint": checkpoint,
        "hook_name": _text(hook_name),
        "cebench_max": cebench_attainable(external),
    }

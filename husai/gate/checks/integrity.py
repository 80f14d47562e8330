"""The metrics of integrity from what training, probing and stability noted. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from husai.evidence import Metric, read_metric

NOT_APPLICABLE = "not_applicable"
"""Key of a leak probe that says why there is none: an encoder predicts no target."""


def integrity_metrics(
    leak: Mapping[str, Any] | None,
    overlap_rows: int,
    described: Mapping[str, Any],
    starts: Metric | None,
) -> dict[str, Metric]:
    """``{name: metric}`` of an integrity record.

    Parameters
    ----------
    leak : mapping or None
        ``leak_probe`` of the subject's ``metrics.json``.
    overlap_rows : int
        Test rows of the probes that occur in the text trained on.
    described : mapping
        ``recipe.json`` of the trained recipe: ``final`` has what each seed's training noted.
    starts : Metric or None
        ``shared_init_pairs`` of the stability record.

    Raises
    ------
    ValueError
        ``final`` is not that of every seed.
    """
    final, n = described["final"], len(described["seeds"])
    if len(final) != n:
        raise ValueError(f"recipe.json holds what {len(final)} of {n} seeds ended with")
    brought = bool(described["recipe"].get("brought"))
    declared = " (declared by the brought SAEs)" if brought else ""
    overlap = Metric(overlap_rows, n=n, method="test rows found in the training text, by hash")
    starts = starts or Metric(None, method="how the brought SAEs were initialised is not known")
    return {
        "leak_excess": _leak(leak),
        "plateau_gain": _largest(final, "plateau_gain", declared),
        "cos_to_init": _largest(final, "cos_to_init", declared),
        "dead_fraction": _largest(final, "dead_fraction"),
        "text_overlap_rows": _largest(final, "text_overlap_rows", declared) if brought else overlap,
        "shared_init_pairs": replace(starts, n=n),
    }


def _leak(leak: Mapping[str, Any] | None) -> Metric:
    """Excess of the leak probe. Where the subject says that the probe does not apply, nothing was
    measured: the excess is 0 by definition, and there is no interval.
    """
    if leak is None:
        return Metric(None, method="the subject's metrics.json holds no leak probe")
    if NOT_APPLICABLE in leak:
        why = str(leak[NOT_APPLICABLE])
        return Metric(0.0, method=f"not measured, does not apply: {why}")
    numbers = {"value": leak["excess"], "lcb": leak["excess_lcb"], "n": leak["n"]}
    return read_metric(numbers | {"method": "leak probe accuracy minus chance"})


def _largest(final: Sequence[Mapping[str, Any]], name: str, of: str = "") -> Metric:
    values = [f.get(name) for f in final]
    if None in values:
        return Metric(
            None,
            n=len(values),
            method=f"not known of SAEs that were not trained here: their metadata give no {name}",
        )
    return Metric(float(np.max(values)), n=len(values), method=f"largest over seeds{of}")

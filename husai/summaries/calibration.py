"""Calibration: choose k by the conservative gain over the null, then check the choice on fresh
seeds beside a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import HusaiError
from husai.planning.specs import CalibrationSpec
from husai.recipe import CALIBRATED
from husai.report.summary import StageTable, errorbar
from husai.stability.record import (
    StabilityRecord,
    common_nulls,
    condition_row,
    failed_records,
    load_records,
)
from husai.statistics import jackknife_difference

COLUMNS = [
    "role",
    "recipe",
    "k",
    "n_seeds",
    "S",
    "pwmcc",
    "null_worst",
    "conservative_delta",
    "explained_variance",
    "l0",
    "eligible",
]
L0_TOLERANCE = 0.05
"""Distance from the target, relative, within which an L0 counts as matched."""


def choose(
    spec: CalibrationSpec, records: dict[str, StabilityRecord]
) -> tuple[StabilityRecord, list[dict]]:
    """The eligible candidate with the highest conservative delta (the default k where none is
    assessable), and one row per candidate.

    The conservative delta is the lower bound of PWMCC less the upper bound of the worst null.

    Raises
    ------
    HusaiError
        No candidate reaches ``min_explained_variance``.
    """
    section = spec.calibration
    candidates = [
        r
        for r in records.values()
        if r.recipe.k in section.k and set(section.seeds) <= set(r.seeds) and not r.recipe.tag
    ]
    candidates.sort(key=lambda r: r.recipe.k)
    rows, eligible, nulls = [], [], common_nulls(candidates)
    for record in candidates:
        row = {"role": "search", **condition_row(record, section.seeds, nulls)}
        row["conservative_delta"] = record.conservative_delta(section.seeds, nulls)
        row["eligible"] = row["explained_variance"].value >= section.min_explained_variance
        rows.append(row)
        if row["eligible"]:
            is_default = record.recipe.k == section.default_k
            eligible.append((row["conservative_delta"], is_default, record))
    if not eligible:
        best = max(rows, key=lambda row: row["explained_variance"].value)
        raise HusaiError(
            f"calibration: no k in {section.k} reaches min_explained_variance "
            f"{section.min_explained_variance} (best {best['explained_variance'].value:.3f} at k = "
            f"{best['k']}); lower the floor, add larger k or train longer"
        )
    # Where no candidate is assessable nothing speaks against the default.
    return max(eligible, key=lambda found: found[:2])[2], rows


def selected(spec: CalibrationSpec, inputs: Sequence[str]) -> dict[str, Any]:
    """``{subject: {"k": ...}}`` and why: what ``results/calibration/selected.json`` holds."""
    section = spec.calibration
    chosen, rows = choose(spec, load_records(inputs))
    return {
        "schema": "husai.calibration/1",
        section.subject: {"k": chosen.recipe.k},
        "default": {"k": chosen.recipe.k},
        "rule": "highest conservative delta (lower bound of PWMCC less upper bound of the worst "
        "null) among candidates above the floor on "
        "explained variance; the default k where none is assessable",
        "search": rows,
        "inputs": provenance.file_records(inputs),
        "provenance": provenance.provenance(spec.values(), section.seeds),
    }


def table(spec: CalibrationSpec, inputs: Sequence[str]) -> StageTable:
    """Search, retrained choice against its control, L0 matching.

    Parameters
    ----------
    inputs : sequence of path
        ``selected.json`` and the stability evidence of every recipe of the stage.
    """
    section, records = spec.calibration, load_records(inputs)
    choice = provenance.read_json(next(p for p in inputs if Path(p).name == "selected.json"))
    k = choice[section.subject]["k"]
    _, rows = choose(spec, records)
    chosen = next(r for r in records.values() if r.recipe.k == CALIBRATED)
    control = next(r for r in records.values() if r.recipe.tag.endswith("control"))
    seeds, nulls = section.retrain_seeds, common_nulls([chosen, control])
    rows += [
        {"role": role, **condition_row(r, seeds, nulls), "eligible": None}
        for role, r in (("chosen", chosen), ("control", control))
    ]
    matched = [
        match_row(r, k, section.seeds) for r in records.values() if r.recipe.l0_target == CALIBRATED
    ]
    gain = jackknife_difference(
        *(r.s_matrix(seeds, r.null(among=nulls, seeds=seeds)) for r in (chosen, control))
    )
    failed = failed_records(inputs)
    negatives = [f"{name}: failed: {reason}" for name, reason in failed.items()]
    headline = (
        f"Chosen k = {k}; on fresh seeds S(chosen) - S(k = {section.default_k}) = "
        f"{gain.value:+.3f} [{gain.lcb:+.3f}, {gain.ucb:+.3f}] over {gain.n} seeds each."
    )
    notes = [
        *negatives,
        f"Rule: {choice['rule']}; the floor is {section.min_explained_variance}.",
        "Each k is measured against the worst null of its own shape, of the kinds measured for "
        "every k, over as many seeds; the retrained seeds took no part in the search.",
        matching_note(matched, k),
    ]
    lost = [
        {"role": "L0-matched", "recipe": name, "k": k, "status": f"failed: {why}"}
        for name, why in failed.items()
    ]
    figures = [errorbar("k", "S", "Stability over k", "role")]
    extra = {"selected_k": k, "gain_over_control": gain, "negatives": negatives}
    return StageTable([*rows, *matched, *lost], COLUMNS, headline, notes, figures, extra)


def matching_note(rows: Sequence[dict], k: int) -> str:
    """Which of the L0-matched architectures missed their target."""
    if not rows:
        return "No architecture was L0-matched."
    off = [
        f"{r['recipe']}: L0 {r['l0'].value:.2f} for a target of {k}"
        for r in rows
        if r["l0_error"] > L0_TOLERANCE
    ]
    told = f"outside 5%: {'; '.join(off)}" if off else "all within 5% of the target"
    return f"L0 matching: {told}."


def match_row(record: StabilityRecord, k: int, seeds: Sequence[int]) -> dict:
    """How close an L0-matched architecture came to its target."""
    row = {"role": "L0-matched", **condition_row(record, seeds), "k": k, "eligible": None}
    return row | {"l0_error": abs(row["l0"].value - k) / k}

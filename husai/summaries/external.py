"""Frontier and scaling tables: one row per recipe over its seeds, one record per SAE for the
selectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from husai.cebench.evidence import delta_table, mismatch, with_baseline
from husai.evidence import Metric
from husai.planning.specs import FrontierSpec, ScalingSpec
from husai.probing.tables import INFORMATIVE, NONE_INFORMATIVE, aucs, probe_table
from husai.report.axes import axis_tables
from husai.report.summary import StageTable, errorbar
from husai.stability.record import failed_records, load_records
from husai.statistics import crossed_interval, jackknife_t
from husai.summaries.faithfulness import load_losses
from husai.summaries.gated import gated_metrics
from husai.summaries.measured import RecipeRecords, control_of, load_measured

COLUMNS = {
    "frontier": [
        "recipe",
        "n_seeds",
        "explained_variance",
        "l0",
        "S",
        "faithfulness",
        "auc",
        "delta_vs_frozen",
        "delta_vs_dense",
        "cebench_delta_vs_frozen",
        "pareto",
        "status",
    ],
    "scaling": [
        "n_rows",
        "hook_name",
        "d_sae",
        "n_seeds",
        "explained_variance",
        "auc",
        "delta_vs_frozen",
        "delta_vs_dense",
        "cebench_delta_vs_frozen",
        "pareto",
        "status",
    ],
}
AXES = {
    "frontier": ("architecture", "d_sae", "target_l0", "options"),
    "scaling": ("n_rows", "hook_name", "d_sae"),
}
MEASURED = (
    "explained_variance",
    "auc",
    "delta_vs_frozen",
    "delta_vs_dense",
    "cebench_delta_vs_frozen",
)


def external_row(measured: RecipeRecords, control: RecipeRecords, k: int) -> dict:
    """One recipe: training quality, mean AUC, deltas with crossed intervals over seeds and
    families.
    """
    r = measured.recipe
    frozen, family = probe_table(measured.saebench, k, control.saebench)
    dense, _ = probe_table(measured.saebench, measured.dense_k, "dense_auc")
    auc = [list(aucs(record, k).values()) for record in measured.saebench]
    ce, ce_family = delta_table(measured.cebench, control.cebench)
    problems = sorted({mismatch(a, b) for a in measured.cebench for b in control.cebench} - {None})
    return {
        "recipe": r.id,
        "recipe_hash": measured.described["hash"],
        "architecture": r.architecture,
        "hook_name": r.hook_name,
        "d_sae": measured.resolved.d_sae,
        "n_rows": r.n_rows,
        "n_seeds": len(measured.seeds),
        "explained_variance": jackknife_t(measured.final("explained_variance")),
        "target_l0": measured.l0,
        "options": "-".join(r.options) or "none",
        "l0": jackknife_t(measured.final("l0")),
        "n_informative": len(family),
        "auc": jackknife_t([float(np.mean(one)) for one in auc]) if family else None,
        "delta_vs_frozen": crossed_interval(frozen, family) if family else None,
        "delta_vs_dense": crossed_interval(dense, family) if family else None,
        "cebench_delta_vs_frozen": crossed_interval(ce, ce_family),
        "cebench_control": "; ".join(problems) or "matched",
        "status": "measured",
    }


def failed_row(measured: RecipeRecords, reason: str) -> dict:
    """The row of a recipe that could not be trained or measured: what it was to be, and why it is
    not.
    """
    keys = ("architecture", "hook_name", "d_sae", "n_rows")
    return {
        "recipe": measured.recipe.id,
        "recipe_hash": measured.described["hash"],
        **{key: getattr(measured.resolved, key) for key in keys},
        "n_seeds": len(measured.seeds),
        "status": f"failed: {reason}",
    }


def selector_records(measured: RecipeRecords, control: RecipeRecords, k: int) -> list[dict]:
    """One record per SAE, in the shape the selectors read."""
    by_seed = {r["seed"]: r for r in control.cebench}
    frozen, family = probe_table(measured.saebench, k, control.saebench)
    dense, _ = probe_table(measured.saebench, measured.dense_k, "dense_auc")
    recipe, out = measured.recipe, []
    for i, (sae, ce) in enumerate(zip(measured.saebench, measured.cebench, strict=True)):
        baseline = by_seed.get(ce["seed"], control.cebench[0])
        paired = with_baseline(ce, baseline)
        out.append(
            {
                "condition_id": f"{recipe.id}_seed{sae['seed']}",
                "architecture": recipe.architecture,
                "seed": sae["seed"],
                "d_sae": measured.resolved.d_sae,
                "hook_name": recipe.hook_name,
                "checkpoint": f"results/saes/{recipe.subject}/{recipe.id}/seed{sae['seed']}",
                "recipe": measured.described["recipe"],
                "resolved": measured.described.get("resolved"),
                "recipe_hash": measured.described["hash"],
                "train_metrics": {
                    "explained_variance": measured.final("explained_variance")[i],
                    "l0": measured.final("l0")[i],
                },
                "saebench": {"summary": sae["summary"]},
                "cebench": {
                    key: paired[key] for key in ("custom_metrics", "delta_vs_matched_baseline")
                },
                "strict": {
                    "delta_vs_frozen": float(frozen[i].mean()) if family else None,
                    "delta_vs_dense": float(dense[i].mean()) if family else None,
                    "cebench_delta_vs_frozen_fraction": paired["metrics"]["delta_vs_frozen"].value,
                },
            }
        )
    return out


def compare(inputs: Sequence[str], k: int) -> tuple[list[dict], list[dict], list[dict]]:
    """Rows of the recipes that were measured, rows of those that failed, and the selectors' records
    of the first; controls whose weights are held in part are rows, but no candidates.
    """
    pool, stability, unstable = load_measured(inputs), load_records(inputs), failed_records(inputs)
    losses = load_losses(inputs)
    rows, failed, records = [], [], []
    for measured in (m for m in pool.values() if not m.recipe.frozen_decoder):
        reason, control = measured.failure or unstable.get(measured.recipe.id), None
        if not reason:
            control = control_of(measured, pool)
            if control.failure:
                reason = f"its control {control.recipe.id} failed: {control.failure}"
        if reason:
            failed.append(failed_row(measured, reason))
            continue
        row = external_row(measured, control, k)
        gated = gated_metrics(
            measured.described,
            (measured.saebench, control.saebench),
            (measured.cebench, control.cebench),
            (losses.get(measured.recipe.id), losses.get(control.recipe.id)),
            stability.get(measured.recipe.id),
        )
        shown = {"faithfulness": "faithfulness.recovered", "S": "stability.S"}
        row |= {key: gated[name] for key, name in shown.items() if name in gated}
        rows.append(row)
        if not measured.recipe.is_control:
            records += [r | {"gated": gated} for r in selector_records(measured, control, k)]
    return rows, failed, records


def table(stage: str, spec: FrontierSpec | ScalingSpec, inputs: Sequence[str]) -> StageTable:
    """The table of ``frontier`` or ``scaling``; ``records`` feed the selectors.

    A recipe that failed, or whose control did, is a row with the reason; it takes no part in the
    Pareto front and is no candidate.

    Parameters
    ----------
    inputs : sequence of path
        External records of every SAE and, for the frontier, stability evidence.
    """
    rows, failed, records = compare(inputs, spec.gate_k)
    mark_pareto(rows)
    title = "AUC gain over the frozen-decoder control"
    notes = [
        f"AUCs and deltas are over informative data sets, where the lower bound of the dense probe's "
        f"validation AUC reaches {INFORMATIVE:.2f}; delta_vs_dense is at dense_k.",
        "Deltas are paired per data set; intervals are the widest of the crossed (seeds x "
        "families) bootstrap and the family-level and seed-level t intervals.",
    ]
    notes += [
        f"{row['recipe']}: CE-Bench control not matched ({row['cebench_control']})."
        for row in rows
        if row["cebench_control"] != "matched"
    ]
    return StageTable(
        [*rows, *failed],
        COLUMNS[stage],
        headline_of(rows, failed, spec.gate_k),
        notes,
        figures=[errorbar("recipe", "delta_vs_frozen", title)],
        extra={
            "records": records,
            "negatives": [f"{row['recipe']}: {row['status']}" for row in failed],
            "axes": axis_tables(rows, AXES[stage], MEASURED),
        },
    )


def mark_pareto(rows: list[dict]) -> None:
    """Set ``pareto`` on every row that no other row beats in both deltas; what was not measured is
    beaten by anything.
    """
    keys = ("delta_vs_frozen", "cebench_delta_vs_frozen")
    points = [[value_of(row[key]) for key in keys] for row in rows]
    for row, mine in zip(rows, points, strict=True):
        row["pareto"] = not any(
            all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine
            for other in points
        )


def value_of(found: Metric | None) -> float:
    """The value of a measured delta; minus infinity where there is none."""
    return -math.inf if found is None else found.value


def headline_of(rows: list[dict], failed: list[dict], k: int) -> str:
    """The table in one sentence."""
    lost = f" Failed: {', '.join(row['recipe'] for row in failed)}." if failed else ""
    if not rows:
        return f"No recipe could be measured.{lost}"
    best = max(rows, key=lambda r: value_of(r["delta_vs_frozen"]))
    if best["delta_vs_frozen"] is None:
        return f"{len(rows)} recipes; {NONE_INFORMATIVE}.{lost}"
    gain = f"{best['delta_vs_frozen'].value:+.4f} AUC"
    return (
        f"{len(rows)} recipes at probe k = {k}; best against its frozen control: "
        f"{best['recipe']} ({gain}).{lost}"
    )

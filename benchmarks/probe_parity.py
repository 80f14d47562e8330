"""How far the fast probing engine's figures are from the official one's, and what to compare that
with.
"""

from __future__ import annotations

import statistics


def parity(found: list, official: dict) -> list[dict]:
    """Every probe's difference to the official engine."""
    rows = []
    for r in found:
        theirs = official[r.dataset, r.k]
        rows.append(
            {
                "dataset": r.dataset,
                "k": r.k,
                "auc": r.auc,
                "official_auc": theirs["test_auc"],
                "difference": r.auc - theirs["test_auc"],
                "val_difference": r.val_auc - theirs["val_auc"],
                "same_latents": r.latents == theirs["indices"],
            }
        )
    return rows


def summary(table: dict[str, list[dict]], noise: dict) -> list[str]:
    """Lines of the printed parity table: per SAE, data sets that count and data sets at chance.

    ``spread`` is the mean standard deviation of a probe's AUC over seeds of the protocol."""
    lines = [
        f"{'SAE':10} {'data sets':12} {'probes':>6} {'same latents':>12} {'max |dAUC|':>11} "
        f"{'mean |dAUC|':>11} {'> 0.002':>8} {'spread':>8}"
    ]
    for name, kind in [(n, kind) for n in table for kind in ("informative", "at chance")]:
        rows = [r for r in table[name] if r["informative"] == (kind == "informative")]
        if not rows:
            continue
        size = [abs(r["difference"]) for r in rows]
        spread = statistics.mean(noise[name][r["dataset"], r["k"]] for r in rows)
        same = sum(r["same_latents"] for r in rows)
        lines.append(
            f"{name:10} {kind:12} {len(rows):>6} {same:>12} {max(size):>11.6f} "
            f"{sum(size) / len(size):>11.6f} {sum(d > 0.002 for d in size):>8} {spread:>8.4f}"
        )
    return lines

"""A comparison of SAEs as text for a terminal."""

from __future__ import annotations

import math
from typing import Any

from husai.sae.hooks import differences, place

LABELS = {
    "pwmcc": "PWMCC",
    "S": "S (chance-corrected)",
    "pw_mcc": "PW-MCC (signed, one to one)",
    "shared_fraction": "shared fraction",
    "activation_r": "activation r",
}


def render(record: dict[str, Any]) -> str:
    """A ``husai.comparison/1`` record: SAEs, pairwise PWMCC, flags, nulls, intervals, verdict."""
    labels = [f"S{i + 1}" for i in range(len(record["saes"]))]
    parts = [
        _saes(record["saes"], labels),
        _matrix(record["pairwise"]["pwmcc"], labels),
        _flags(record, labels),
        _values(record),
    ]
    return "\n\n".join(p for p in parts if p) + f"\n\nverdict: {record['verdict']}\n"


def _saes(saes: list[dict], labels: list[str]) -> str:
    """One line per SAE; a checkpoint read wrongly shows in its L0 and explained variance."""
    measured = "l0" in saes[0]
    sizes = ["architecture", "d_in", "d_sae", "living"]
    named = [n for n in place({}) if any(s[n] for s in saes)]
    places = [name.removesuffix("_name") for name in named]
    quality = ["L0", "EV"] if measured else []
    rows = [["", *sizes, *quality, "seed", *places, "format", "path"]]
    for label, s in zip(labels, saes, strict=True):
        row = [label, *(str(s[name]) for name in sizes)]
        row += [f"{s['l0']:.1f}", _number(s["explained_variance"])] if measured else []
        row += ["?" if s["seed"] is None else str(s["seed"]), *(s[name] or "?" for name in named)]
        rows.append([*row, s["format"], s["path"]])
    return _aligned(rows)


def _matrix(matrix: list[list[float]], labels: list[str]) -> str:
    cells = [[f"{value:.4f}" for value in row] for row in matrix]
    rows = [[label, *row] for label, row in zip(labels, cells, strict=True)]
    return _aligned([["PWMCC", *labels], *rows])


def _flags(record: dict[str, Any], labels: list[str]) -> str:
    kin = [
        f"warning: {phrase}; SAEs agree only where they read the same activations"
        for phrase in differences(record["saes"])
    ]
    kin += [
        f"warning: {labels[k['a']]} and {labels[k['b']]}: {k['rows']} rows match at their own "
        "index, of independent trainings about 1 does: "
        "a changed copy, or one initialisation; counted all the same, but no reproduction"
        for k in record["kin"]
    ]
    if not record["flags"]:
        return "\n".join(kin)
    lines = [
        f"flagged: {labels[f['a']]} and {labels[f['b']]}: {f['reason']}; not counted as "
        "reproduction"
        for f in record["flags"]
    ]
    kept = ", ".join(labels[i] for i in record["independent"])
    counted = f"counted as independent: {len(record['independent'])} ({kept})"
    return "\n".join([*lines, *kin, counted])


def _values(record: dict[str, Any]) -> str:
    rows = [["", "value", "95% interval", "method"]]
    for kind, null in record["nulls"].items():
        name = f"null: {kind}" + (" (used)" if kind == record["null"] else "")
        rows.append([name, f"{null['mean']:.4f}", "", f"{len(null['pairs'])} pairs"])
    for name, label in LABELS.items():
        if name in record["metrics"]:
            m = record["metrics"][name]
            interval = _interval(m.lcb, m.ucb)
            rows.append([label, _number(m.value), interval, f"{m.method}, {m.n} SAEs"])
    lines = [_aligned(rows)] + [
        f"null {kind} not measured: it {why}" for kind, why in record["nulls_unavailable"].items()
    ]
    if "activation_r" not in record["metrics"]:
        lines.append("dead latents unknown: no activations were given, so all latents count")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _interval(lcb: float | None, ucb: float | None) -> str:
    bounded = lcb is not None and ucb is not None and math.isfinite(lcb) and math.isfinite(ucb)
    return f"[{lcb:.4f}, {ucb:.4f}]" if bounded else "none"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )

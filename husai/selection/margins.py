"""How far a condition is from each gate of the policy, as far as the selection's data can show: the
one table of what is compared, and in which unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from husai.evidence import is_number, read_metric
from husai.shown import markdown_table

SHARE, AUC, PLATEAU = 0.05, 0.02, 0.001
"""Units: what a value that is good on the selection's data may well lose on the confirmation's.
About the half-width of a confirmation's interval: of shares between 0 and 1 over 8 seeds (a shared
fraction of 0.68 had 0.07, S 0.81 had 0.01), of differences of AUC over a dozen data sets (0.021 to
0.026), and between the slowest seeds of two sets of eight for the gain at the end of training."""
SCALES = {
    "stability.S": SHARE,
    "stability.S_worst_seed": SHARE,
    "stability.shared_fraction": SHARE,
    "stability.shared_fraction_weighted": SHARE,
    "stability.activation_agreement": SHARE,
    "stability.explained_variance": SHARE,
    "stability.explained_variance_vs_frozen": SHARE,
    "stability.l0_per_d_in": SHARE,
    "stability.dense_fraction": SHARE,
    "stability.redundancy": SHARE,
    "faithfulness.recovered": SHARE,
    "faithfulness.recovered_vs_frozen": SHARE,
    "saebench.delta_vs_frozen": AUC,
    "saebench.delta_vs_neurons": AUC,
    "saebench.delta_vs_pca": AUC,
    "saebench.delta_vs_dense": AUC,
    "cebench.delta_vs_frozen": SHARE,
    "integrity.plateau_gain": PLATEAU,
    "integrity.cos_to_init": SHARE,
    "integrity.dead_fraction": SHARE,
}
"""Gated quantities that the selection measures too, with the unit of their margins."""
NOT_ALWAYS_KNOWN = "integrity."
"""Of SAEs that others trained, what their metadata declare; where it is not known it is no reason
to leave them out."""


class Margin(NamedTuple):
    """How far one condition of a gate is met."""

    condition: str
    """For example ``stability.S lcb >= 0.3``."""
    number: float
    """The value or bound that is compared; not finite where the data give none."""
    margin: float
    """By how much it is on the right side of the threshold; negative on the wrong side."""
    scaled: float
    """``margin`` in units of :data:`SCALES`."""


def margins(gated: Mapping[str, Any], conditions: Iterable[Any]) -> list[Margin]:
    """Margin of ``gated``, metrics by ``evidence.metric``, to each of a policy's conditions
    (:class:`husai.gate.Condition`) that :data:`SCALES` has a unit for.
    """
    found = []
    for condition in conditions:
        name = f"{condition.evidence}.{condition.metric}"
        if name not in SCALES or name not in gated:
            continue
        metric = read_metric(gated[name])
        number = None if metric.problem else metric.at(condition.basis)
        number = number if is_number(number) and not math.isnan(number) else -math.inf
        upward = condition.op in (">=", ">")
        margin = number - condition.threshold if upward else condition.threshold - number
        margin = margin if math.isfinite(number) else -math.inf
        text = f"{condition.name} {condition.op} {condition.threshold:g}"
        found.append(Margin(text, number, margin, margin / SCALES[name]))
    return found


def missing(gated: Mapping[str, Any], conditions: Iterable[Any]) -> list[str]:
    """Quantities that a gate asks for and the selection should have measured, but did not."""
    asked = dict.fromkeys(f"{c.evidence}.{c.metric}" for c in conditions)
    return [
        name
        for name in asked
        if name in SCALES and name not in gated and not name.startswith(NOT_ALWAYS_KNOWN)
    ]


def table(rows: Sequence[tuple[str, Sequence[Margin]]]) -> list[str]:
    """Markdown: a line per condition of the policy, a column per candidate with its margin."""
    names = list(dict.fromkeys(m.condition for _, found in rows for m in found))
    by_name = [{m.condition: m for m in found} for _, found in rows]

    def line(name: str) -> list[str]:
        found = (one.get(name) for one in by_name)
        return [name, *(f"{m.margin:+.4f}" if m else "not known" for m in found)]

    header = ["gate's condition", *(f"`{name}`" for name, _ in rows)]
    return markdown_table(header, map(line, names))

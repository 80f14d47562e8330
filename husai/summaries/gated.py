"""What the strict policy will gate of a condition, as far as the selection's data show it: the
metrics that the selector compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from husai.cebench.evidence import recipe_metrics
from husai.evidence import Metric
from husai.gate.checks.integrity import integrity_metrics
from husai.probing.tables import probing_metrics
from husai.stability.record import StabilityRecord
from husai.statistics.recovered import faithfulness_metrics

COMPARED = ("frozen", "neurons", "pca", "dense")
TRAINING = ("plateau_gain", "cos_to_init", "dead_fraction")
"""Integrity metrics that training notes in ``recipe.json``."""


def gated_metrics(
    described: Mapping[str, Any],
    probed: tuple[Sequence[dict], Sequence[dict]],
    contrasted: tuple[Sequence[dict], Sequence[dict]],
    losses: tuple[dict | None, dict | None],
    stability: StabilityRecord | None,
) -> dict[str, Metric]:
    """``{evidence.metric: metric}`` of one condition on the selection's data, each as the
    confirmation's evidence has it; what was not measured is not in it.

    Parameters
    ----------
    described : mapping
        Its ``recipe.json``.
    probed, contrasted
        Sparse probing and CE-Bench records of its SAEs, and of its frozen-decoder control's.
    losses
        :func:`husai.statistics.recovered.losses_of` of both.
    stability : StabilityRecord or None
    """
    nothing = Metric(None, method="no data set is informative")
    found = {f"saebench.delta_vs_{against}": nothing for against in COMPARED}
    found |= {f"saebench.{name}": m for name, m in probing_metrics(*probed).items()}
    found["cebench.delta_vs_frozen"] = recipe_metrics(*contrasted)["delta_vs_frozen"]
    if None not in losses:
        found |= {f"faithfulness.{k}": m for k, m in faithfulness_metrics(*losses).items()}
    if stability is not None:
        measured = ((name, stability.metric(name)) for name in stability.data["metrics"])
        found |= {f"stability.{name}": metric for name, metric in measured if metric is not None}
    training = integrity_metrics(None, 0, described, None)
    known = {name: training[name] for name in TRAINING if training[name].value is not None}
    return found | {f"integrity.{name}": metric for name, metric in known.items()}

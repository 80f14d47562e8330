"""Faithfulness of a recipe from the records of its seeds: a column of the frontier, and the evidence
of the confirmed candidate against its control.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from husai.errors import HusaiError
from husai.evidence import Metric, new_record
from husai.planning.specs import ConfirmationSpec
from husai.provenance import failure, read_json
from husai.recipe import Recipe
from husai.statistics import jackknife_difference, recovered_interval


def load_faithfulness(inputs: Sequence[str]) -> dict[str, Metric]:
    """``{recipe id: recovered}`` over the seeds whose faithfulness is among ``inputs``."""
    found: dict[str, list[dict]] = defaultdict(list)
    for path in map(Path, inputs):
        if path.stem == "faithfulness":
            found[path.parent.parent.name].append(read_json(path))
    return {
        name: recovered_interval(losses["spliced"], losses["ablated"])
        for name, records in found.items()
        if not any(map(failure, records))
        for losses in [losses_of(records)]
    }


def evidence(
    spec: ConfirmationSpec, recipe: Recipe, candidate: Sequence[Path], frozen: Sequence[Path]
) -> dict[str, Any]:
    """Share of the subject's loss that the candidate recovers, over seeds and texts, and by how
    much more than its frozen-decoder control.

    The losses of every text stand beside the metrics: both can be derived from them again.
    """
    records, controls = ([read_json(p) for p in paths] for paths in (candidate, frozen))
    losses = {
        role: losses_of(found) for role, found in (("candidate", records), ("frozen", controls))
    }
    return new_record(
        "faithfulness",
        recipe.subject,
        recipe.id,
        recipe.hash,
        faithfulness_metrics(losses),
        [*candidate, *frozen],
        spec.values(),
        [r["seed"] for r in records],
        hook_name=records[0]["hook_name"],
        loss=records[0]["loss"],
        losses=losses,
        phase="confirmation",
    )


def losses_of(records: Sequence[dict]) -> dict[str, list]:
    """Losses above the clean model from records of single SAEs: ``spliced`` per seed and text,
    ``ablated`` per text.
    """
    ablated = records[0]["texts"]["ablated"]
    if not all(np.allclose(r["texts"]["ablated"], ablated, rtol=1e-3) for r in records):
        raise HusaiError(
            "faithfulness: the records of one recipe were measured on different texts; measure "
            "them again"
        )
    return {"spliced": [r["texts"]["spliced"] for r in records], "ablated": ablated}


def faithfulness_metrics(losses: dict[str, dict[str, list]]) -> dict[str, Metric]:
    """Metrics of the losses that a confirmation record keeps."""
    mine, control = (losses[role] for role in ("candidate", "frozen"))
    per_seed = [
        1.0 - np.sum(of["spliced"], axis=1) / np.sum(of["ablated"]) for of in (mine, control)
    ]
    return {
        "recovered": recovered_interval(mine["spliced"], mine["ablated"]),
        "recovered_vs_frozen": jackknife_difference(*per_seed),
    }

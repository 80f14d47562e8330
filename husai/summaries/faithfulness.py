"""Faithfulness of a recipe from the records of its seeds: a column of the frontier, and the
evidence of the confirmed candidate against its control."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from husai.evidence import new_record
from husai.planning.specs import ConfirmationSpec
from husai.provenance import failure, read_json
from husai.recipe import Recipe
from husai.statistics.recovered import faithfulness_metrics, losses_of


def load_losses(inputs: Sequence[str]) -> dict[str, dict[str, list]]:
    """``{recipe id: losses}`` (:func:`husai.statistics.recovered.losses_of`) over the seeds whose
    faithfulness is among ``inputs``.
    """
    found: dict[str, list[dict]] = defaultdict(list)
    for path in map(Path, inputs):
        if path.stem == "faithfulness":
            found[path.parent.parent.name].append(read_json(path))
    return {
        name: losses_of(records)
        for name, records in found.items()
        if not any(map(failure, records))
    }


def evidence(
    spec: ConfirmationSpec, recipe: Recipe, candidate: Sequence[Path], frozen: Sequence[Path]
) -> dict[str, Any]:
    """Share of the subject's loss that the candidate recovers, over seeds and texts, and by how
    much more than its frozen-decoder control.

    The losses of every text stand beside the metrics: both can be derived from them again.
    """
    records, controls = ([read_json(p) for p in paths] for paths in (candidate, frozen))
    losses = {"candidate": losses_of(records), "frozen": losses_of(controls)}
    return new_record(
        "faithfulness",
        recipe.subject,
        recipe.id,
        recipe.hash,
        faithfulness_metrics(losses["candidate"], losses["frozen"]),
        [*candidate, *frozen],
        spec.values(),
        [r["seed"] for r in records],
        hook_name=records[0]["hook_name"],
        loss=records[0]["loss"],
        losses=losses,
        phase="confirmation",
    )

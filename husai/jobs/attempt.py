"""A confirmation attempt as the jobs begin and finish it: what it will measure is noted before its
weights exist, and their hashes when everything is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from husai import provenance
from husai.gate.attempts import begin_confirmation, confirmation_status, finish_confirmation
from husai.gate.inputs import WEIGHTS
from husai.planning.roles import ROLES
from husai.recipe import Recipe


def begin(
    recipe: Recipe,
    spec,
    *,
    seeds: list[int],
    data: Any,
    seen: Sequence[int],
    roles: Mapping[str, str],
    at_least: int = 8,
    dtype: str | None = None,
) -> None:
    """Note the start of a candidate's attempt, or refuse it.

    Parameters
    ----------
    seeds, seen : list of int
        Its seeds, and those of the selection.
    data : JSON value
        See :func:`husai.gate.attempts.begin_confirmation`.
    roles : mapping
        Hash of the recipe that each role of the attempt is trained by.
    dtype : str, optional
        Number format of the training: an attempt that goes on in another one would be a second.
    """
    begin_confirmation(
        recipe.hash,
        seeds=seeds,
        data=data,
        selection_seeds=list(seen),
        force=spec.force,
        at_least=at_least,
        subject=recipe.subject,
        model=model_hash(Path("results/subjects") / recipe.subject / "model"),
        stress_seeds=spec.stress.seeds,
        measured=spec.measured,
        roles=dict(roles),
        trained_here=not recipe.brought,
        drawn=spec.drawn and spec.drawn.model_dump(),
        dtype=dtype,
    )


def model_hash(folder: Path) -> str | None:
    """The hash of the subject's weights, here or referred to; None where there is no model."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    if weights.is_file():
        return provenance.sha256_file(weights)
    if not config.is_file():
        return None
    reference = provenance.read_json(config).get("reference") or {}
    return reference.get("sha256") or provenance.sha256_file(config)


def finish(recipe: Recipe, folder: Path, evidence: Sequence[str]) -> None:
    """Note the end of the attempt under way, if any, with the weights of every role's SAEs."""
    status = confirmation_status(recipe.hash)
    if status["finished"] >= status["attempts"]:
        return
    weights = {
        role: sorted(map(provenance.sha256_file, (folder / role).glob(f"seed*/{WEIGHTS}")))
        for role in ROLES
    }
    finish_confirmation(recipe.hash, status["attempts"], evidence=list(evidence), weights=weights)

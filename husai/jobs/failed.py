"""Recipes that failed: a result, not a fault of the run. Their jobs say so in their records, and
tables show a row with the reason.

Only what :class:`husai.errors.RecipeFailed` names is such a result (a training that diverged, an L0
out of reach, codes that are not finite). A full disk, want of memory, unreadable input or a mistake
in the code stops the job as ever."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import RecipeFailed
from husai.evidence import new_record
from husai.progress import log
from husai.provenance import failure
from husai.recipe import Recipe


def recipe_failure(recipe_dir: str | Path) -> str | None:
    """Why the recipe trained into a folder failed; None when it did not."""
    return failure(provenance.read_json(Path(recipe_dir) / "recipe.json"))


def fail_recipe(
    out: Path,
    configured: Recipe,
    resolved: Recipe,
    seeds: Sequence[int],
    reason: str,
    work: provenance.Job,
) -> dict:
    """Leave ``recipe.json`` and a manifest that say the recipe failed, and no SAE of an earlier
    training beside them.
    """
    for stale in (*out.glob("seed*"), *out.glob("training.parquet")):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    described = {
        "schema": "husai.recipe/1",
        "id": configured.id,
        "hash": configured.hash,
        "recipe": configured.to_dict(),
        "resolved": resolved.to_dict(),
        "seeds": [int(s) for s in seeds],
        "status": "failed",
        "reason": reason,
    }
    provenance.write_json(out / "recipe.json", described)
    work.writes(out / "recipe.json")
    work.notes(status="failed", reason=reason)
    log(f"FAILED: {configured.id} on {configured.subject}: {reason}; its row in the tables says so")
    return described


def measured_or_failed(
    kind: str, recipe_dir: Path, seed: int | None, out: str | Path, measure: Callable[[], Any]
) -> None:
    """Measure one SAE; when its recipe failed in training, or the measurement finds that it did,
    write a record that says so instead.
    """
    reason = recipe_failure(recipe_dir)
    if reason is None:
        try:
            measure()
            return
        except RecipeFailed as error:
            reason = str(error)
    described = provenance.read_json(recipe_dir / "recipe.json")
    seeds = described["seeds"] if seed is None else [seed]
    record = new_record(
        kind,
        described["recipe"]["subject"],
        described["id"],
        described["hash"],
        {},
        [recipe_dir / "recipe.json"],
        {"kind": kind},
        seeds,
        seed=seed,
        status="failed",
        reason=reason,
    )
    provenance.write_json(out, record)
    log(
        f"FAILED: {kind} of {described['id']}"
        + (f", seed {seed}" if seed is not None else "")
        + f": {reason}"
    )

"""The state of a training run on disk, so that a killed run goes on from where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from husai.activations import ActivationStore, Rows
from husai.progress import log
from husai.provenance import atomic_path, code_hash, hash_json
from husai.recipe import Recipe
from husai.sae.training.members import Ensemble, Member


class Checkpoint:
    """Saves and loads the state of one run in ``directory/state.pt``; does nothing when
    ``directory`` is None.

    A state is used again only by the run that wrote it: same recipe, members, dtype, package code
    and ``sources`` (training and held-out rows, targets, reference decoder; None where there is
    none). Another one is ignored and overwritten, with a line in the log."""

    def __init__(
        self,
        directory: str | Path | None,
        recipe: Recipe,
        members: Sequence[Member],
        dtype: str,
        sources: Sequence[Rows | None],
        every: int | None = None,
    ):
        self.path = None if directory is None else Path(directory) / "state.pt"
        self.every = every or max(1, recipe.steps // 20)
        self._saved = -1
        if self.path is not None:
            run = {"recipe": recipe.to_dict(), "dtype": dtype, "code": code_hash()}
            run["members"] = [list(m) for m in members]
            run["sources"] = [None if rows is None else _fingerprint(rows) for rows in sources]
            self.key = hash_json(run)

    def load(self, ensemble: Ensemble) -> list[dict[str, Any]]:
        """Bring ``ensemble`` to the saved state of this run, if any; returns its curve rows."""
        if self.path is None or not self.path.exists():
            return []
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise almost anything
            log(f"{self.path}: not readable ({type(error).__name__}), training starts over")
            return []
        if not isinstance(saved, dict) or saved.get("key") != self.key:
            log(
                f"{self.path}: belongs to another run (recipe, rows or code changed), training "
                "starts over"
            )
            return []
        for lane, state in zip(ensemble.lanes, saved["lanes"], strict=True):
            lane.restore(state)
        self._saved = done = ensemble.done
        log(f"{ensemble.recipe.id}: resumed at step {done} of {ensemble.recipe.steps}")
        return saved["curves"]

    def next_due(self, done: int) -> int:
        """The step after ``done`` at which the state is saved next."""
        return (done // self.every + 1) * self.every

    def save(self, ensemble: Ensemble, curves: list[dict[str, Any]]) -> None:
        """Write the state when it is due (every ``every`` steps and at the end), atomically."""
        done = ensemble.done
        due = done % self.every == 0 or done >= ensemble.recipe.steps
        if self.path is None or not due or done in (0, self._saved):
            return
        lanes = [lane.state() for lane in ensemble.lanes]
        with atomic_path(self.path) as temporary, open(temporary, "wb") as handle:
            torch.save({"key": self.key, "lanes": lanes, "curves": curves}, handle)
        self._saved = done


def _fingerprint(data: Rows) -> str:
    """Identifies rows: the store's digest, or the shape and a sample of a tensor."""
    if isinstance(data, ActivationStore):
        return data.digest
    sample = data[:: max(1, len(data) // 256)].double()
    return hash_json([list(data.shape), float(sample.sum()), float(sample.square().sum())])

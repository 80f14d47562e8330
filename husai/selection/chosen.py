"""Reading what was selected."""

from __future__ import annotations

from pathlib import Path

from husai import provenance
from husai.errors import HusaiError
from husai.recipe import Recipe


def read_candidate(path: str | Path) -> tuple[Recipe, Recipe]:
    """Recipe of a ``selected_candidate.json`` as configured, and with calibrated values filled in.

    Raises
    ------
    HusaiError
        The file is missing or not JSON, or holds no recipe to train again.
    """
    data = provenance.read_json(path)
    if not (isinstance(data, dict) and isinstance(data.get("recipe"), dict)):
        raise HusaiError(
            f"{path}: holds no recipe to train again; select from results of this pipeline's "
            "frontier or scaling"
        )
    configured, resolved = data["recipe"], data.get("resolved") or data["recipe"]
    return Recipe.from_dict(configured), Recipe.from_dict(resolved)

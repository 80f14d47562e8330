"""The recipes of the frontier: architectures at one width and L0, or ``frontier.recipes``."""

from __future__ import annotations

from collections.abc import Callable

from husai.config import Config
from husai.config.stages import FrontierRecipe
from husai.errors import HusaiError
from husai.recipe import Recipe

TAGS = {
    "steps": "steps",
    "batch_size": "batch",
    "learning_rate": "lr",
    "decay_fraction": "decay",
}
"""Words of an id for settings of the optimisation that are not the subject's."""


def compared_recipes(config: Config, sized: Callable[..., Recipe]) -> list[Recipe]:
    """Every recipe of the frontier but the controls, made by ``sized(subject, architecture, d_sae,
    l0, **fields)``.

    Raises
    ------
    HusaiError
        Two entries define one recipe; names both.
    """
    f, subject = config.frontier, config.external.subject
    if f.recipes is None:
        key = "architectures"
        recipes = [sized(subject, a, f.d_sae, f.k) for a in f.architectures]
    else:
        key, usual = "recipes", config.training[subject].model_dump()
        recipes = [_listed(subject, one, usual, sized) for one in f.recipes]
    for i, recipe in enumerate(recipes):
        first = recipes.index(recipe)
        if first < i:
            raise HusaiError(
                f"config: frontier.{key}.{i}: {recipe.id} is frontier.{key}.{first} already; "
                "remove one"
            )
    return recipes


def _listed(
    subject: str, entry: FrontierRecipe, usual: dict, sized: Callable[..., Recipe]
) -> Recipe:
    """The recipe of an entry; the id's tag names every setting that is not the subject's."""
    given = entry.given()
    tag = "-".join(
        f"{word}{given[key]}"
        for key, word in TAGS.items()
        if given.get(key, usual[key]) != usual[key]
    )
    return sized(subject, entry.architecture, entry.d_sae, entry.l0, **given, tag=tag)

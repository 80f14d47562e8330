"""The recipe lives in :mod:`husai.recipe`, which imports no torch; this is its name inside the engine."""

from husai.recipe import ARCHITECTURES, CALIBRATED, FIXED_K, Recipe, recipe_problems

__all__ = ["ARCHITECTURES", "CALIBRATED", "FIXED_K", "Recipe", "recipe_problems"]

"""Sparse autoencoders: recipes, the ensemble trainer, evaluation and file formats."""

from husai.recipe import Recipe
from husai.sae.architectures import SAE
from husai.sae.formats import load_sae, resolve, save_sae
from husai.sae.training.calibrate import match_l0
from husai.sae.training.ensemble import EnsembleResult, train_ensemble
from husai.sae.training.initialise import initial_decoder
from husai.stability import evaluate_sae

__all__ = [
    "SAE",
    "EnsembleResult",
    "Recipe",
    "evaluate_sae",
    "initial_decoder",
    "load_sae",
    "match_l0",
    "resolve",
    "save_sae",
    "train_ensemble",
]

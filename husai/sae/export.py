"""From the weights of a training run, in normalised units, to an SAE in raw units."""

from __future__ import annotations

import torch

from husai.recipe import BATCH_TOP_K, Recipe
from husai.sae.architectures import SAE
from husai.sae.training.initialise import Units


def exported(recipe: Recipe, seed: int, parameters: dict[str, torch.Tensor], units: Units) -> SAE:
    """One member's parameters (without the member axis, see ``gradients``) as an :class:`SAE`;
    float64 stays, anything else gives float32.

    ``parameters`` are ``W_enc (d_sae, d_in)``, ``b_enc (d_sae,)``, ``W_dec (d_sae, d_out)``,
    ``b_dec (d_out,)`` and, for JumpReLU, ``threshold (d_sae,)``, all in normalised units.

    Folding the units into the weights is exact, as every activation here is positively homogeneous;
    whitened units leave decoder rows of unequal lengths. The threshold of a BatchTopK SAE is 0; it
    is measured on held-out rows (:func:`husai.sae.threshold.batch_top_k_threshold`).
    """
    dtype = torch.float64 if parameters["W_dec"].dtype == torch.float64 else torch.float32
    p = {name: value.double() for name, value in parameters.items()}
    W_enc, b_enc, W_dec, b_dec = p["W_enc"].t(), p["b_enc"], p["W_dec"], p["b_dec"]
    if units.whitening is not None:
        raw = torch.linalg.inv(units.whitening).to(W_dec.device)
        W_enc, W_dec = units.whitening.to(W_enc.device) @ W_enc, W_dec @ raw
        b_dec = units.centre_in.to(b_dec.device) + b_dec @ raw
    if recipe.architecture == "transcoder":
        b_enc = b_enc - (units.centre_in * units.scale_in).to(parameters["b_enc"]).double() @ W_enc
    W_enc, b_enc = W_enc * (units.scale_in / units.scale_out), b_enc / units.scale_out
    threshold = p["threshold"] / units.scale_out if "threshold" in p else None
    architecture = recipe.architecture
    if architecture in BATCH_TOP_K:
        architecture = "batchtopk"
        threshold = torch.zeros_like(b_enc)
    parts = [W_enc, W_dec, b_enc, b_dec / units.scale_out, threshold]
    parts = [None if t is None else t.to(dtype).contiguous() for t in parts]
    notes = {
        "subject": recipe.subject,
        "hook_name": recipe.hook_name,
        "target_hook_name": recipe.target_hook_name,
        "recipe": recipe.to_dict(),
        "recipe_id": recipe.id,
        "recipe_hash": recipe.hash,
        "seed": seed,
    }
    return SAE(architecture, *parts, k=recipe.k, cfg=notes)

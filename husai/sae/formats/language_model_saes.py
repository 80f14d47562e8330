"""SAEs of OpenMOSS' Language-Model-SAEs (llamascopium): ``config.json`` or ``hyperparams.json``
with the weights beside it or under ``checkpoints/``."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from husai.errors import HusaiError
from husai.sae.architectures import SAE
from husai.sae.formats.files import Taker, read_config, read_pickle, read_tensors, state_dict, whole
from husai.sae.formats.parts import Parts, check_sizes
from husai.sae_files import weights_of

SETTINGS = ("config.json", "hyperparams.json")
NORM = "dataset_average_activation_norm"
NAMES = {
    "encoder.weight": "W_E",
    "encoder.bias": "b_E",
    "decoder.weight": "W_D",
    "decoder.bias": "b_D",
    "log_jumprelu_threshold": "activation_function.log_jumprelu_threshold",
}
"""Names of tensors before version 2, where the matrices were those of ``nn.Linear``."""


def read_language_model_sae(directory: Path) -> SAE:
    """An SAE or transcoder with ReLU, JumpReLU or TopK.

    Trained on activations scaled to an average norm of sqrt(d_model) per data set, it is read in
    raw units, from the average norms beside its weights; scaling by token or batch cannot be folded
    and is refused. Where the sparsity counts decoder norms, codes come in units of them, as in
    SAELens."""
    settings = next(directory / s for s in SETTINGS if (directory / s).is_file())
    config, weights = read_config(settings), weights_of(directory)
    _refuse_unsupported(config, settings)
    if weights.suffix == ".pt":
        tensors = state_dict(read_pickle(weights), weights, ("sae",))
    else:
        tensors = read_tensors(weights)
    take = Taker(_renamed(tensors), weights)
    source, target = config.get("hook_point_in"), config.get("hook_point_out")
    factor_in, factor_out = _factors(config, tensors, settings)
    parts = _parts(config, take, settings, transcodes=target not in (None, source))
    parts = parts.scaled(factor_in)
    if factor_in != factor_out:
        ratio = factor_in / factor_out
        parts = replace(parts, W_dec=parts.W_dec * ratio, b_dec=parts.b_dec * ratio)
    notes = {"hook_name": source, "hook_name_out": target, "format": "language_model_saes"}
    sae = parts.sae({k: v for k, v in notes.items() if v is not None})
    width, factor = config.get("d_model"), config.get("expansion_factor")
    d_sae = config.get("d_sae") or (width and factor and int(width * factor))
    return check_sizes(sae, width, d_sae, str(weights), "d_model and expansion_factor")


def _refuse_unsupported(config: dict[str, Any], settings: Path) -> None:
    kind = config.get("sae_type", "sae")
    if kind != "sae":
        raise HusaiError(f"{settings}: sae_type '{kind}' has no counterpart here; only 'sae' has")
    if config.get("use_glu_encoder"):
        raise HusaiError(f"{settings}: a gated linear encoder (use_glu_encoder) is not read here")
    if config.get("act_fn") not in ("relu", "jumprelu", "topk"):
        raise HusaiError(
            f"{settings}: act_fn '{config.get('act_fn')}' has no counterpart here; relu, jumprelu "
            "and topk have (convert a batchtopk SAE to jumprelu first)"
        )


def _renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    linear = ("encoder.weight", "decoder.weight")
    return {NAMES.get(n, n): tensor.T if n in linear else tensor for n, tensor in tensors.items()}


def _parts(config: dict[str, Any], take: Taker, settings: Path, transcodes: bool) -> Parts:
    """Weights and rule for normalised activations."""
    kind, W_dec = config["act_fn"], take("W_D")
    threshold, k, logarithm = None, None, NAMES["log_jumprelu_threshold"]
    if kind == "jumprelu" and logarithm in take:
        threshold = take.thresholds(logarithm, log=True)
    elif kind == "jumprelu" and isinstance(config.get("jump_relu_threshold"), (int, float)):
        threshold = torch.full_like(W_dec[:, 0], float(config["jump_relu_threshold"]))
        # Llama Scope states this one for codes of raw activations.
        threshold *= _factor(config, (config.get(NORM) or {}).get("in"), settings)
    elif kind == "jumprelu":
        raise HusaiError(f"{take.path}: a JumpReLU SAE without its thresholds")
    elif kind == "topk":
        k = whole(config.get("top_k"), f"{settings}: top_k")
    b_dec = take("b_D") if config.get("use_decoder_bias", True) else torch.zeros_like(W_dec[0])
    architecture = "transcoder" if transcodes and kind == "topk" else kind
    W_enc, b_enc = take("W_E"), take("b_E")
    parts = Parts(architecture, W_enc, W_dec, b_enc, b_dec, threshold, k, False, transcodes)
    return parts.unit_decoder() if config.get("sparsity_include_decoder_norm", True) else parts


def _factors(config: dict[str, Any], tensors: dict, settings: Path) -> tuple[float, float]:
    """Factors that normalise input and output."""
    kind = config.get("norm_activation", "dataset-wise")
    if kind == "inference":
        return 1.0, 1.0
    if kind != "dataset-wise":
        raise HusaiError(
            f"{settings}: norm_activation '{kind}' rescales each row or batch, which is not "
            "supported here"
        )
    stated = config.get(NORM) or {}
    found = []
    for side in ("in", "out"):
        hook = config.get(f"hook_point_{side}")
        norm = tensors.get(f"{NORM}.{hook}", stated.get(side, stated.get(hook)))
        found.append(_factor(config, norm, settings))
    return found[0], found[1]


def _factor(config: dict[str, Any], norm: Any, settings: Path) -> float:
    """``sqrt(d_model) / norm``."""
    value = None if norm is None else float(norm)
    if value is None or not 0 < value < math.inf:
        raise HusaiError(
            f"{settings}: the SAE was trained on activations scaled data set by data set, and "
            f"their {NORM} is not beside it; save it with fold_activation_scale"
        )
    return math.sqrt(config["d_model"]) / value

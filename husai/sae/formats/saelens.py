"""Reading SAEs in SAELens' format, of version 6 or older, for inference or in the middle of
training, without importing SAELens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from husai.errors import HusaiError
from husai.sae.architectures import SAE
from husai.sae.formats.files import Taker, Tensors, read_config, read_tensors, refuse_skip, whole
from husai.sae.formats.parts import Parts, check_sizes, gated
from husai.sae_files import FACTORS

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER, WHITENING = FACTORS
ARCHITECTURES = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abstopk",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
    "jumprelu": "jumprelu",
    "gated": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
    "topk_transcoder": "transcoder",
}
"""SAELens' architectures with a closed form here; the last is our own name, which SAELens
refuses."""
REFUSED = {
    "temporal": "its codes depend on the tokens before, and rows of activations stand alone here"
}
OWN = (
    "sae_lens_version",
    "sae_lens_training_version",
    "husai_architecture",
    "husai_k",
    "husai_d_out",
)
"""Keys of SAELens' metadata that describe the file and are no notes about the SAE."""


def read_saelens(directory: Path) -> SAE:
    """An SAE from ``cfg.json`` and ``sae_weights.safetensors``.

    What SAELens multiplies activations by while it trains is folded in when it lies beside the
    weights (``activation_scaler.json``, ``activation_whitening.safetensors``), and refused when it
    is missing.

    Raises
    ------
    HusaiError
        An architecture, a normalisation or an activation function without a counterpart here;
        tensors that do not fit the settings.
    """
    where = directory / CONFIG
    config, tensors = read_config(where), read_tensors(directory / WEIGHTS)
    name, _ = architecture_of(config)
    if name == "matching_pursuit":
        from husai.sae.formats.saelens_classes import read_with_saelens

        _refuse_normalised(config, directory)
        return read_with_saelens(directory, notes_of(config))
    if name in REFUSED or name not in ARCHITECTURES:
        why = REFUSED.get(name, f"read are {', '.join(ARCHITECTURES)}, matching_pursuit")
        raise HusaiError(f"{where}: architecture '{name}' has no counterpart here: {why}")
    _refuse_unsupported(config, tensors, where)
    take = Taker(tensors, directory / WEIGHTS, config.get("dtype"))
    parts = _folded(_parts(config, take), config, directory)
    sae = parts.sae({**notes_of(config), "format": "saelens"})
    return check_sizes(sae, config.get("d_in"), config.get("d_sae"), str(where), "d_in and d_sae")


def architecture_of(config: dict[str, Any]) -> tuple[str, Any]:
    """Name and k; before version 6 TopK was an activation function of the standard SAE."""
    if _activation_function(config) == "topk":
        return "topk", (config.get("activation_fn_kwargs") or {}).get("k", config.get("k"))
    return str(config.get("architecture", "standard")), config.get("k")


def notes_of(config: dict[str, Any]) -> dict[str, Any]:
    """What is said of the SAE: hook, model, seed...; before version 6 in top-level keys."""
    metadata = config.get("metadata")
    if not isinstance(metadata, dict) or not metadata:
        plain = {k: v for k, v in config.items() if isinstance(v, (str, int, float, bool, list))}
        metadata = {"hook_name": config.get("hook_point"), **plain}
    notes = {k: v for k, v in metadata.items() if k not in OWN and v is not None}
    reshaped = config.get("reshape_activations")
    return {**notes, "reshape_activations": reshaped} if reshaped == "hook_z" else notes


def _parts(config: dict[str, Any], take: Taker) -> Parts:
    """Weights and rule as stored, before anything beside them is folded in."""
    metadata = config.get("metadata") if isinstance(config.get("metadata"), dict) else {}
    name, k = architecture_of(config)
    architecture = metadata.get("husai_architecture") or ARCHITECTURES[name]
    target = metadata.get("hook_name_out")
    transcodes = "transcoder" in (*name.split("_"), architecture) or (
        target is not None and target != metadata.get("hook_name")
    )
    W_enc, W_dec, b_dec = take("W_enc"), take("W_dec"), take("b_dec")
    centred = False if transcodes else bool(config.get("apply_b_dec_to_input", True))
    if name == "gated":
        names = ("r_mag", "b_gate", "b_mag")
        return gated(W_enc, W_dec, *(take(n) for n in names), b_dec, centred)
    threshold = None
    if "batchtopk" in name:
        threshold = take.global_threshold("topk_threshold", len(W_dec), zero_measured=False)
    elif name.startswith("jumprelu"):
        log = "log_threshold" in take
        threshold = take.thresholds("log_threshold" if log else "threshold", log)
    if architecture in ("topk", "abstopk", "transcoder"):
        k = whole(metadata.get("husai_k") or k, f"{take.path.with_name(CONFIG)}: k")
    else:  # BatchTopK may have a fractional k, which its threshold stands for
        k = metadata.get("husai_k")
    b_enc = take("b_enc")
    return Parts(architecture, W_enc, W_dec, b_enc, b_dec, threshold, k, centred, transcodes)


def _folded(parts: Parts, config: dict[str, Any], directory: Path) -> Parts:
    """Fold normalisation and decoder norms, in the order in which SAELens does so itself: a scale
    before the norms, which it changes, and a whitening after them.
    """
    rescaled = bool(config.get("rescale_acts_by_decoder_norm"))
    kind = _normalisation(config)
    if kind == "expected_average_only_in":
        factor = _factor(directory)
        parts = parts.scaled(factor)
        if rescaled and parts.threshold is not None:
            parts = replace(parts, threshold=parts.threshold / factor)
    if rescaled:
        parts = parts.unit_decoder()
    if kind == "covariance_whitening":
        parts = parts.whitened(*_whitening(directory))
    return parts


def _normalisation(config: dict[str, Any]) -> str:
    """Kind of normalisation; early versions wrote a boolean."""
    kind = config.get("normalize_activations")
    if isinstance(kind, bool) or kind is None:
        return "expected_average_only_in" if kind else "none"
    return str(kind)


def _factor(directory: Path) -> float:
    """What activations are multiplied by, from the file that SAELens saves beside a checkpoint."""
    factor = _scaler(directory).get("scaling_factor")
    number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
    if not number or not 0 < factor < float("inf"):
        raise HusaiError(
            f"{directory / CONFIG}: the SAE was trained on scaled activations "
            f"(expected_average_only_in) and {SCALER} with the factor is not beside it; copy it, "
            "or save the SAE with its factor folded in"
        )
    return float(factor)


def _whitening(directory: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if not (directory / WHITENING).is_file():
        raise HusaiError(
            f"{directory / CONFIG}: the SAE was trained on whitened activations and {WHITENING} "
            "with the matrices is not beside it; copy it, or save the SAE with them folded in"
        )
    take = Taker(read_tensors(directory / WHITENING), directory / WHITENING, "float32")
    return take("mean"), take("matrix"), take("inverse_matrix")


def _scaler(directory: Path) -> dict[str, Any]:
    path = directory / SCALER
    return read_config(path) if path.is_file() else {}


def _refuse_unsupported(config: dict[str, Any], tensors: Tensors, where: Path) -> None:
    """Refuse what would be read wrongly."""
    _refuse_normalised(config, where.parent)
    names = ("scaling_factor", "finetuning_scaling_factor")
    for name in names:
        factor = tensors.get(name)
        if factor is not None and not torch.allclose(factor.float(), torch.ones(1)):
            raise HusaiError(
                f"{where}: the weights carry a finetuning {name}; fold it into W_dec with the "
                "trainer that wrote it"
            )
    if config.get("finetuning_scaling_factor") and not any(name in tensors for name in names):
        raise HusaiError(
            f"{where}: finetuning_scaling_factor is set but the weights hold no such tensor; copy "
            "the checkpoint again from its source"
        )
    function = _activation_function(config)
    if function not in ("relu", "topk"):
        raise HusaiError(f"{where}: activation_fn '{function}' is not supported; relu and topk are")
    refuse_skip(tensors, where)


def _refuse_normalised(config: dict[str, Any], directory: Path) -> None:
    """Refuse what no weights can take over, and what contradicts the files beside the weights."""
    kind, where = _normalisation(config), directory / CONFIG
    if kind in ("layer_norm", "constant_norm_rescale", "constant_scalar_rescale"):
        raise HusaiError(
            f"{where}: normalize_activations '{kind}' rescales each row, which is not supported "
            "here"
        )
    if kind not in ("none", "expected_average_only_in", "covariance_whitening"):
        raise HusaiError(
            f"{where}: normalize_activations '{kind}' is not known here, so the SAE cannot be read "
            "in the units of its activations"
        )
    plain, name = kind == "none", architecture_of(config)[0]
    if not plain and (name == "matching_pursuit" or "transcoder" in name):
        raise HusaiError(
            f"{where}: normalize_activations '{kind}' cannot be folded into this architecture; "
            "save it with its final weights"
        )
    scaler = _scaler(directory) if plain else {}
    if scaler.get("scaling_factor") is not None or scaler.get("has_whitening"):
        raise HusaiError(
            f"{directory / SCALER}: holds a factor, but {CONFIG} says normalize_activations "
            "'none'; they belong to different checkpoints"
        )


def _activation_function(config: dict[str, Any]) -> Any:
    return config.get("activation_fn", config.get("activation_fn_str", "relu"))

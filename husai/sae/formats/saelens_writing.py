"""Writing SAEs in the format from which SAELens 6 loads them for inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from husai.errors import HusaiError
from husai.provenance import atomic_path, finite, write_json
from husai.sae.architectures import SAE
from husai.sae.formats.saelens import CONFIG, OWN, WEIGHTS

FORMAT_VERSION = "6.0.0"
"""The version of SAELens whose inference format is written."""
WRITTEN = {"relu": "standard", "batchtopk": "jumprelu", "transcoder": "topk"}
WRITTEN_TRANSCODER = {
    "relu": "transcoder",
    "jumprelu": "jumprelu_transcoder",
    "batchtopk": "jumprelu_transcoder",
}


def save_sae(sae: SAE, directory: str | Path) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` so that ``sae_lens.SAE.load_from_disk``
    gives the same codes and reconstructions.

    BatchTopK is written as JumpReLU with its global threshold. SAELens has no TopK transcoder
    class: one with d_in = d_out is written as TopK with an uncentred input, which is the same
    function; one with d_in != d_out gets the architecture name ``topk_transcoder``, which SAELens
    refuses and :func:`husai.sae.load_sae` reads. ``sae.cfg`` goes to SAELens' ``metadata``
    (model_name, hook_name, recipe hash, seed...).

    Raises
    ------
    HusaiError
        A weight is not finite, or the directory cannot be written.
    """
    directory = Path(directory)
    weights = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    if sae.threshold is not None and sae.architecture in ("batchtopk", "jumprelu"):
        weights["threshold"] = sae.threshold
    if hasattr(sae, "own_tensors"):
        weights = sae.own_tensors()
    weights = {
        name: t.detach().to("cpu", sae.dtype).contiguous().clone() for name, t in weights.items()
    }
    for name, tensor in weights.items():
        off = tensor == torch.inf if name == "threshold" else False
        if not bool((torch.isfinite(tensor) | off).all()):
            raise HusaiError(
                f"{directory}: {name} of this {sae.architecture} SAE holds NaN or infinity; it is "
                "not written"
            )
    with atomic_path(directory / WEIGHTS) as temporary:
        save_file(weights, temporary)
    write_json(directory / CONFIG, _settings(sae))


def _settings(sae: SAE) -> dict[str, Any]:
    """SAELens' settings of ``sae``."""
    name = WRITTEN.get(sae.architecture, sae.architecture)
    same_width = sae.d_in == sae.d_out
    if sae.transcodes:
        name = WRITTEN_TRANSCODER.get(sae.architecture, name if same_width else "topk_transcoder")
    config: dict[str, Any] = {
        "architecture": name,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if sae.transcodes:
        config["d_out"] = sae.d_out
    if "topk" in name:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    if hasattr(sae, "own_settings"):
        config |= sae.own_settings()
    notes = {k: v for k, v in sae.cfg.items() if k not in (*OWN, "format")}
    own = {
        "sae_lens_version": FORMAT_VERSION,
        "sae_lens_training_version": None,
        "husai_architecture": sae.architecture,
        "husai_k": sae.k,
    }
    return {**config, "metadata": finite({**notes, **own})}

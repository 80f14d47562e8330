"""Checkpoints of HUSAI before version 1: a ``.pt`` file with weights and notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from husai.errors import HusaiError
from husai.sae.architectures import SAE
from husai.sae.formats.files import Taker, read_pickle, scalars, state_dict
from husai.sae.formats.parts import Parts, check_sizes

WRAPPERS = ("model_state_dict", "sae_state_dict")
ARCHITECTURES = {
    "topk": "topk",
    "matryoshka": "topk",
    "relu": "relu",
    "batchtopk": "batchtopk",
    "jumprelu": "jumprelu",
}
SAYING = ("architecture", "d_model", "d_sae", "k", "l1_coef")
"""Notes that old HUSAI always wrote some of; without any, the rules for reading are unknown."""


def read_old_husai(path: Path) -> SAE:
    """``model_state_dict`` with ``encoder.weight``, ``encoder.bias``, ``decoder.weight``, or
    ``W_enc``/``W_dec``, and notes beside it.

    With ``encoder.*`` names nothing is subtracted from the input. With ``W_enc`` names the input is
    centred by ``b_dec`` except for JumpReLU, as in the SAEBench classes that wrote them. Old TopK
    kept negative values among its k largest; here they become zero.

    Raises
    ------
    HusaiError
        Bare tensors: many trainers save those, and the same names mean different functions.
    """
    loaded = read_pickle(path)
    state = state_dict(loaded, path, WRAPPERS)
    notes = {k: v for k, v in loaded.items() if k not in WRAPPERS}
    wrapped = any(isinstance(loaded.get(w), dict) for w in WRAPPERS)
    if not wrapped or not any(notes.get(name) is not None for name in SAYING):
        raise HusaiError(
            f"{path}: holds tensors without the settings that say how to read them; keep it in its "
            "run's folder (for dictionary_learning config.json lies beside it, or beside "
            "checkpoints/)"
        )
    take = Taker(state, path)
    sae = _parts(take, notes).sae(scalars({**notes, "format": "husai_pt"}))
    sizes = notes.get("d_model"), notes.get("d_sae")
    return check_sizes(sae, *sizes, str(path), "d_model and d_sae")


def _parts(take: Taker, notes: dict[str, Any]) -> Parts:
    W_enc, b_enc, W_dec = take.encoder_decoder()
    architecture = _architecture(take, notes)
    k = take.k(notes.get("k")) if architecture in ("topk", "batchtopk") else None
    threshold = None
    if architecture == "batchtopk":
        threshold = take.global_threshold("threshold", len(W_dec), zero_measured=True)
    elif architecture == "jumprelu":
        log = "log_threshold" in take
        threshold = take.thresholds("log_threshold" if log else "threshold", log)
    name = next((n for n in ("b_dec", "decoder.bias") if n in take), None)
    b_dec = torch.zeros_like(W_dec[0]) if name is None else take(name)
    centred = notes.get("apply_b_dec_to_input", "W_enc" in take and architecture != "jumprelu")
    return Parts(architecture, W_enc, W_dec, b_enc, b_dec, threshold, k, bool(centred))


def _architecture(take: Taker, notes: dict[str, Any]) -> str:
    """Architecture from the notes, or from which tensors there are."""
    named = notes.get("architecture") or _guessed(take, notes)
    plain = str(named).lower().replace("_", "").replace("-", "")
    if plain.removesuffix("topk") == "matryoshka":
        plain = "matryoshka"
    if plain not in ARCHITECTURES:
        raise HusaiError(
            f"{take.path}: architecture '{named}' cannot be read; known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[plain]


def _guessed(take: Taker, notes: dict[str, Any]) -> str:
    if "k" in take or notes.get("k") is not None:
        single = "threshold" in take and take.tensors["threshold"].ndim == 0
        return "batchtopk" if single and float(take.tensors["threshold"]) >= 0 else "topk"
    return "jumprelu" if "threshold" in take or "log_threshold" in take else "relu"

"""Reading SAE files of other trainers: tensors only, nothing in a file is ever run, and orientation
comes from tensor names.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from husai.errors import HusaiError, nearest
from husai.sae.architectures import SAE

Tensors = dict[str, torch.Tensor]
DICTIONARIES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
    "GatedAutoEncoder",
)
OLD_ARCHITECTURES = {
    "topk": "topk",
    "matryoshka": "topk",
    "relu": "relu",
    "batchtopk": "batchtopk",
    "jumprelu": "jumprelu",
}


def read_tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file, on the CPU."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such file; give the directory the trainer saved") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise HusaiError(
            f"{path}: not a whole safetensors file ({one_line(error)}); copy it again from its "
            "source"
        ) from None


def read_pickle(path: Path) -> Any:
    """What a ``.pt`` file holds, read with ``weights_only=True``: a file that asks to run code is
    refused before anything runs.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise HusaiError(
            f"{path}: no such file; give a checkpoint or the directory the trainer saved"
        ) from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"class (\S+)", str(error))
        if found:
            wanted = found.group(1).rstrip(".,")
            raise HusaiError(
                f"{path}: refused, this pickle wants to run or build {wanted}; save the tensors "
                "alone (a state dict)"
            ) from None
        raise HusaiError(
            f"{path}: refused, not a pickle of plain tensors; save the tensors alone (a state dict)"
        ) from None
    except Exception as error:
        raise HusaiError(
            f"{path}: not a whole PyTorch file ({one_line(error)}); copy it again from its source"
        ) from None


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise HusaiError(
            f"{path}: no such file; it says how to read the weights beside it, copy it too"
        ) from None
    except (OSError, ValueError) as error:
        raise HusaiError(
            f"{path}: not readable as JSON ({one_line(error)}); copy it again from its source"
        ) from None
    if not isinstance(value, dict):
        raise HusaiError(
            f"{path}: holds a {type(value).__name__}, an object with the SAE's settings is needed"
        )
    return value


def from_dictionary_learning(directory: Path) -> SAE:
    """An SAE saved by dictionary_learning 0.1: ``ae.pt`` and ``config.json``, the class named by
    ``trainer.dict_class``.

    Gated dictionaries become the JumpReLU SAE they equal, ``AutoEncoder`` gets unit decoder norms
    as its own loader gives it, and BatchTopK reads with its global threshold."""
    settings_path, weights_path = directory / "config.json", directory / "ae.pt"
    config, state = read_config(settings_path), state_dict(read_pickle(weights_path), weights_path)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict) or "dict_class" not in trainer:
        raise HusaiError(
            f"{settings_path}: key trainer.dict_class is missing; it names the kind of dictionary "
            "in ae.pt"
        )
    kind = str(trainer["dict_class"])
    if kind not in DICTIONARIES:
        raise HusaiError(
            f"{settings_path}: trainer.dict_class '{kind}' cannot be read; known are "
            f"{', '.join(DICTIONARIES)}{nearest(kind, DICTIONARIES)}"
        )
    take = Taker(state, weights_path)
    W_enc, b_enc, W_dec = take.encoder_decoder()
    cfg = _scalars(
        {
            **trainer,
            "format": "dictionary_learning",
            "model_name": trainer.get("lm_name"),
            "hook_name": trainer.get("submodule_name"),
        }
    )
    if kind == "AutoEncoder":
        norms = W_dec.norm(dim=1).clamp_min(torch.finfo(W_dec.dtype).tiny)
        sae = SAE(
            "relu", W_enc * norms, W_dec / norms[:, None], b_enc * norms, take("bias"), cfg=cfg
        )
    elif kind == "AutoEncoderNew":
        sae = SAE(
            "relu", W_enc, W_dec, b_enc, take("decoder.bias"), cfg=cfg, apply_b_dec_to_input=False
        )
    elif kind == "GatedAutoEncoder":
        sae = gated(
            W_enc,
            W_dec,
            take("r_mag"),
            take("gate_bias"),
            take("mag_bias"),
            take("decoder_bias"),
            cfg,
            centred=True,
        )
    elif kind == "JumpReluAutoEncoder":
        sae = SAE(
            "jumprelu",
            W_enc,
            W_dec,
            b_enc,
            take("b_dec"),
            take("threshold"),
            cfg=cfg,
            apply_b_dec_to_input=False,
        )
    else:
        k = take.k(trainer.get("k"))
        threshold = None if kind == "AutoEncoderTopK" else take.global_threshold(W_dec)
        sae = SAE(
            "batchtopk" if threshold is not None else "topk",
            W_enc,
            W_dec,
            b_enc,
            take("b_dec"),
            threshold,
            k,
            cfg,
        )
    return _fits(
        sae,
        trainer.get("activation_dim"),
        trainer.get("dict_size"),
        weights_path,
        "trainer.activation_dim and trainer.dict_size",
    )


def from_sparsify(directory: Path) -> SAE:
    """A TopK SAE or transcoder saved by sparsify 1.x: ``cfg.json`` and ``sae.safetensors``."""
    settings_path, weights_path = directory / "cfg.json", directory / "sae.safetensors"
    config, take = read_config(settings_path), Taker(read_tensors(weights_path), weights_path)
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        name = "signed TopK" if config.get("signed") else f"activation '{config['activation']}'"
        raise HusaiError(
            f"{settings_path}: {name} has no counterpart here; only TopK coders are read"
        )
    if "W_skip" in take.tensors and bool(take("W_skip").any()):
        raise HusaiError(
            f"{weights_path}: W_skip is not zero; coders with a skip connection cannot be read as "
            "an SAE"
        )
    if not isinstance(config.get("k"), int):
        raise HusaiError(f"{settings_path}: key k is missing or not an integer")
    architecture = "transcoder" if config.get("transcode") else "topk"
    cfg = _scalars({**config, "format": "sparsify"})
    W_dec = take("W_dec")
    sae = SAE(
        architecture,
        take("encoder.weight").T.contiguous(),
        W_dec,
        take("encoder.bias"),
        take("b_dec"),
        k=config["k"],
        cfg=cfg,
    )
    return _fits(
        sae,
        config.get("d_in"),
        config.get("num_latents") or None,
        weights_path,
        "d_in and num_latents",
    )


def from_husai_pt(path: Path) -> SAE:
    """An old HUSAI checkpoint: ``model_state_dict`` with ``encoder.weight``, ``encoder.bias``,
    ``decoder.weight``, or ``W_enc``/``W_dec``.

    With ``encoder.*`` names nothing is subtracted from the input. With ``W_enc`` names the input is
    centred by ``b_dec`` except for JumpReLU, as in the SAEBench classes that wrote them. Old TopK
    kept negative values among its k largest; here they become zero."""
    loaded = read_pickle(path)
    state = state_dict(loaded, path)
    take, notes = (
        Taker(state, path),
        {k: v for k, v in loaded.items() if k not in ("model_state_dict", "sae_state_dict")},
    )
    W_enc, b_enc, W_dec = take.encoder_decoder()
    named = (
        str(notes.get("architecture") or _old_architecture(state, notes))
        .lower()
        .replace("_", "")
        .replace("-", "")
    )
    if named.removesuffix("topk") == "matryoshka":
        named = "matryoshka"
    if named not in OLD_ARCHITECTURES:
        raise HusaiError(
            f"{path}: architecture '{notes.get('architecture')}' cannot be read; known are "
            f"{', '.join(OLD_ARCHITECTURES)}"
        )
    architecture = OLD_ARCHITECTURES[named]
    k = take.k(notes.get("k")) if architecture in ("topk", "batchtopk") else None
    threshold = None
    if architecture == "batchtopk":
        threshold = take.global_threshold(W_dec)
    elif architecture == "jumprelu":
        threshold = take("log_threshold").exp() if "log_threshold" in state else take("threshold")
    b_dec = next(
        (state[name] for name in ("b_dec", "decoder.bias") if name in state),
        torch.zeros_like(W_dec[0]),
    )
    centred = notes.get("apply_b_dec_to_input", "W_enc" in state and architecture != "jumprelu")
    sae = SAE(
        architecture,
        W_enc,
        W_dec,
        b_enc,
        b_dec,
        threshold,
        k,
        _scalars({**notes, "format": "husai_pt"}),
        bool(centred),
    )
    return _fits(sae, notes.get("d_model"), notes.get("d_sae"), path, "d_model and d_sae")


def gated(
    W_enc: torch.Tensor,
    W_dec: torch.Tensor,
    r_mag: torch.Tensor,
    b_gate: torch.Tensor,
    b_mag: torch.Tensor,
    b_dec: torch.Tensor,
    cfg: dict[str, Any],
    centred: bool,
) -> SAE:
    """A gated SAE with tied encoders as the JumpReLU SAE it equals (Rajamanoharan et al.
    2404.16014).

    ``1[p + b_gate > 0] relu(e^r p + b_mag)`` with ``p`` the shared pre-activation is JumpReLU of
    ``e^r p + b_mag`` at threshold ``b_mag - e^r b_gate``."""
    scale = r_mag.exp()
    threshold = (b_mag - scale * b_gate).clamp_min(0)
    return SAE(
        "jumprelu",
        W_enc * scale,
        W_dec,
        b_mag,
        b_dec,
        threshold,
        cfg=cfg,
        apply_b_dec_to_input=centred,
    )


def state_dict(loaded: Any, path: Path) -> Tensors:
    """The named tensors inside a loaded checkpoint."""
    if not isinstance(loaded, dict):
        raise HusaiError(
            f"{path}: holds a {type(loaded).__name__}, not a dictionary of tensors; save a state "
            "dict"
        )
    state = next(
        (
            loaded[k]
            for k in ("model_state_dict", "sae_state_dict")
            if isinstance(loaded.get(k), dict)
        ),
        loaded,
    )
    tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise HusaiError(
            f"{path}: holds no tensors under model_state_dict or at the top; not an SAE checkpoint"
        )
    return tensors


class Taker:
    """Takes named tensors out of a state dict; a missing name is a one-line error that lists what
    is there.
    """

    def __init__(self, tensors: Tensors, path: Path):
        self.tensors, self.path = tensors, path

    def __call__(self, name: str) -> torch.Tensor:
        if name not in self.tensors:
            have = ", ".join(sorted(self.tensors)[:8])
            raise HusaiError(
                f"{self.path}: tensor {name} is missing (found: {have}); this is not a checkpoint "
                "of the expected kind"
            )
        tensor = self.tensors[name]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise HusaiError(
                f"{self.path}: tensor {name} holds NaN or infinity; its training broke down: "
                "train it again or leave it out"
            )
        return tensor

    def encoder_decoder(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``W_enc (d_in, d_sae)``, ``b_enc (d_sae,)``, ``W_dec (d_sae, d_in)``: as stored, or
        transposed under ``nn.Linear`` names.
        """
        if "W_enc" in self.tensors or "W_dec" in self.tensors:
            return self("W_enc"), self("b_enc"), self("W_dec")
        W_enc, W_dec = self("encoder.weight").T.contiguous(), self("decoder.weight").T.contiguous()
        b_enc = (
            self("encoder.bias") if "gate_bias" not in self.tensors else torch.zeros_like(W_enc[0])
        )
        return W_enc, b_enc, W_dec

    def k(self, configured: Any) -> int:
        """k from the settings or from the tensor of that name; both must agree."""
        found = [int(v) for v in (configured, self.tensors.get("k")) if v is not None]
        if not found:
            raise HusaiError(
                f"{self.path}: k is neither in the settings nor in the file; a TopK SAE cannot be "
                "read without it"
            )
        if len(set(found)) > 1:
            raise HusaiError(
                f"{self.path}: k is {found[0]} in the settings but {found[1]} in the file; they "
                "do not belong together"
            )
        return found[0]

    def global_threshold(self, W_dec: torch.Tensor) -> torch.Tensor:
        """One number as a threshold per latent ``(d_sae,)``."""
        value = float(self("threshold").reshape(-1)[0])
        if value < 0:
            raise HusaiError(
                f"{self.path}: the BatchTopK threshold is {value:g}, it was never measured; train "
                "past threshold_start_step"
            )
        return torch.full_like(W_dec[:, 0], value)


def _fits(sae: SAE, d_in: Any, d_sae: Any, path: Path, keys: str) -> SAE:
    """``sae`` when its sizes are those the settings name."""
    for name, have, want in (("d_in", sae.d_in, d_in), ("d_sae", sae.d_sae, d_sae)):
        if want is not None and have != int(want):
            raise HusaiError(
                f"{path}: the tensors give {name} = {have} but {keys} say {want}; settings and "
                "weights do not belong together"
            )
    return sae


def _old_architecture(state: Tensors, notes: dict[str, Any]) -> str:
    if "k" in state or notes.get("k") is not None:
        return (
            "batchtopk"
            if "threshold" in state
            and float(state["threshold"].reshape(-1)[0]) >= 0
            and state["threshold"].ndim == 0
            else "topk"
        )
    return "jumprelu" if "threshold" in state or "log_threshold" in state else "relu"


def _scalars(values: dict[str, Any]) -> dict[str, Any]:
    """The plain JSON values among checkpoint notes."""
    return {
        str(k): v
        for k, v in values.items()
        if v is not None and isinstance(v, (str, int, float, bool))
    }


def one_line(error: BaseException) -> str:
    """The message of an error on one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__

"""SAEs saved by dictionary_learning 0.1: a state dict of torch, and a ``config.json`` that says
which class it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.sae.architectures import SAE
from husai.sae.formats.files import Taker, read_config, read_pickle, scalars, state_dict
from husai.sae.formats.parts import Parts, check_sizes, gated

DICTIONARIES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
    "GatedAutoEncoder",
)
SIZES = "trainer.activation_dim and trainer.dict_size"


def read_dictionary(weights: Path, settings: Path) -> SAE:
    """The dictionary in ``weights`` (``ae.pt``, or ``checkpoints/ae_STEP.pt`` of a run that goes
    on), of the class that ``trainer.dict_class`` in ``settings`` names.

    Gated dictionaries become the JumpReLU SAE they equal, ``AutoEncoder`` gets unit decoder norms
    as its own loader gives it, and BatchTopK reads with its global threshold. A factor by which
    ``normalize_activations=True`` divides activations is folded in by the trainer itself, at every
    save.

    Raises
    ------
    HusaiError
        ``trainer.dict_class`` is missing or none of :data:`DICTIONARIES`, a file cannot be read, or
        the two do not belong together.
    """
    config = read_config(settings)
    take = Taker(state_dict(read_pickle(weights), weights), weights)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict) or "dict_class" not in trainer:
        raise HusaiError(
            f"{settings}: key trainer.dict_class is missing; it names the kind of dictionary in "
            f"{weights.name}"
        )
    kind = str(trainer["dict_class"])
    if kind not in DICTIONARIES:
        raise HusaiError(
            f"{settings}: trainer.dict_class '{kind}' has no counterpart here; read are "
            f"{', '.join(DICTIONARIES)}"
        )
    notes = {
        **trainer,
        "format": "dictionary_learning",
        "model_name": trainer.get("lm_name"),
        "hook_name": trainer.get("submodule_name"),
    }
    sae = _parts(kind, take, trainer.get("k")).sae(scalars(notes))
    sizes = trainer.get("activation_dim"), trainer.get("dict_size")
    return check_sizes(sae, *sizes, str(weights), SIZES)


def _parts(kind: str, take: Taker, k: Any) -> Parts:
    W_enc, b_enc, W_dec = take.encoder_decoder()
    if kind == "AutoEncoder":
        return Parts("relu", W_enc, W_dec, b_enc, take("bias")).unit_decoder()
    if kind == "AutoEncoderNew":
        return Parts("relu", W_enc, W_dec, b_enc, take("decoder.bias"), centred=False)
    if kind == "GatedAutoEncoder":
        names = ("r_mag", "gate_bias", "mag_bias", "decoder_bias")
        return gated(W_enc, W_dec, *(take(n) for n in names), centred=True)
    b_dec = take("b_dec")
    if kind == "JumpReluAutoEncoder":
        threshold = take.thresholds("threshold")
        return Parts("jumprelu", W_enc, W_dec, b_enc, b_dec, threshold, centred=False)
    if kind == "AutoEncoderTopK":
        return Parts("topk", W_enc, W_dec, b_enc, b_dec, k=take.k(k))
    threshold = take.global_threshold("threshold", len(W_dec), zero_measured=True)  # starts at -1
    return Parts("batchtopk", W_enc, W_dec, b_enc, b_dec, threshold, take.k(k))

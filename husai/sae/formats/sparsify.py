"""Sparse coders saved by sparsify 1.x: ``cfg.json`` and ``sae.safetensors``."""

from __future__ import annotations

from pathlib import Path

from husai.errors import HusaiError
from husai.sae.architectures import SAE
from husai.sae.formats.files import Taker, read_config, read_tensors, refuse_skip, scalars, whole
from husai.sae.formats.parts import Parts, check_sizes

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def read_sparse_coder(directory: Path) -> SAE:
    """A TopK SAE or transcoder.

    Raises
    ------
    HusaiError
        It has another activation, signed TopK or a skip connection, none of which is computed here;
        it has no k; or a file cannot be read or does not fit the other.
    """
    settings, weights = directory / CONFIG, directory / WEIGHTS
    config, take = read_config(settings), Taker(read_tensors(weights), weights)
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        name = "signed TopK" if config.get("signed") else f"activation '{config['activation']}'"
        raise HusaiError(f"{settings}: {name} has no counterpart here; only TopK coders are read")
    refuse_skip(take.tensors, weights)
    k = whole(config.get("k"), f"{settings}: k")
    if k is None:
        raise HusaiError(f"{settings}: key k is missing; a TopK coder cannot be read without it")
    transcodes = bool(config.get("transcode"))
    parts = Parts(
        "transcoder" if transcodes else "topk",
        take("encoder.weight").T.contiguous(),
        take("W_dec"),
        take("encoder.bias"),
        take("b_dec"),
        k=k,
        centred=not transcodes,
    )
    sae = parts.sae(scalars({**config, "format": "sparsify"}))
    sizes = config.get("d_in"), config.get("num_latents") or None
    return check_sizes(sae, *sizes, str(weights), "d_in and num_latents")

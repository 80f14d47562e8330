"""JumpReLU SAEs and transcoders of Gemma Scope (Lieberum et al. 2408.05147): ``params.npz``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from husai.errors import HusaiError
from husai.sae.architectures import SAE
from husai.sae.formats.files import Taker, reading
from husai.sae.formats.parts import Parts


def read_gemma_scope(path: Path) -> SAE:
    """The SAE in ``params.npz``; nothing is subtracted from its input.

    Nothing in the file tells a transcoder from an SAE of the same width, so the path does, as
    published: ``gemma-scope-2b-pt-transcoders/...``.

    Raises
    ------
    HusaiError
        The file is no whole archive of the tensors of an SAE, carries a ``scaling_factor`` other
        than 1, or is an embedding SAE: those read embeddings in another unit than the model's hook
        gives.
    """
    whole = reading(path, "not a whole archive of NumPy arrays")
    with whole, np.load(path, allow_pickle=False) as stored:
        tensors = {
            "W_" + name[2:] if name.startswith("w_") else name: torch.from_numpy(stored[name])
            for name in stored
        }
    if any("embedding" in part for part in path.parts[-4:-1]):
        raise HusaiError(
            f"{path}: an embedding SAE of Gemma Scope reads embeddings divided by the square root "
            "of the width; load it with saelens:gemma-scope-2b-pt-res/embedding/..."
        )
    factor = tensors.get("scaling_factor")
    if factor is not None and not torch.allclose(factor.float(), torch.ones(1)):
        raise HusaiError(f"{path}: carries a finetuning scaling_factor; fold it into W_dec")
    take = Taker(tensors, path)
    weights = [take(name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")]
    transcodes = any("transcoder" in part for part in path.parts)
    threshold = take.thresholds("threshold")
    parts = Parts("jumprelu", *weights, threshold, centred=False, transcodes=transcodes)
    return parts.sae({"format": "gemma_scope"})

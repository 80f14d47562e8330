"""Models under study behind one interface: activations at given hooks for given inputs. Only this
room knows TransformerLens.
"""

from __future__ import annotations

from pathlib import Path

import torch

from husai.errors import HusaiError
from husai.subjects.padding import PADDING
from husai.subjects.subject import Pass, Subject

TOKENIZER = "tokenizer.json"

__all__ = ["PADDING", "TOKENIZER", "Pass", "Subject", "load_subject"]


def load_subject(model_dir: str | Path, device: str | torch.device = "cpu") -> Subject:
    """Load a subject from its ``model/`` directory (or the ``manifest.json`` in it), in evaluation
    mode.

    Raises
    ------
    HusaiError
        When the directory holds no finished subject, its files are damaged, or the weights it
        refers to are no longer the same.
    """
    from husai.provenance import folder, read_json
    from husai.subjects import pretrained, transformer
    from husai.subjects.tokenizer import load_tokenizer

    directory = folder(model_dir)
    if not (directory / transformer.CONFIG).is_file():
        raise HusaiError(
            f"{directory}: holds no subject (no {transformer.CONFIG}); run 'husai subject' first"
        )
    if "rows" in read_json(directory / transformer.CONFIG):
        raise HusaiError(
            f"{directory}: a subject of kind rows has activations and no model; what needs a model "
            "(probing, CE-Bench, faithfulness, stress) cannot be measured on it"
        )
    try:
        model, record = pretrained.load(directory, device)
    except KeyError as error:
        raise HusaiError(
            f"{directory / transformer.CONFIG}: lacks {error}; run 'husai subject' again"
        ) from error
    tokenizer = load_tokenizer(directory / TOKENIZER) if (directory / TOKENIZER).is_file() else None
    spec = record.get("spec", {})
    name, kind = spec.get("name", directory.parent.name), spec.get("kind", "language")
    return Subject(name, kind, model, tokenizer, record)

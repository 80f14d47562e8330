"""Inputs that no SAE was trained on: contexts of a split of the subject's corpus, or pairs of a
modular subject with their answers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from husai.errors import HusaiError
from husai.subjects.contexts import load_contexts
from husai.subjects.subject import Subject


def held_out_texts(
    subject: Subject, model_dir: Path, split: str, n: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """At most ``n`` inputs of a split, in random order: token ids ``(n, T)`` int64, and the answers
    ``(n,)`` of a modular subject.

    Raises
    ------
    HusaiError
        The corpus has no such split.
    """
    generator = torch.Generator().manual_seed(seed)
    if subject.task == "answer":
        from husai.subjects import modular

        s = modular.settings(subject.config["spec"])
        data = modular.pairs(s["p"], s["train_fraction"], s["seed"])
        rows = modular.row_split(s["p"], s["seed"])[split]
        rows = rows[torch.randperm(len(rows), generator=generator)[:n]]
        tokens = modular.tokens(data.a, data.b, data.answer, s["p"], s["leak"])
        return tokens[rows], data.answer[rows]
    contexts = load_contexts(model_dir)
    if split not in contexts:
        raise HusaiError(
            f"{model_dir}: its corpus has no '{split}' split; set corpus.{split}_fraction above 0 "
            "and make the subject again"
        )
    chosen = torch.randperm(len(contexts[split]), generator=generator)[:n].numpy()
    return torch.from_numpy(np.asarray(contexts[split][chosen])).long(), None

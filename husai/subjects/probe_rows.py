"""Activations of one probing data set, and how much of its test text the subject was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from husai.probing import datasets, splits
from husai.provenance import atomic_path, hash_json
from husai.subjects import Subject


def corpus_hashes(model_dir: Path) -> np.ndarray | None:
    """Row hashes of the text a subject was trained on, int64 ``(n_documents,)``; None when it read
    no text.
    """
    from husai.subjects.text.contexts import CORPUS, load_contexts

    return load_contexts(model_dir)["hashes"] if (model_dir / CORPUS).is_file() else None


def write_probes(
    subject: Subject,
    data: datasets.Dataset,
    hooks: Sequence[str],
    files: Sequence[Path],
    max_tokens: int,
    known: np.ndarray | None,
    is_ood: bool = False,
) -> dict:
    """Write the last-token activations of a data set, one file per hook: ``x`` (n_rows, d) float32
    in file order and ``y`` (n_rows,) int64 labels.

    Parameters
    ----------
    max_tokens : int
        Tokens read of a row, at most the subject's context.
    known : ndarray or None
        See :func:`corpus_hashes`.
    is_ood : bool
        No probe is trained on any of its rows, so all are test rows.

    Returns
    -------
    dict
        Rows, test rows, test rows whose text is ``known``, a hash of the rows, the family.
    """
    from husai.subjects.text.corpus import hash_numbers

    hashes = hash_numbers([datasets.row_hash(p) for p in data.prompts])
    train_rows = [] if is_ood else splits.probe_train_rows(data.y)
    test = np.setdiff1d(np.arange(len(data.y)), train_rows)
    values = subject.activations(data.prompts, hooks, positions="last", max_tokens=max_tokens)
    for hook, path in zip(hooks, files, strict=True):
        with atomic_path(path) as temporary:
            save_file({"x": values[hook].contiguous(), "y": torch.from_numpy(data.y)}, temporary)
    return {
        "n_rows": len(data.y),
        "n_test": len(test),
        "text_overlap_rows": 0 if known is None else int(np.isin(hashes[test], known).sum()),
        "rows_sha256": hash_json([f"{h & 0xFFFFFFFFFFFFFFFF:016x}" for h in hashes.tolist()]),
        "family": data.family,
    }

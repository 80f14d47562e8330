"""Activations of one probing data set, and how much of its test text the subject was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from husai.errors import HusaiError
from husai.probing import datasets, splits
from husai.probing.files import save_probe_data
from husai.provenance import hash_json
from husai.subjects import Subject
from husai.subjects.text.contexts import CORPUS, load_contexts
from husai.subjects.text.corpus import hash_numbers


def corpus_hashes(model_dir: Path) -> np.ndarray | None:
    """Row hashes of the text a subject read, int64 ``(n_documents,)``; None when it read none."""
    return load_contexts(model_dir)["hashes"] if (model_dir / CORPUS).is_file() else None


def write_probes(
    subject: Subject,
    data: datasets.Dataset,
    files: dict[str, Path],
    *,
    pooling: str = "mean",
    max_tokens: int = 1024,
    dtype: torch.dtype = torch.float32,
    known: np.ndarray | None = None,
    is_ood: bool = False,
) -> dict:
    """Write the activations of a data set, one file per hook; see
    :func:`husai.probing.files.save_probe_data`.

    Parameters
    ----------
    files : dict
        ``{hook: file}``.
    pooling : {"mean", "last"}
        Which tokens of a row are kept: see :func:`kept_tokens`.
    max_tokens : int
        Tokens read of a row, at most the subject's context.
    dtype : torch.dtype
        Number format on disk.
    known : ndarray (n_documents,) or None
        Int64; see :func:`corpus_hashes`.
    is_ood : bool
        No probe is trained on any of its rows, so all are test rows.

    Returns
    -------
    dict
        Rows, tokens, test rows, test rows whose text is ``known``, a hash of the rows, the family.

    Raises
    ------
    HusaiError
        Activations are NaN or infinite as ``dtype``, the subject reads no text or lacks a hook, or
        the rows are too few to train a probe.
    """
    hashes = hash_numbers([datasets.row_hash(p) for p in data.prompts])
    train_rows = [] if is_ood else splits.probe_train_rows(data.y)
    test = np.setdiff1d(np.arange(len(data.y)), train_rows)
    ids = subject.encode(data.prompts, max_tokens)
    kept = [kept_tokens(subject, row, pooling) for row in ids]
    offsets = torch.tensor([0, *np.cumsum([len(k) for k in kept])])
    tokens = {
        hook: torch.empty(int(offsets[-1]), subject.width(hook), dtype=dtype) for hook in files
    }
    for rows, _, values in subject.passes(ids, list(files)):
        for hook, found in values.items():
            for row, value in zip(rows, found.cpu(), strict=True):
                tokens[hook][offsets[row] : offsets[row + 1]] = value[kept[row]].to(dtype)
    for hook, path in files.items():
        if not tokens[hook].sum(dtype=torch.float64).isfinite():
            raise HusaiError(
                f"subject '{subject.name}': NaN or infinite activations at '{hook}' in data set "
                f"'{data.name}' as {dtype}; store activations in float32 or load the subject again"
            )
        save_probe_data(path, tokens[hook], offsets, data.y, pooling)
    return {
        "n_rows": len(data.y),
        "n_tokens": int(offsets[-1]),
        "n_test": len(test),
        "text_overlap_rows": 0 if known is None else int(np.isin(hashes[test], known).sum()),
        "rows_sha256": hash_json([f"{h & 0xFFFFFFFFFFFFFFFF:016x}" for h in hashes.tolist()]),
        "family": data.family,
    }


def kept_tokens(subject: Subject, ids: np.ndarray, pooling: str) -> np.ndarray:
    """Positions ``(n_kept,)``, int64, of the tokens of one row, ``ids (n_tokens,)``, that its
    pooled activations are made of.

    ``last`` is the last token, as sae-probes reads it. ``mean`` are those that SAEs are trained on
    (:meth:`Subject.usable`): neither special tokens, nor the first token of a row, on which causal
    models pile up activations of another size. A row that has no others keeps its last token.
    """
    last = np.array([len(ids) - 1])
    if pooling == "last":
        return last
    usable = subject.usable(torch.as_tensor(ids).unsqueeze(0))[0]
    return np.flatnonzero(usable.numpy()) if usable.any() else last

"""Training text of the language subject and its SAEs: rows of the shipped data sets that occur in
no evaluation text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from husai.errors import HusaiError, nearest
from husai.probing import datasets, splits

DEFAULTS = {
    "selection": None,
    "confirmation": None,
    "ood": None,
    "max_rows": None,
    "max_chars_per_row": 1000,
    "max_rows_per_dataset": 4000,
    "max_chars": None,
    "held_out_fraction": 0.05,
    "confirmation_fraction": 0.05,
    "seed": 0,
}
SPLITS = ("train", "held_out", "confirmation")


class Corpus(NamedTuple):
    """Documents (one row of a data set each, all different) by split, and how they were chosen."""

    documents: dict[str, list[str]]
    """``{"train" | "held_out" | "confirmation": texts}``; no text is in two splits."""
    hashes: dict[str, list[str]]
    """Row hash of every document, same order."""
    report: dict
    """n_rows, n_excluded, overlap_rows, sha256, evaluation_sha256, rows per file and split."""


def settings(config: dict | None) -> dict:
    """``DEFAULTS`` overlaid with ``config``; an unknown key is an error that names the nearest
    known one.

    ``selection`` (A) and ``confirmation`` (B) are lists of data set names and ``max_rows`` the rows
    of each that are evaluated, as for the probes; data sets in neither list keep the half that
    :func:`husai.probing.datasets.split` gives them, so a subject stays clean for all 113."""
    config = config or {}
    for key in config:
        if key not in DEFAULTS:
            raise HusaiError(f"corpus.{key}: unknown key{nearest(key, tuple(DEFAULTS))}")
    merged = {**DEFAULTS, **config}
    if merged["held_out_fraction"] <= 0 or merged["confirmation_fraction"] < 0:
        raise HusaiError("corpus: held_out_fraction must be > 0 and confirmation_fraction >= 0")
    if merged["held_out_fraction"] + merged["confirmation_fraction"] >= 0.9:
        raise HusaiError(
            "corpus: held_out_fraction + confirmation_fraction must stay below 0.9; text for "
            "training would be missing"
        )
    return merged


def build_corpus(config: dict | None = None) -> Corpus:
    """Choose the training text: every row of the 155 files whose normalised text is in no
    evaluation text.

    Evaluation text is every row of the confirmation (B) and OOD data sets, the OOD files, and of
    the selection (A) data sets all rows but those that sae-probes draws to train a probe
    (``splits.probe_train_rows``).

    Raises
    ------
    HusaiError
        Unknown data set or key, a data set in both halves, or no text left.
    """
    config = settings(config)
    allowed = _trainable_rows(config)
    evaluation: set[str] = set()
    candidates: dict[str, tuple[str, str]] = {}
    n_read = 0
    for name in datasets.text_names():
        texts = datasets.load_texts(name)
        hashes = [datasets.row_hash(text) for text in texts]
        n_read += len(texts)
        keep = allowed.get(name)
        if keep is not None:
            evaluation.update(h for i, h in enumerate(hashes) if i not in keep)
        rows = range(len(texts)) if keep is None else sorted(keep)
        for i in rows:
            candidates.setdefault(hashes[i], (name, texts[i]))
    for name in datasets.ood_names() if config["ood"] is None else config["ood"]:
        evaluation.update(map(datasets.row_hash, datasets.load_ood(name).prompts))
    n_candidates = len(candidates)
    clean = {h: item for h, item in candidates.items() if h not in evaluation and item[1].strip()}
    chosen = _balance(clean, config)
    if not chosen:
        raise HusaiError(
            "corpus: no training text is left after excluding evaluation text; move data sets "
            "from confirmation to selection"
        )
    return _divide(
        chosen,
        config,
        evaluation,
        {"n_read": n_read, "n_candidates": n_candidates, "n_excluded": n_candidates - len(clean)},
    )


def _trainable_rows(config: dict) -> dict[str, set[int]]:
    """``{binary data set: rows that may be training text}``: probe-training rows of half A, nothing
    of half B and the OOD sets.
    """
    halves = {
        name: half for half, names in zip("AB", datasets.split(), strict=True) for name in names
    }
    ood = datasets.check_names(
        datasets.ood_names() if config["ood"] is None else config["ood"], "corpus.ood: data set"
    )
    for key, half in (("selection", "A"), ("confirmation", "B")):
        for name in datasets.check_names(config[key] or [], f"corpus.{key}: data set"):
            halves[name] = half
    both = set(config["selection"] or ()) & set(config["confirmation"] or ())
    if both:
        raise HusaiError(
            f"corpus: '{sorted(both)[0]}' is in selection and in confirmation; a data set belongs "
            "to one half"
        )
    rows: dict[str, set[int]] = {}
    for name, half in halves.items():
        if half == "B" or name in ood:
            rows[name] = set()
        else:
            y = datasets.load_dataset(name, config["max_rows"]).y
            rows[name] = set(splits.probe_train_rows(y).tolist())
    return rows


def _balance(clean: dict[str, tuple[str, str]], config: dict) -> list[tuple[str, str, str]]:
    """``[(hash, file, text)]`` in the order of the hash, with at most ``max_rows_per_dataset`` rows
    a file and ``max_chars`` in all.
    """
    counts: dict[str, int] = {}
    chosen, total = [], 0
    for h in sorted(clean):
        name, text = clean[h]
        if (
            config["max_rows_per_dataset"] is not None
            and counts.get(name, 0) >= config["max_rows_per_dataset"]
        ):
            continue
        if config["max_chars"] is not None and total >= config["max_chars"]:
            break
        text = text[: config["max_chars_per_row"]]
        counts[name] = counts.get(name, 0) + 1
        total += len(text)
        chosen.append((h, name, text))
    return chosen


def _divide(
    chosen: list[tuple[str, str, str]], config: dict, evaluation: set[str], counts: dict
) -> Corpus:
    """Deal documents to the splits at random and write the report."""
    order = np.random.default_rng(config["seed"]).permutation(len(chosen))
    n_held_out = max(1, round(len(chosen) * config["held_out_fraction"]))
    n_confirmation = round(len(chosen) * config["confirmation_fraction"])
    edges = {
        "held_out": order[:n_held_out],
        "confirmation": order[n_held_out : n_held_out + n_confirmation],
    }
    edges["train"] = order[n_held_out + n_confirmation :]
    documents = {split: [chosen[i][2] for i in edges[split]] for split in SPLITS}
    hashes = {split: [chosen[i][0] for i in edges[split]] for split in SPLITS}
    files: dict[str, int] = {}
    for _, name, _ in chosen:
        files[name] = files.get(name, 0) + 1
    every = [h for split in SPLITS for h in hashes[split]]
    report = {
        "n_rows": len(chosen),
        **counts,
        "overlap_rows": sum(h in evaluation for h in every),
        "n_chars": sum(len(text) for _, _, text in chosen),
        "n_evaluation_texts": len(evaluation),
        "rows_per_split": {split: len(documents[split]) for split in SPLITS},
        "rows_per_file": files,
        "sha256": text_sha256(text for split in SPLITS for text in documents[split]),
        "evaluation_sha256": text_sha256(sorted(evaluation)),
        "settings": config,
    }
    return Corpus(documents, hashes, report)


def text_sha256(texts: Iterable[str]) -> str:
    """SHA-256 over texts in order, each ended by a zero byte."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def hash_numbers(hashes: Sequence[str]) -> np.ndarray:
    """Row hashes (16 hex digits) as int64, ``(n,)``, for storage beside tensors."""
    return np.array([int(h, 16) for h in hashes], dtype=np.uint64).view(np.int64)

"""The probing data sets shipped inside sae-probes, read without importing it: rows, labels,
families, halves, OOD sets.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from husai.errors import HusaiError, nearest

OOD_IDS = (5, 6, 7, 66, 67, 73, 87, 90)
"""Numbers of the data sets for which sae-probes ships a test set from another domain."""

FAMILIES = {
    "hist_fig": ("hist_fig",),
    "nyc": ("nyc_",),
    "place": ("us_", "world_"),
    "headline": ("headline_",),
    "art": ("art_", "book_"),
    "arith": ("arith_",),
    "temporal": ("temp_",),
    "context": ("context_",),
    "ethics": ("cm_", "deon_", "just_", "virtue_"),
    "wikidata": ("wikidata",),
    "glue": ("glue_", "movie_sent"),
    "agnews": ("news_class", "agnews_", "code_"),
    "hate": ("hate_",),
    "cancer": ("cancer_",),
    "disease": ("disease_class",),
    "twt_emotion": ("twt_emotion",),
    "it_tick": ("it_tick",),
    "athlete": ("athlete_", "ball_ws"),
    "ai_text": ("ai_gen", "aimade_"),
    "reviews": ("yelp_", "amzn_", "amazon_"),
}
"""How the tags of each family begin. Data sets whose texts overlap share a family: agnews reuses
code rows as negatives and news_class has agnews articles, movie_sent has glue_sst2 sentences, us_*
and world_* share place names."""


class Dataset(NamedTuple):
    """One binary text classification data set."""

    name: str
    """Numbered tag, e.g. ``87_glue_cola``."""
    prompts: list[str]
    """Texts in file order."""
    y: np.ndarray
    """int64 labels 0/1, ``(n_rows,)``: positions of the sorted distinct targets."""
    family: str
    """Group of related data sets; see :func:`family`."""


@functools.cache
def data_root() -> Path:
    """Folder ``data`` of the installed sae-probes package.

    Raises
    ------
    HusaiError
        When the package or its data is not installed.
    """
    spec = importlib.util.find_spec("sae_probes")
    root = Path(spec.origin).parent / "data" if spec is not None and spec.origin else None
    if root is None or not (root / "probing_datasets_MASTER.csv.zst").is_file():
        raise HusaiError(
            "sae-probes: the package or its data folder is not installed; run 'pip install "
            "sae-probes==0.4.2'"
        )
    return root


def _read(path: Path):
    import pandas

    try:
        return pandas.read_csv(path, compression="zstd")
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such data file; reinstall sae-probes==0.4.2") from None
    except (OSError, ValueError, UnicodeError) as error:
        raise HusaiError(f"{path}: not readable ({error}); reinstall sae-probes==0.4.2") from error


@functools.cache
def _master() -> dict[str, Path]:
    """``{numbered tag: file}`` of the binary data sets, in the package's own order."""
    table = _read(data_root() / "probing_datasets_MASTER.csv.zst")
    binary = table[table["Data type"] == "Binary Classification"]
    files = [data_root() / f"{name}.zst" for name in binary["Dataset save name"]]
    return {path.name.removesuffix(".csv.zst"): path for path in files}


@functools.cache
def dataset_names() -> tuple[str, ...]:
    """Numbered tags of the 113 binary data sets, in the package's order."""
    return tuple(_master())


@functools.cache
def text_names() -> tuple[str, ...]:
    """Numbered tags of all 155 text files: the binary ones and 42 with other targets."""
    files = (data_root() / "cleaned_data").glob("*.csv.zst")
    return tuple(sorted((file.name.removesuffix(".csv.zst") for file in files), key=number))


def ood_names() -> list[str]:
    """Numbered tags of the eight data sets (``OOD_IDS``) that have an OOD test set."""
    return [name for name in dataset_names() if number(name) in OOD_IDS]


def number(name: str) -> int:
    """Leading number of a numbered tag.

    Raises
    ------
    HusaiError
        What stands before the first ``_`` is no number.
    """
    head = name.split("_")[0]
    if not head.isdigit():
        raise HusaiError(
            f"data set '{name}': a numbered name such as 87_glue_cola was "
            f"expected{nearest(name, dataset_names())}"
        )
    return int(head)


def check_names(names: Sequence[str], where: str = "data set") -> list[str]:
    """Return ``names`` as a list.

    Raises
    ------
    HusaiError
        A name is none of the binary data sets; the nearest known names are listed.
    """
    known = dataset_names()
    for name in names:
        if name not in known:
            import difflib

            close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
            hint = f"nearest: {', '.join(close)}" if close else f"known: {known[0]} ... {known[-1]}"
            raise HusaiError(
                f"{where} '{name}': not one of the {len(known)} binary data sets of sae-probes; "
                f"{hint}"
            )
    return list(names)


def encode_labels(targets: Sequence, name: str) -> np.ndarray:
    """Positions of the targets among their sorted distinct values, int64 ``(n_rows,)``.

    Raises
    ------
    HusaiError
        When there are not exactly two classes.
    """
    classes, y = np.unique(np.asarray(targets), return_inverse=True)
    if len(classes) != 2:
        found = ", ".join(str(c) for c in classes[:3])
        raise HusaiError(
            f"data set '{name}': needs two classes, has {len(classes)} ({found}); remove it from "
            "the list of data sets or use more rows"
        )
    return y.astype(np.int64)


def load_dataset(name: str, max_rows: int | None = None) -> Dataset:
    """Read a binary data set by numbered tag; ``max_rows`` keeps its first rows only (labels are
    encoded on what is kept).

    Raises
    ------
    HusaiError
        Unknown name (with the nearest ones), unreadable file, or a single class among the rows
        kept.
    """
    check_names([name])
    return _dataset(name, _read(_master()[name]).iloc[:max_rows])


def load_ood(name: str) -> Dataset:
    """Read the out-of-distribution test set of a data set (``OOD data/{name}_OOD.csv.zst``).

    Raises
    ------
    HusaiError
        When the data set has none.
    """
    check_names([name])
    if name not in ood_names():
        raise HusaiError(
            f"data set '{name}': has no out-of-distribution set; those that do: "
            f"{', '.join(ood_names())}"
        )
    return _dataset(name, _read(data_root() / "OOD data" / f"{name}_OOD.csv.zst"))


def _dataset(name: str, table) -> Dataset:
    labels = encode_labels(table["target"].to_numpy(), name)
    return Dataset(name, [str(p) for p in table["prompt"]], labels, family(name))


def load_texts(name: str) -> list[str]:
    """Texts of any of the 155 files, in file order; targets are not read.

    Raises
    ------
    HusaiError
        There is no text file of that name, or it is not readable.
    """
    if name not in text_names():
        raise HusaiError(
            f"data set '{name}': not one of the {len(text_names())} text files of "
            f"sae-probes{nearest(name, text_names())}"
        )
    return [str(p) for p in _read(data_root() / "cleaned_data" / f"{name}.csv.zst")["prompt"]]


def family(name: str) -> str:
    """Group of related data sets a numbered tag belongs to; its own tag when it stands alone.

    Intervals are clustered by family and a half of :func:`split` never cuts through one. The 21
    compound-word sets (``65_high-school`` ... ``85_mental-health``) are ``bigram``."""
    tag = name.split("_", 1)[1] if "_" in name else name
    if "-" in tag and 65 <= number(name) <= 85:
        return "bigram"
    for group, beginnings in FAMILIES.items():
        if tag.startswith(beginnings):
            return group
    return tag


@functools.cache
def _halves() -> dict[str, str]:
    """``{family: half}``: largest first into the smaller half, ties by a hash of the name."""
    sizes = Counter(map(family, dataset_names()))
    order = sorted(sizes, key=lambda f: (-sizes[f], hashlib.sha256(f.encode()).hexdigest()))
    totals, halves = {"A": 0, "B": 0}, {}
    for group in order:
        halves[group] = min(totals, key=totals.__getitem__)
        totals[halves[group]] += sizes[group]
    return halves


def split(
    names: Sequence[str] | None = None, half: str | None = None
) -> list[str] | tuple[list[str], list[str]]:
    """Selection half A and confirmation half B, by family: the half of a data set never depends on
    which others are in use.

    Parameters
    ----------
    names : sequence of str, optional
        Data sets to divide, order kept; all 113 by default.
    half : {"A", "B"}, optional
        Return this half only; by default the pair ``(A, B)``.

    Raises
    ------
    HusaiError
        A name is none of the binary data sets, or ``half`` is neither A nor B.
    """
    names = check_names(dataset_names() if names is None else names)
    halves = {h: [n for n in names if _halves()[family(n)] == h] for h in "AB"}
    if half is None:
        return halves["A"], halves["B"]
    if half not in halves:
        raise HusaiError(f"split: half '{half}' is not A or B")
    return halves[half]


def row_hash(text: str) -> str:
    """16 hex digits of the SHA-256 of a text in lower case, white space runs made one space: equal
    hashes mean the same text.
    """
    return hashlib.sha256(" ".join(str(text).lower().split()).encode()).hexdigest()[:16]

"""Text that SAEs and language subjects read: documents from the corpus' sources, each once, none of
which is evaluation text, dealt to splits; read as a stream, so that a corpus may exceed memory.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from husai.errors import HusaiError
from husai.probing import datasets, splits
from husai.subjects.text.contamination import Runs
from husai.subjects.text.sources import read_source, shuffled

SPLITS = ("train", "held_out", "confirmation")
COUNTS = (
    "n_read",
    "n_rows",
    "n_chars",
    "n_duplicates",
    "n_excluded_rows",
    "n_excluded_runs",
    "overlap_rows",
)
BATCH = 512
"""Documents compared with evaluation text at once."""


class Document(NamedTuple):
    """A text of the corpus."""

    split: str
    """``train``, ``held_out`` or ``confirmation``."""
    row_hash: str
    """16 hex digits; see :func:`husai.probing.datasets.row_hash`."""
    text: str


class Corpus:
    """Documents that are read anew at each iteration, always the same ones in the same order.

    ``report`` counts them (read, duplicates, excluded by row hash and by shared runs, kept per
    split and source) and describes them once an iteration is over."""

    def __init__(self, read: Callable[[dict], Iterator[Document]]):
        self._read, self.report = read, {}

    def __iter__(self) -> Iterator[Document]:
        return self._read(self.report)


def build_corpus(config: dict) -> Corpus:
    """The corpus of a configuration, the values of ``husai.planning.specs.CorpusSpec``.

    A document is left out when its normalised text was there before, when it is evaluation text,
    or when it shares a run of 13 words with evaluation text. Evaluation text is every row of the
    confirmation (B) and OOD data sets, the OOD files, and of the selection (A) data sets all rows
    but those that sae-probes draws to train a probe (``splits.probe_train_rows``). Data sets in
    neither list keep the half that :func:`husai.probing.datasets.split` gives them, so a subject
    stays clean for all 113.

    Raises
    ------
    HusaiError
        ``held_out_fraction`` is not above 0, ``confirmation_fraction`` is below 0, or the two sum
        to 0.9 or more; an unknown data set, or one in both halves; while reading, see
        :func:`husai.subjects.text.sources.read_source`; at the end, a corpus without documents.
    """
    held_out, confirmation = config["held_out_fraction"], config["confirmation_fraction"]
    if held_out <= 0 or confirmation < 0:
        raise HusaiError("corpus: held_out_fraction must be > 0 and confirmation_fraction >= 0")
    if held_out + confirmation >= 0.9:
        raise HusaiError(
            "corpus: held_out_fraction + confirmation_fraction must stay below 0.9; text for "
            "training would be missing"
        )
    allowed = trainable_rows(config)
    evaluation = Evaluation(config, allowed)

    def documents(report: dict) -> Iterator[Document]:
        report.clear()
        yield from _clean(_read_all(config, allowed), config, evaluation, report)

    return Corpus(documents)


class Evaluation:
    """Evaluation text: row hashes and runs of 13 words."""

    def __init__(self, config: dict, allowed: dict[str, set[int]]):
        self.hashes: set[str] = set()
        self.runs = Runs(self._texts(config, allowed))

    def _texts(self, config: dict, allowed: dict[str, set[int]]) -> Iterator[str]:
        for name, keep in allowed.items():
            for i, text in enumerate(datasets.load_texts(name)):
                if i not in keep:
                    self.hashes.add(datasets.row_hash(text))
                    yield text
        for name in config["ood"]:
            for text in datasets.load_ood(name).prompts:
                self.hashes.add(datasets.row_hash(text))
                yield text


def trainable_rows(config: dict) -> dict[str, set[int]]:
    """``{binary data set: rows that may be training text}``: probe-training rows of half A, nothing
    of half B and the OOD sets.

    Raises
    ------
    HusaiError
        A data set is unknown, or in ``selection`` and in ``confirmation``.
    """
    halves = {
        name: half for half, names in zip("AB", datasets.split(), strict=True) for name in names
    }
    ood = datasets.check_names(config["ood"], "corpus.ood: data set")
    for key, half in (("selection", "A"), ("confirmation", "B")):
        for name in datasets.check_names(config[key], f"corpus.{key}: data set"):
            halves[name] = half
    both = set(config["selection"]) & set(config["confirmation"])
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


class _Read(NamedTuple):
    """A text as it comes from a source."""

    source: str
    text: str
    most: int | None
    """Documents taken from this source at most."""


def _read_all(config: dict, allowed: dict[str, set[int]]) -> Iterator[_Read]:
    """Texts of every source in turn."""
    for number, source in enumerate(config["sources"]):
        seed = config["seed"] + number
        if source["kind"] == "probing":
            # They fit in memory many times over: one shuffle buffer for the whole.
            yield from shuffled(_probing_rows(config, allowed), seed, size=1 << 30)
        else:
            name = source.get("name") or " ".join(source.get("paths", [str(number)]))
            yield from (_Read(name, text, None) for text in read_source(source, seed))


def _probing_rows(config: dict, allowed: dict[str, set[int]]) -> Iterator[_Read]:
    """Rows of the shipped data sets that may be trained on."""
    for name in datasets.text_names():
        texts, keep = datasets.load_texts(name), allowed.get(name)
        for i in range(len(texts)) if keep is None else sorted(keep):
            if texts[i].strip():
                yield _Read(name, texts[i], config["max_rows_per_dataset"])


def _clean(
    texts: Iterator[_Read], config: dict, evaluation: Evaluation, report: dict
) -> Iterator[Document]:
    """Documents that are new and no evaluation text; fills ``report`` at the end."""
    counts, per_split, sources = Counter(), Counter(), Counter()
    seen: set[int] = set()
    digest = hashlib.sha256()
    try:
        while batch := list(itertools.islice(texts, BATCH)):
            batch = [r for r in batch if r.most is None or sources[r.source] < r.most]
            cut = [r.text[: config["max_chars_per_row"]] for r in batch]
            shared = evaluation.runs.shared_by(cut)
            for (source, whole, most), text, in_run in zip(batch, cut, shared, strict=True):
                if most is not None and sources[source] >= most:
                    continue
                counts["n_read"] += 1
                row_hash = datasets.row_hash(whole)
                why = _why_left_out(row_hash, in_run, seen, evaluation)
                if why:
                    counts[why] += 1
                    continue
                seen.add(int(row_hash, 16))
                split = _split(row_hash, config)
                overlap = row_hash in evaluation.hashes
                counts.update(n_rows=1, n_chars=len(text), overlap_rows=int(overlap))
                per_split[split] += 1
                sources[source] += 1
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
                yield Document(split, row_hash, text)
    finally:  # a reader that has enough stops here
        known = "".join(f"{row_hash}\0" for row_hash in sorted(evaluation.hashes))
        report |= {key: counts[key] for key in COUNTS}
        report |= {
            "n_excluded": counts["n_excluded_rows"] + counts["n_excluded_runs"],
            "n_evaluation_texts": len(evaluation.hashes),
            "n_evaluation_runs": len(evaluation.runs),
            "rows_per_split": {split: per_split[split] for split in SPLITS},
            "rows_per_file": dict(sources),
            "sha256": digest.hexdigest(),
            "evaluation_sha256": hashlib.sha256(known.encode()).hexdigest(),
            "settings": config,
        }
    if not counts["n_read"]:
        named = [one.get("paths") or one.get("name") or one["kind"] for one in config["sources"]]
        raise HusaiError(f"corpus.sources: no text in {named}; name files or data sets with some")
    if not counts["n_rows"]:
        raise HusaiError(
            f"corpus: no text is left of {counts['n_read']} documents ({report['n_excluded']} are "
            "or repeat evaluation text); name other sources, or move data sets from confirmation "
            "to selection"
        )


def _why_left_out(row_hash: str, in_run: bool, seen: set[int], evaluation: Evaluation) -> str:
    if int(row_hash, 16) in seen:
        return "n_duplicates"
    if row_hash in evaluation.hashes:
        return "n_excluded_rows"
    return "n_excluded_runs" if in_run else ""


def _split(row_hash: str, config: dict) -> str:
    """The split of a document, by its text alone, so that no text is in two splits."""
    drawn = hashlib.sha256(f"{config['seed']}:{row_hash}".encode()).digest()
    place = int.from_bytes(drawn[:8]) / 2**64
    if place < config["held_out_fraction"]:
        return "held_out"
    place -= config["held_out_fraction"]
    return "confirmation" if place < config["confirmation_fraction"] else "train"


def hash_numbers(hashes: Sequence[str]) -> np.ndarray:
    """Row hashes (16 hex digits) as int64, ``(n,)``, for storage beside tensors."""
    return np.array([int(h, 16) for h in hashes], dtype=np.uint64).view(np.int64)

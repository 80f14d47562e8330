"""Story pairs for CE-Bench: drawn from opposite classes of the probing data sets, from the hub's
contrastive stories, or from a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from husai import provenance
from husai.errors import HusaiError, nearest
from husai.probing import datasets, splits

HUB_NAMES = tuple(f"GulkoA/contrastive-stories-{version}" for version in ("v1", "v2", "v3", "v4"))

HALVES = {"selection": "A", "confirmation": "B"}


class Pair(NamedTuple):
    """Two contrastive stories about one theme."""

    theme: str
    """CE-Bench's subject, or the probing data set the two texts come from."""
    family: str
    """Group of related themes."""
    story_a: str
    story_b: str
    rows: tuple[int, int]
    """Where the two texts stand in their source: rows of the data set, or the row of the story file
    twice.
    """


def pairs_hash(pairs: Sequence[Pair]) -> str:
    """16 hex digits that identify the themes and texts of ``pairs`` and their order."""
    return provenance.hash_json([[p.theme, p.story_a, p.story_b] for p in pairs])[:16]


def embedded_pairs(
    n_pairs: int,
    seed: int,
    half: str | None = None,
    names: Sequence[str] | None = None,
    max_rows: int | None = None,
) -> list[Pair]:
    """Pairs of texts from opposite classes of one data set: story A has label 1, story B label 0.

    Data sets take turns, in the order of a hash of their names, until there are enough pairs; one
    that runs out of rows drops out. The draw of a data set depends on ``seed`` and its name alone.
    No row, nor a copy of it, is used twice, and none is a row that a probe trains on or a copy of
    one, which keeps every story out of the subject's training text.

    Parameters
    ----------
    n_pairs : int
        Pairs in all.
    half : {"A", "B"}, optional
        Only data sets of the selection half A or the confirmation half B, which share no family.
    names : sequence of str, optional
        Data sets to draw from; all 113 by default.
    max_rows : int, optional
        Rows in use per data set, as in the probing stage.

    Raises
    ------
    HusaiError
        No data set in that half, or too few test rows in all.
    """
    names = datasets.dataset_names() if names is None else names
    chosen = datasets.check_names(names, "external.cebench: data set")
    chosen = datasets.split(chosen, half) if half else chosen
    if not chosen or n_pairs < 1:
        raise HusaiError(
            f"external.cebench: {n_pairs} pairs from {len(chosen)} data sets (half "
            f"{half or 'any'}); ask for at least one of each"
        )
    drawn: dict[str, list[Pair]] = {name: [] for name in chosen}
    draws = {
        name: _draw(datasets.load_dataset(name, max_rows), seed)
        for name in sorted(chosen, key=datasets.row_hash)
    }
    left = n_pairs
    while left and draws:
        for name in list(draws)[:left]:
            pair = next(draws[name], None)
            if pair is None:
                del draws[name]
            else:
                drawn[name].append(pair)
                left -= 1
    if left:
        raise HusaiError(
            f"external.cebench.n_pairs: {n_pairs} pairs were asked for but the test rows of "
            f"{len(chosen)} data sets give {n_pairs - left}; ask for fewer pairs, more data sets "
            "or more rows"
        )
    return [pair for name in chosen for pair in drawn[name]]


def _draw(data: datasets.Dataset, seed: int) -> Iterator[Pair]:
    """Pairs of one data set in random order, until a class runs out of unused test rows."""
    rng = np.random.default_rng([seed, datasets.number(data.name)])
    train = splits.probe_train_rows(data.y)
    rest = np.setdiff1d(np.arange(len(data.y)), train)
    used = {datasets.row_hash(data.prompts[i]) for i in train}

    def fresh(rows: list[int]) -> Iterator[int]:
        for i in rows:
            key = datasets.row_hash(data.prompts[i])
            if data.prompts[i].strip() and key not in used:
                used.add(key)
                yield i

    shuffled = [rng.permutation(rest[data.y[rest] == label]).tolist() for label in (1, 0)]
    for a, b in zip(*map(fresh, shuffled), strict=False):
        yield Pair(data.name, data.family, data.prompts[a], data.prompts[b], (a, b))


def hub_pairs(name: str, n_pairs: int, half: str | None = None) -> list[Pair]:
    """Pairs of one of CE-Bench's own data sets on the model hub (``HUB_NAMES``), first rows first.

    Raises
    ------
    HusaiError
        Unknown name, package ``datasets`` missing, or the hub out of reach.
    """
    if name not in HUB_NAMES:
        raise HusaiError(
            f"external.cebench.hub_version: '{name}' is not a .jsonl file nor one of "
            f"{', '.join(HUB_NAMES)}{nearest(name, HUB_NAMES)}"
        )
    try:
        import datasets as hub

        table = hub.load_dataset(name, split="train")
    except Exception as error:
        raise HusaiError(
            f"external.cebench.hub_version: {name} could not be read from the hub "
            f"({type(error).__name__}); connect this machine or fill its cache, name a .jsonl "
            "file with story1, story2 and subject_title, or set external.cebench.source to embedded"
        ) from error
    return _select((dict(row) for row in table), name, n_pairs, half)


def file_pairs(path: str | Path, n_pairs: int, half: str | None = None) -> list[Pair]:
    """Pairs from a file with one JSON object per line: ``story1``, ``story2`` and ``subject_title``
    (or ``subject``).

    Raises
    ------
    HusaiError
        The file cannot be read, a line is not JSON or lacks one of these, or there are fewer than
        ``n_pairs`` pairs.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise HusaiError(
            f"{path}: not readable as one JSON object per line ({error}); export the story pairs "
            "again"
        ) from error
    return _select(rows, str(path), n_pairs, half)


def _select(rows: Iterable, source: str, n_pairs: int, half: str | None) -> list[Pair]:
    pairs: list[Pair] = []
    for i, row in enumerate(rows):
        if len(pairs) == n_pairs:
            break
        row = row if isinstance(row, dict) else {}
        theme = row.get("subject_title", row.get("subject"))
        texts = [row.get("story1"), row.get("story2")]
        if theme is None or not all(isinstance(text, str) for text in texts):
            raise HusaiError(
                f"{source}: row {i} needs the texts story1, story2 and a subject_title"
            )
        if not half or _half(str(theme)) == half:
            pairs.append(Pair(str(theme), str(theme), *texts, (i, i)))
    if len(pairs) < n_pairs:
        raise HusaiError(
            f"{source}: has {len(pairs)} pairs in half {half or 'any'}, {n_pairs} were asked for; "
            "ask for fewer"
        )
    return pairs


def _half(theme: str) -> str:
    """Half of a theme: the parity of a hash of its name, so that it never depends on the other
    themes.
    """
    return "AB"[int(provenance.hash_json(theme)[:8], 16) % 2]


def split_pairs(spec: dict, split: str) -> list[Pair]:
    """Pairs of one split of the pipeline, from a CE-Bench section of the configuration.

    Parameters
    ----------
    spec : dict
        ``source`` (``embedded`` or ``hub``), ``n_pairs`` per split, ``hub_version`` (name or
        ``.jsonl`` file), ``seed``, ``max_rows``, and the data set names ``selection`` and
        ``confirmation`` (missing: the halves A and B of all).
    split : {"selection", "confirmation"}
        The two share no theme: data set families for ``embedded``, subjects for stories.

    Raises
    ------
    HusaiError
        ``split`` is neither of the two, or there are fewer pairs than asked for.
    """
    if split not in HALVES:
        raise HusaiError(f"CE-Bench: split '{split}' is not one of {', '.join(HALVES)}")
    half, n_pairs = HALVES[split], spec["n_pairs"]
    if spec["source"] == "embedded":
        names, seed, rows = spec.get(split) or None, spec.get("seed", 0), spec.get("max_rows")
        return embedded_pairs(n_pairs, seed, None if names else half, names, rows)
    source = spec["hub_version"]
    read = file_pairs if source.endswith(".jsonl") else hub_pairs
    return read(source, n_pairs, half)

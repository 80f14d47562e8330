"""Story pairs for CE-Bench: drawn from opposite classes of the probing data sets, from the hub's contrastive stories, or from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from husai import provenance
from husai.errors import HusaiError
from husai.external import datasets

HUB_NAMES = {version: f"GulkoA/contrastive-stories-{version}" for version in ("v1", "v2", "v3", "v4")}


class Pair(NamedTuple):
    """Two contrastive stories about one theme."""

    theme: str
    """CE-Bench's subject, or the probing data set the two texts come from."""
    family: str
    """Group of related themes."""
    story_a: str
    story_b: str
    rows: tuple[int, int]
    """Where the two texts stand in their source: rows of the data set, or the row of the story file twice."""


def pairs_hash(pairs: Sequence[Pair]) -> str:
    """16 hex digits that identify the themes and texts of ``pairs`` and their order."""
    return provenance.hash_json([[p.theme, p.story_a, p.story_b] for p in pairs])[:16]


def test_rows(data: datasets.Dataset) -> np.ndarray:
    """Rows whose text a probe never trains on: not drawn for training, and no copy of a row that was."""
    train = datasets.probe_train_rows(data.y)
    seen = {datasets.row_hash(data.prompts[i]) for i in train}
    rest = np.setdiff1d(np.arange(len(data.y)), train)
    return np.array([i for i in rest if datasets.row_hash(data.prompts[i]) not in seen], dtype=np.int64)


def embedded_pairs(
    n_pairs: int, seed: int, half: str | None = None, names: Sequence[str] | None = None, max_rows: int | None = None
) -> list[Pair]:
    """Pairs of texts from opposite classes of one data set: story A has label 1, story B label 0.

    Every data set contributes equally (the first ones one more when it does not divide). The draw of a data set depends on ``seed`` and its
    name alone, so other data sets never change it; rows are drawn without replacement from :func:`test_rows`.

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
        No data set in that half, or one with too few test rows of a class.
    """
    chosen = datasets.check_names(datasets.dataset_names() if names is None else names)
    chosen = datasets.split(chosen, half) if half else chosen
    if not chosen or n_pairs < 1:
        raise HusaiError(
            f"external.cebench: {n_pairs} pairs from {len(chosen)} data sets (half {half or 'any'}); ask for at least one of each"
        )
    each, more = divmod(n_pairs, len(chosen))
    pairs = []
    for i, name in enumerate(chosen):
        n = each + (i < more)
        if n:
            pairs += _draw(datasets.load_dataset(name, max_rows), n, seed)
    return pairs


def _draw(data: datasets.Dataset, n: int, seed: int) -> list[Pair]:
    """Draw ``n`` pairs of one data set; a larger ``n`` only adds pairs."""
    rng = np.random.default_rng([seed, datasets.number(data.name)])
    rows = test_rows(data)
    positive, negative = rng.permutation(rows[data.y[rows] == 1]), rng.permutation(rows[data.y[rows] == 0])
    usable = [(int(a), int(b)) for a, b in zip(positive, negative, strict=False) if _differ(data.prompts[a], data.prompts[b])]
    if len(usable) < n:
        raise HusaiError(
            f"data set '{data.name}': {n} pairs were asked for but its test rows ({len(positive)} positive, {len(negative)} negative) "
            f"give {len(usable)}; ask for fewer pairs, more data sets or more rows"
        )
    return [Pair(data.name, data.family, data.prompts[a], data.prompts[b], (a, b)) for a, b in usable[:n]]


def _differ(a: str, b: str) -> bool:
    return bool(a.strip()) and bool(b.strip()) and datasets.row_hash(a) != datasets.row_hash(b)


def hub_pairs(version: str, n_pairs: int | None = None, half: str | None = None) -> list[Pair]:
    """Pairs of CE-Bench's own data set ``GulkoA/contrastive-stories-{version}`` on the model hub, first rows first.

    Raises
    ------
    HusaiError
        Unknown version, package ``datasets`` missing, or the hub out of reach.
    """
    if version not in HUB_NAMES:
        raise HusaiError(f"external.cebench.pairs: '{version}' is not one of {', '.join(HUB_NAMES)}, embedded, or a .jsonl file")
    try:
        import datasets as hub

        table = hub.load_dataset(HUB_NAMES[version], split="train")
    except Exception as error:
        raise HusaiError(
            f"external.cebench.pairs: {HUB_NAMES[version]} could not be read from the hub ({type(error).__name__}); connect this machine "
            "or fill its cache, name a .jsonl file with story1, story2 and subject_title, or set it to 'embedded'"
        ) from error
    return _select((dict(row) for row in table), HUB_NAMES[version], n_pairs, half)


def file_pairs(path: str | Path, n_pairs: int | None = None, half: str | None = None) -> list[Pair]:
    """Pairs from a file with one JSON object per line: ``story1``, ``story2`` and ``subject_title`` (or ``subject``)."""
    try:
        lines = Path(path).read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise HusaiError(f"{path}: not readable as one JSON object per line ({error}); export the story pairs again") from error
    return _select(rows, str(path), n_pairs, half)


def _select(rows, source: str, n_pairs: int | None, half: str | None) -> list[Pair]:
    pairs = []
    for i, row in enumerate(rows):
        if n_pairs is not None and len(pairs) == n_pairs:
            break
        theme = row.get("subject_title", row.get("subject")) if isinstance(row, dict) else None
        if theme is None or not isinstance(row.get("story1"), str) or not isinstance(row.get("story2"), str):
            raise HusaiError(f"{source}: row {i} needs the texts story1, story2 and a subject_title")
        if not half or _half(str(theme)) == half:
            pairs.append(Pair(str(theme), str(theme), row["story1"], row["story2"], (i, i)))
    if len(pairs) < (n_pairs or 1):
        raise HusaiError(f"{source}: has {len(pairs)} pairs in half {half or 'any'}, {n_pairs or 1} were asked for; ask for fewer")
    return pairs


def _half(theme: str) -> str:
    """Half of a theme: the parity of a hash of its name, so that it never depends on the other themes."""
    return "AB"[int(provenance.hash_json(theme)[:8], 16) % 2]


def make_pairs(source: str, n_pairs: int | None, seed: int = 0, half: str | None = None, **options) -> list[Pair]:
    """Pairs from ``source``: ``embedded``, a hub version ``v1`` ... ``v4``, or the path of a ``.jsonl`` file."""
    if source == "embedded":
        return embedded_pairs(200 if n_pairs is None else n_pairs, seed, half, **options)
    if str(source).endswith(".jsonl"):
        return file_pairs(source, n_pairs, half)
    return hub_pairs(source, n_pairs, half)

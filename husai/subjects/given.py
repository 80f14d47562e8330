"""A subject that is known by activation rows alone: its files, and the splits of their rows."""

from __future__ import annotations

from pathlib import Path

from husai.activations import SPLITS, ActivationStore, StoreWriter
from husai.activations.files import open_rows
from husai.activations.store import HEADER
from husai.errors import HusaiError
from husai.provenance import read_json, sha256_file

SHARES = {"train": 0.8, "held_out": 0.1, "confirmation": 0.1}
"""Share of the rows of each split, where fewer are not asked for."""
BLOCK = 65_536
"""Rows copied at once."""


def describe(path: str, hook_name: str) -> dict:
    """File, SHA-256, number and width of the rows of a hook."""
    file = Path(path.replace("{hook}", hook_name)).expanduser()
    rows = open_rows(file, split="train")
    hashed = rows.path / HEADER if isinstance(rows, ActivationStore) else file
    n_rows, d = (rows.n_rows, rows.d) if isinstance(rows, ActivationStore) else rows.shape
    return {"path": str(file), "sha256": sha256_file(hashed), "n_rows": int(n_rows), "d": int(d)}


def store_given(
    model_dir: Path, hook_name: str, out: Path, wanted: dict[str, int], dtype: str
) -> dict[str, int]:
    """Write the splits of the rows of a hook as stores, ``out/{split}``; returns rows per split.

    The splits are stretches of the file in its own order, so that rows of one text, which follow
    each other, are in one split.

    Raises
    ------
    HusaiError
        No rows of that hook, a file that changed since, or too few rows.
    """
    known = read_json(model_dir / "config.json")["rows"]
    if hook_name not in known:
        raise HusaiError(f"{model_dir}: no rows of hook '{hook_name}'; it has {', '.join(known)}")
    record = known[hook_name]
    if describe(record["path"], hook_name) != record:
        raise HusaiError(f"{record['path']}: changed since the subject was made; make it again")
    rows = open_rows(record["path"], split="train")
    stored, start = {}, 0
    for split in SPLITS:
        room = int(SHARES[split] * record["n_rows"])
        n = min(wanted.get(split, room), room)
        if n < 1:
            raise HusaiError(f"{record['path']}: {record['n_rows']} rows are too few to be split")
        meta = {"hook_name": hook_name, "split": split}
        with StoreWriter(out / split, record["d"], dtype=dtype, meta=meta) as writer:
            for first in range(start, start + n, BLOCK):
                stop = min(first + BLOCK, start + n)
                is_store = isinstance(rows, ActivationStore)
                writer.append(rows.rows(first, stop) if is_store else rows[first:stop])
        stored[split], start = n, start + room
    return stored

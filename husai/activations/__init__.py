"""Activations on disk and the shuffled reading of them: fixed-size rows, checksummed shards,
bounded memory whatever the number of rows.
"""

from husai.activations.reader import BatchReader
from husai.activations.store import ActivationStore, Rows, width
from husai.activations.writer import StoreWriter, write_store

SPLITS = ("train", "held_out", "confirmation")

__all__ = [
    "SPLITS",
    "ActivationStore",
    "BatchReader",
    "Rows",
    "StoreWriter",
    "width",
    "write_store",
]

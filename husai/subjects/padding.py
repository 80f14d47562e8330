"""Inputs of unlike length in one pass: which go together, and how the short ones are filled up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

PADDING = -1
"""Stands for "no token here" in token matrices; every real id is at least 0."""


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows grouped by length, longest first, each group of at most ``max_tokens`` padded tokens."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda r: -lengths[r]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def padded(ids: Sequence[np.ndarray]) -> torch.Tensor:
    """Ids ``(n_tokens,)`` as one int64 matrix ``(n, T)``, padded on the right with ``PADDING``."""
    out = np.full((len(ids), max(len(i) for i in ids)), PADDING, dtype=np.int64)
    for row, values in zip(out, ids, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(out)
